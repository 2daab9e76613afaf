"""Runs a table of experiments, or goes on with it, and says what it has come to.

python -m lmjax.reproduce                                     # which tables there are, and what they cost
python -m lmjax.reproduce digits                              # run one; the same command goes on after an interruption
python -m lmjax.reproduce small --data-dir DIR --data-note "CIFAR-10 as JPEG of quality 75"
python -m lmjax.reproduce small --only-report --export results/small --page docs/results.md
python -m lmjax.reproduce small --out results/small --only-report
"""

import argparse
import sys
from pathlib import Path

from lmjax import runtime
from lmjax.errors import InputError
from lmjax.reproduce import results, runs, writing
from lmjax.reproduce.tables import TABLES, Table, table
from lmjax.training import Stopped
from lmjax.training.console import say, warn


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; returns the exit code, which is that of train.py."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        if options.table is None:
            _write(writing.tables(), options.page, "tables")
            return 0
        options.out = options.out or Path("runs", options.table)
        wanted = table(options.table)
        diverged = []
        if not options.only_report:
            for note in runtime.start():
                say(note)
            diverged = _make(wanted, options)
        _write(writing.markdown(wanted, options.out), options.page, f"table {options.table}")
        if options.export:
            count = results.export(wanted, options.out, options.export)
            say(f"\n{count} runs are recorded in {options.export}")
        if diverged:
            raise InputError(f"these runs have diverged, and are missing in the table: {'; '.join(diverged)}")
        return 0
    except InputError as error:
        warn(f"error: {error}")
        return 2
    except Stopped as stop:
        say("stopped, and all is saved: the same command goes on")
        return stop.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lmjax.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the runs; runs/TABLE if it is left out")
    parser.add_argument("--seeds", type=_count, metavar="N", help="from 0 to N - 1, instead of what the table asks for")
    parser.add_argument(
        "--at-once", type=_count, metavar="N", help="runs at a time; two on a CPU, one on other devices"
    )
    parser.add_argument("--data-name", choices=("cifar10", "folder"), help="how CIFAR-10 is stored")
    parser.add_argument("--data-dir", metavar="DIR", help="where it is")
    parser.add_argument("--data-note", metavar="TEXT", help="what to say of the data beside the numbers")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--export", type=Path, metavar="DIR", help="copy what the runs have recorded, to be kept")
    parser.add_argument(
        "--page", type=Path, nargs="+", default=[], metavar="FILE", help="put the table where these pages have it"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _write(text: str, pages: list[Path], place: str) -> None:
    for page in pages:
        writing.update(page, place, text)
    say(text)


def _check(options: argparse.Namespace) -> None:
    """Refuses options that would do nothing."""
    making = {"--seeds": options.seeds, "--at-once": options.at_once, "--data-name": options.data_name}
    making |= {"--data-dir": options.data_dir, "--data-note": options.data_note}
    using = {"--out": options.out, "--export": options.export, "--only-report": options.only_report}
    if options.table is None and (useless := [name for name, value in (making | using).items() if value]):
        raise InputError(f"{useless[0]}: of which table? Name one: {', '.join(TABLES)}")
    if options.only_report and (useless := [name for name, value in making.items() if value]):
        raise InputError(f"{useless[0]}: is for making runs, and --only-report makes none")


def _make(wanted: Table, options: argparse.Namespace) -> list[str]:
    data = {key: value for key, value in (("name", options.data_name), ("dir", options.data_dir)) if value}
    default = f"Images of {options.data_dir}" if options.data_dir else wanted.images.name
    results.describe(options.out, options.table, options.data_note, default=default)
    return runs.make(wanted, options.out, count=options.seeds, at_once=options.at_once, data=data)


if __name__ == "__main__":
    sys.exit(main())
