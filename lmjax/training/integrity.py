"""SHA-256 sums of files, kept beside them, which show if a file has changed.

Orbax finds many damaged files by itself, but not all: of files of arrays with a bit flipped or cut short, one in eight
gave other numbers without an error.
"""

import hashlib
import json
from pathlib import Path

from lmjax import files
from lmjax.errors import reason

NAME = "checksums.json"


def seal(directory: Path) -> None:
    """Write checksums.json: the SHA-256 of every file in the subfolders of a checkpoint; sync everything to the disk.

    Files directly in the checkpoint's folder have no sum: Orbax changes its metadata there afterwards, which nothing
    depends on.
    """
    paths = sorted(directory.glob("*/**/*"))
    found = {path.relative_to(directory).as_posix(): _sum(path) for path in paths if path.is_file()}
    files.write(directory / NAME, json.dumps(found, indent=0), durable=False)
    for path in (*directory.rglob("*"), directory):
        files.sync(path)


def sums(directory: Path) -> dict[str, str] | None:
    """The sums in a folder's checksums.json; None if the file is missing or damaged: then nothing can be checked."""
    try:
        found = json.loads(files.read(directory / NAME))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and found and all(isinstance(value, str) for value in found.values())
    return found if whole else None


def damage(directory: Path, sums: dict[str, str]) -> str | None:
    """Describe the first file that is missing, unreadable or different from its sum; None if there is no such file."""
    try:
        for name, expected in sums.items():
            if not (directory / name).is_file():
                return f"{name} is missing"
            if _sum(directory / name) != expected:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{error.filename} cannot be read ({reason(error)})"
    return None


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
