"""Runs a table of experiments, or goes on with it, and says what it has come to.

python -m lmjax.reproduce                                     # which tables there are, and what they cost
python -m lmjax.reproduce digits                              # run one; the same command goes on after an interruption
python -m lmjax.reproduce small --data-dir DIR --data-note "CIFAR-10 as JPEG of quality 75"
python -m lmjax.reproduce small --only-report --export results/small --page docs/results.md
python -m lmjax.reproduce small --out results/small --only-report
"""

import argparse
from pathlib import Path

import jax

from lmjax import console, files, runtime
from lmjax.console import say
from lmjax.errors import InputError
from lmjax.reproduce import results, runs, writing
from lmjax.reproduce.tables import TABLES, Table, table
from lmjax.training import Stopped, program

_MOST = 1000  # seeds


@console.lossy()
def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; returns the exit code, which is that of train.py."""
    options = _parser().parse_args(arguments)
    return program.run(lambda: _work(options))


def _work(options: argparse.Namespace) -> None:
    place = _check(options)
    diverged = []
    if options.table is not None and not options.only_report:
        for text in runtime.start(seeds=options.at_once or options.seeds or 8):
            say(text)
        diverged = _make(table(options.table), options)
    if jax.process_index() == 0:  # the others have done their part
        _report(options, place)
    if diverged:
        raise InputError(f"these runs have diverged, and are missing in the table: {'; '.join(diverged)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lmjax.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the runs; below runs/ if it is left out")
    parser.add_argument("--seeds", type=_count, metavar="N", help="from 0 to N - 1, instead of what the table asks for")
    parser.add_argument(
        "--at-once", type=_count, metavar="N", help="seeds side by side; one a device, or a core of a CPU"
    )
    parser.add_argument("--data-name", metavar="NAME", help="how CIFAR-10 is stored: cifar10, folder")
    parser.add_argument("--data-dir", metavar="DIR", help="where it is")
    parser.add_argument("--data-note", metavar="TEXT", help="what to say of the data beside the numbers")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--export", type=Path, metavar="DIR", help="copy what the runs have recorded, to be kept")
    parser.add_argument(
        "--page", type=Path, nargs="+", default=[], metavar="FILE", help="put the table where these pages have it"
    )
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST:,}, got {text!r}")
    return int(text)


def _check(options: argparse.Namespace) -> str:
    """Refuses options that would do nothing, and places where nothing can be put, before hours go into runs.

    Fills in the folder of the runs, and returns what the place in the pages is called.
    """
    making = {"--seeds": options.seeds, "--at-once": options.at_once, "--data-name": options.data_name}
    making |= {"--data-dir": options.data_dir, "--data-note": options.data_note}
    using = {"--out": options.out, "--export": options.export, "--only-report": options.only_report or None}
    given = [name for name, value in (making | using).items() if value is not None]
    if options.table is None and given:
        raise InputError(f"{given[0]}: of which table? Name one: {', '.join(TABLES)}")
    if options.only_report and (useless := [name for name in making if name in given]):
        raise InputError(f"{useless[0]}: is for making runs, and --only-report makes none")
    for name in ("--out", "--export"):
        if using[name] is not None:
            files.local(using[name], name)
    place = "tables"
    if options.table is not None:
        wanted, place = table(options.table), f"table {options.table}"
        options.out = options.out or Path("runs", wanted.folder)
        if options.data_name not in (None, *wanted.images.stored):
            others = f"choose from {', '.join(wanted.images.stored)}" if wanted.images.stored else "leave it out"
            raise InputError(f"--data-name {options.data_name}: does not hold the images of this table: {others}")
        if options.export is not None:
            results.require_place(options.out, options.export)
    for page in options.page:
        writing.require_place(page, place)
    return place


def _make(wanted: Table, options: argparse.Namespace) -> list[str]:
    data = {key: value for key, value in (("name", options.data_name), ("dir", options.data_dir)) if value}
    results.note(options.out)  # before hours go into runs that cannot be told of
    if options.data_note and jax.process_index() == 0:
        results.write_note(options.out, options.data_note)
    try:
        return runs.make(wanted, options.out, count=options.seeds, at_once=options.at_once, data=data)
    except Stopped as stop:
        raise Stopped("stopped, and all is saved: the same command goes on", stop.code) from stop


def _report(options: argparse.Namespace, place: str) -> None:
    text = writing.tables() if options.table is None else writing.markdown(table(options.table), options.out)
    say(text)
    for page in options.page:
        writing.update(page, place, text)
    if options.export is not None:
        count = results.export(table(options.table), options.out, options.export)
        say(f"\n{options.export} holds {count} runs of this table now")


if __name__ == "__main__":
    program.end(main())
