"""Whether files are still what was written: a list of their SHA-256 sums that lies beside them.

Orbax finds many damaged files by itself, but not all: of single bits flipped in the files that hold the arrays, one in
eight gave other numbers without an error.
"""

import hashlib
import json
from pathlib import Path

NAME = "checksums.json"


def seal(directory: Path) -> None:
    """Lists the files that are in the folders of a folder now, with their sums.

    Files of the folder itself are left out: Orbax notes there later when it was done.
    """
    sums = {name: _sum(directory / name) for name in sorted(_files(directory))}
    (directory / NAME).write_text(json.dumps(sums, indent=0))


def damage(directory: Path) -> str | None:
    """What is wrong with the files of a folder that was sealed; None if nothing is."""
    try:
        sums = dict(json.loads((directory / NAME).read_text()))
        for name, expected in sums.items():
            if not (directory / name).is_file():
                return f"{name} is missing"
            if _sum(directory / name) != expected:
                return f"{name} is not what was written"
        if unlisted := sorted(_files(directory) - sums.keys()):
            return f"{unlisted[0]} is not in {NAME}"
        return None if sums else f"{NAME} is empty"
    except FileNotFoundError:
        return f"{NAME} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, TypeError, RecursionError):
        return f"{NAME} is not what was written"


def _files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.glob("*/**/*") if path.is_file()}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
