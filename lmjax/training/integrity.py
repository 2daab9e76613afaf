"""SHA-256 sums of files, kept beside them, which show if a file has changed.

Orbax finds many damaged files by itself, but not all: of files of arrays with a bit flipped or cut short, one in eight
gave other numbers without an error.
"""

import hashlib
import json
from pathlib import Path

from lmjax import files
from lmjax.errors import reason

NAME, NOTES = "checksums.json", "_CHECKPOINT_METADATA"

_TIMES = "init_timestamp_nsecs", "commit_timestamp_nsecs"
_TABLES = "metrics", "performance_metrics", "custom_metadata"


def seal(directory: Path) -> None:
    """Write checksums.json: the SHA-256 of every file in the subfolders of a checkpoint; sync everything to the disk.

    Files directly in the checkpoint's folder have no sum, since Orbax changes its metadata there afterwards; see
    `sound_notes`.
    """
    paths = sorted(directory.glob("*/**/*"))
    found = {path.relative_to(directory).as_posix(): _sum(path) for path in paths if path.is_file()}
    files.write(directory / NAME, json.dumps(found, indent=0), durable=False)
    for path in (*directory.rglob("*"), directory):
        files.sync(path)


def sound_notes(directory: Path) -> bool:
    """False if the metadata file that Orbax writes beside a checkpoint would make Orbax fail.

    Orbax does not need the file: it ignores a missing one, and text that is not JSON. It fails on JSON of other types
    than its own, and on what is not a regular file, such as a pipe.
    """
    try:
        notes = json.loads(files.read(directory / NOTES))
        handlers, times = notes.get("item_handlers") or {}, [notes.get(key) for key in _TIMES]
        tables = [notes.get(key) or {} for key in _TABLES]
        return all(isinstance(table, dict) for table in (handlers, *tables)) and all(
            type(value) in (int, type(None)) for value in times
        )
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return True
    except (OSError, ValueError, RecursionError, AttributeError):
        return False


def sums(directory: Path) -> dict[str, str] | None:
    """The sums in a folder's checksums.json; None if the file is missing or damaged, and so proves nothing."""
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
