"""Whether files are still what was written: a list of their SHA-256 sums that lies beside them.

Orbax finds many damaged files by itself, but not all: of single bits flipped in the files that hold the arrays, one in
eight gave other numbers without an error.
"""

import hashlib
import json
from pathlib import Path

from lmjax import files

NAME = "checksums.json"


def seal(directory: Path) -> None:
    """List the files that are in the folders of a folder now, with their sums, and bring all of it to the disk.

    Files of the folder itself are left out: Orbax notes there later when it was done.
    """
    files.write(directory / NAME, json.dumps({name: _sum(directory / name) for name in _listed(directory)}, indent=0))
    for path in directory.rglob("*"):
        files.sync(path)


def sums(directory: Path) -> dict[str, str] | None:
    """The sums that lie in a folder; None if they are missing or cut short, so that nothing can be judged by them."""
    try:
        found = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and found and all(isinstance(value, str) for value in found.values())
    return found if whole else None


def damage(directory: Path) -> str | None:
    """Name a file of a folder that is not what was written; None if there is none, or nothing to compare with."""
    try:
        for name, expected in (sums(directory) or {}).items():
            if not (directory / name).is_file():
                return f"{name} is missing"
            if _sum(directory / name) != expected:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    return None


def _listed(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.glob("*/**/*") if path.is_file())


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
