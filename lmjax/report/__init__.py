"""One HTML page about runs, to be read anywhere: `lmjax report RUN [RUN ...] --out report.html`.

The page is one file without anything from elsewhere. It has a table, learning curves, the learned coefficients, error
against parameters, and what the networks are wrong about.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmjax import files
from lmjax.errors import InputError, optional_import, reason, unknown
from lmjax.report.page import page
from lmjax.report.runs import Row, read

__all__ = ["write"]

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
        return [], "Left out, by lmjax report --no-images."
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
        "lmjax report --images-of NAME chooses others."
    )
