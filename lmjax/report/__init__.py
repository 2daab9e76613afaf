"""One HTML page about runs, to be read anywhere: `python -m lmjax.report RUN [RUN ...] --out report.html`.

The page is one file without anything from elsewhere. It has a table, learning curves, the learned coefficients, error
against parameters, and what the networks are wrong about.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmjax import command_line, console, files, runtime
from lmjax.errors import InputError, optional_import, reason, unknown
from lmjax.report.page import page
from lmjax.report.runs import Row, read

__all__ = ["main", "write"]

_ROWS_WITH_IMAGES = 6  # by default: a network has to be evaluated for each


def write(
    directories: Sequence[str | Path],
    out: str | Path,
    *,
    images: bool = True,
    images_of: Sequence[str] | None = None,
    data_dir: str | None = None,
) -> Path:
    """Writes the report on runs.

    Args:
        directories: the folder of a run, or of several seeds, each. Runs that differ only in the seed are one row.
        out: the file to write; another report there is replaced.
        images: show what the networks are wrong about, which takes an evaluation of each.
        images_of: the names of the rows to do that of; None for all, at most the six with the lowest error.
        data_dir: where the data is now, if it is not where it was in training.

    Returns:
        The path of the file.

    Raises:
        InputError: naming the folder that is not that of a run, the file in it that cannot be read, or a row that is
            none; if matplotlib is missing, or the report cannot be written.
    """
    out = files.local(out, "--out")
    _require_place(out)
    optional_import("matplotlib", package="matplotlib", purpose="a report")
    rows = read(directories)
    shown, without = _with_images(rows, images, images_of)
    text = page(rows, images=shown, without=without, data_dir=data_dir)
    with _failure_is_named(out):
        files.write(out, text)
    return out


def _require_place(out: Path) -> None:
    """Check, before the networks are evaluated, that the file can be written."""
    with _failure_is_named(out):
        if out.is_dir():
            raise InputError(f"--out {out}: is a folder: name a file in it")
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.parent}: make it first")
        tempfile.TemporaryFile(dir=out.parent).close()


@contextlib.contextmanager
def _failure_is_named(out: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"--out {out}: cannot be written ({reason(error)})") from error


def _with_images(rows: list[Row], images: bool, wanted: Sequence[str] | None) -> tuple[list[Row], str]:
    """The rows to show mistakes of, and what to say of the others."""
    if not images:
        return [], "Left out, by python -m lmjax.report --no-images."
    if wanted is not None:
        names = {row.name: row for row in rows}
        for name in wanted:
            if name not in names:
                raise unknown("run in --images-of", name, names)
        return [names[name] for name in dict.fromkeys(wanted)], ""
    if len(rows) <= _ROWS_WITH_IMAGES:
        return rows, ""
    errors = [row.error() for row in rows]
    order = sorted(range(len(rows)), key=lambda i: float("inf") if errors[i] is None else errors[i][0])
    chosen = sorted(order[:_ROWS_WITH_IMAGES])
    return [rows[i] for i in chosen], (
        f"Of the {len(chosen)} runs with the lowest error: each has to be evaluated. "
        "python -m lmjax.report --images-of NAME chooses others."
    )


@console.lossy()
def main(arguments: list[str] | None = None) -> int:
    """Writes a report; prints an `InputError` without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m lmjax.report", description="One HTML page about runs, which needs nothing else to be read."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, or of several seeds")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the file to write (report.html)")
    parser.add_argument(
        "--config", metavar="FILE", help="a Python file to run first, which registers schemes of your own"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the data is now, if it has moved")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-images", action="store_true", help="no confusion and no misclassified images")
    which.add_argument(
        "--images-of", metavar="NAME", nargs="+", help="show those of these rows of the table; else of the best six"
    )
    options = parser.parse_args(arguments)
    runtime.start()
    try:
        if options.config is not None:
            command_line.rows(options.config)
        out = write(
            options.runs, options.out, images=not options.no_images, images_of=options.images_of,
            data_dir=options.data_dir,
        )  # fmt: skip
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB)")
    return 0
