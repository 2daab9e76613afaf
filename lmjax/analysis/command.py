"""What the commands have in common: which schemes, what they print, and where the picture goes."""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax import command_line, drawing, files
from lmjax.analysis.scheme import Scheme, schemes
from lmjax.errors import InputError


def add_schemes(parser: Any, *, nargs: str = "+") -> None:
    """Adds the schemes, and what makes them, to an argparse parser."""
    parser.add_argument(
        "schemes", nargs=nargs, metavar="SCHEME", help='as --model.stepper takes them: rk4, "lm(-0.5, -0.5)", ...'
    )
    parser.add_argument(
        "--k",
        type=_finite,
        help="the coefficient of lm and of others that have one; else the mean of its initial values",
    )
    add_config(parser)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def add_run_folders(parser: Any) -> None:
    """Adds the runs to look at to an argparse parser."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, or of several seeds of one"
    )


def add_config(parser: Any) -> None:
    """Adds the option for schemes of one's own to an argparse parser."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a Python file to run first, which registers schemes of your own"
    )


def run_config(options: Any) -> None:
    """Runs the file that the option of `add_config` names."""
    if options.config is not None:
        command_line.rows(options.config)


def chosen_schemes(options: Any) -> list[Scheme]:
    """The schemes that the options of `add_schemes` name; see `schemes`."""
    run_config(options)
    chosen = schemes(options.schemes, options.k)
    if options.k is None and any(scheme.coef is not None for scheme in chosen):
        print("Coefficients have the mean of their initial distribution; --k gives another.")
    return chosen


def add_out(parser: Any) -> None:
    """Adds the option for the picture to an argparse parser."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="the picture to write: .png, .svg, .pdf, ...")


def require_out(path: Path | None) -> None:
    """Checks, before the work, that a picture can be written there.

    Raises:
        InputError: if matplotlib is missing or knows no such format, or the folder does not exist or is read-only.
    """
    if path is None:
        return
    files.local(path, "--out")
    if path.stem in ("config", "metrics", "summary") and (path.parent / "config.json").exists():
        raise InputError(f"--out {path}: would take the place of what the run in {path.parent} has recorded: rename it")
    formats = drawing.figure(1, 1, purpose="drawing").canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise InputError(f"--out {path}: is no picture: end it in one of {', '.join('.' + name for name in formats)}")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}: make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--out {path}: cannot be written: choose another place")


def save(figure: Any, path: Path) -> None:
    """Writes a picture, and says so.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        drawing.save(figure, path)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror})") from error
    print(f"\npicture: {path}")


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows of which the first is the head: a column of words, then columns of numbers."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        numbers = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([f"{first:{widths[0]}}", *numbers]).rstrip())
