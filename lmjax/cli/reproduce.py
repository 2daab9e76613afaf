"""`lmjax reproduce`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro
from tyro.conf import Positional

from lmjax import command_line, files, runtime
from lmjax.console import say
from lmjax.errors import InputError
from lmjax.results import plots
from lmjax.results.reproduce import results, runs, writing
from lmjax.results.reproduce.tables import TABLES, Table, table
from lmjax.training import Stopped, program

_MOST = 1000  # seeds


class Reproduce(command_line.Command):
    """Run a table of experiments, or go on with it, and say what it has come to.

    Without a TABLE: which there are, and what they cost. The same command goes on after an interruption. For example

      lmjax reproduce digits
      lmjax reproduce small --data-dir DIR --data-note "CIFAR-10 as JPEG of quality 75"
      lmjax reproduce small --only-report --export results/small --page docs/results.md
      lmjax reproduce small --out results/small --only-report
    """

    table: Annotated[Positional[str | None], tyro.conf.arg(metavar="TABLE")] = None
    """The name of the table."""
    out: Path | None = None
    """The folder of the runs; below runs/ if it is left out."""
    seeds: int | None = None
    """How many seeds, from 0, instead of what the table asks for."""
    at_once: int | None = None
    """Seeds side by side; one a device, or a core of a CPU."""
    data_name: str | None = None
    """How CIFAR-10 is stored: cifar10, folder."""
    data_dir: str | None = None
    """Where it is."""
    data_note: str | None = None
    """What to say of the data beside the numbers."""
    only_report: bool = False
    """Run nothing."""
    export: Path | None = None
    """Copy what the runs have recorded, to be kept, and report on all that is kept there."""
    page: tuple[Path, ...] = ()
    """Put the table where these pages have it."""
    picture: Path | None = None
    """Draw the paired differences here (.png, .svg, .pdf, ...): of all pairs after the last epoch, and by epoch those
    that decide, or have most seeds."""

    def run(self) -> int:
        """Do all of it."""
        return program.run(self._run)

    def _run(self) -> None:
        wanted = None if self.table is None else table(self.table)
        self._check(wanted)
        diverged = []
        if wanted is not None and not self.only_report:
            diverged = self._make(wanted)
        if jax.process_index() == 0:  # the others have done their part
            self._report(wanted)
        if diverged:
            raise InputError(f"these runs have diverged, and are missing in the table: {'; '.join(diverged)}")

    @property
    def _place(self) -> str:
        """The name of the place in the pages."""
        return "tables" if self.table is None else f"table {self.table}"

    def _folder(self, wanted: Table) -> Path:
        return self.out or Path("runs", wanted.folder)

    def _check(self, wanted: Table | None) -> None:
        """Refuse options that would do nothing, and places where nothing can be put, before hours go into runs."""
        for name, count in (("--seeds", self.seeds), ("--at-once", self.at_once)):
            if count is not None and not 1 <= count <= _MOST:
                raise InputError(f"{name}: must be a whole number from 1 to {_MOST:,}, got {count}")
        making = {"--seeds": self.seeds, "--at-once": self.at_once, "--data-name": self.data_name}
        making |= {"--data-dir": self.data_dir, "--data-note": self.data_note}
        using = {
            "--out": self.out,
            "--export": self.export,
            "--picture": self.picture,
            "--only-report": self.only_report or None,
        }
        given = [name for name, value in (making | using).items() if value is not None]
        if wanted is None and given:
            raise InputError(f"{given[0]}: of which table? Name one: {', '.join(TABLES)}")
        if self.only_report and (useless := [name for name in making if name in given]):
            raise InputError(f"{useless[0]}: is for making runs, and --only-report makes none")
        if wanted is not None:
            if self.data_name not in (None, *wanted.images.stored):
                others = f"choose from {', '.join(wanted.images.stored)}" if wanted.images.stored else "leave it out"
                raise InputError(f"--data-name {self.data_name}: does not hold the images of this table: {others}")
            results.note(self._folder(wanted))  # before hours go into runs that cannot be told of
            if self.export is not None:
                results.require_place(self._folder(wanted), self.export)
                results.note(self.export)
            if self.picture is not None:
                plots.require_place(self.picture, "--picture")
        for page in self.page:
            writing.require_place(page, self._place)

    def _make(self, wanted: Table) -> Sequence[str]:
        data = {key: value for key, value in (("name", self.data_name), ("dir", self.data_dir)) if value}
        out = self._folder(wanted)
        for text in runtime.start(seeds=self.at_once or self.seeds or 8):
            say(text)
        for folder in (out, self.export):
            if folder is not None:
                results.collect(wanted, folder)  # what cannot be told of is found before hours go into runs
        if self.data_note and jax.process_index() == 0:
            results.write_note(out, self.data_note)
        try:
            return runs.make(wanted, out, count=self.seeds, at_once=self.at_once, data=data)
        except Stopped as stop:
            raise Stopped("stopped, and all is saved: the same command goes on", stop.code) from stop

    def _report(self, wanted: Table | None) -> None:
        told = self.export or (None if wanted is None else self._folder(wanted))  # with the runs that were kept before
        if self.export is not None:
            count = results.export(wanted, self._folder(wanted), self.export)
            say(f"{self.export} holds {count} runs of this table now\n")
        text = writing.tables() if wanted is None else writing.markdown(wanted, told)
        say(text)
        for page in self.page:
            writing.update(page, self._place, text)
        if self.picture is not None:
            with files.writing(self.picture, "--picture"):
                plots.save(writing.picture(wanted, told), self.picture)
