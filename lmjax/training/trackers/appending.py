"""The part that trackers have in common whose rows cannot be changed once they are sent."""

import json
from pathlib import Path
from typing import Any, ClassVar

from lmjax import files
from lmjax.config import Config
from lmjax.errors import optional_import
from lmjax.training.trackers.tracker import histograms, scalars


class Appending:
    """A tracker that sends the row of an epoch once a checkpoint contains it: see `Tracker`.

    So no epoch is sent that a kill or a rollback undoes later. A file in the folder of the run, such as wandb.json, has
    the id under which the tool knows the run, to go on with it, and the last step that was sent, so that none is
    sent twice.
    """

    NAME: ClassVar[str]
    """That of the tool: the choice of --log, its module and its package."""

    def __init__(self, directory: Path, config: Config):
        self._directory, self._config = directory, config
        self._note = directory / f"{self.NAME}.json"
        self._id: str | None = None
        self._run: Any = None
        self._told = -1
        self._waiting: list[dict[str, Any]] = []

    @classmethod
    def require(cls) -> None:
        cls._module()

    def begin(self, rows: list[dict[str, Any]]) -> None:
        if self._id is None:
            before = json.loads(files.read(self._note)) if self._note.exists() else {}
            self._told = before.get("step", -1)
            self._id = self._start("/".join(self._directory.parts[-2:]), before.get("id"))
            self._write_down()
        self._waiting = list(rows)
        self.saved()

    def log(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)

    def saved(self) -> None:
        for row in self._waiting:
            if row["step"] > self._told:
                self._send(row)
                self._told = row["step"]
        self._waiting = []
        self._write_down()

    def close(self, finished: bool) -> None:
        if self._id is not None:
            self._finish(finished)

    @classmethod
    def _module(cls) -> Any:
        return optional_import(cls.NAME, package=cls.NAME, purpose=f"--log {cls.NAME}")

    def _start(self, name: str, before: str | None) -> str:
        """Start a run of this name, or go on with the one of this id, as self._run; returns its id."""
        raise NotImplementedError

    def _send(self, row: dict[str, Any]) -> None:
        """Send the row of an epoch: scalars, and the coefficients as histograms."""
        drawn = {name: self._module().Histogram(values) for name, values in histograms(row).items()}
        self._run.log(scalars(row) | drawn, step=row["step"])

    def _finish(self, finished: bool) -> None:
        """Send what is left; see `Tracker.close`."""
        raise NotImplementedError

    def _write_down(self) -> None:
        files.write(self._note, json.dumps({"id": self._id, "step": self._told}) + "\n")
