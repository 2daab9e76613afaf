"""Names of what a run has in shared memory, by which the next one finds what a killed one has left there.

Python removes it at the end of a process, by another process. Where both are killed, it stays for ever.
"""

import contextlib
import functools
import multiprocessing
import os
import re
import secrets
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

_FOLDER, _PROCESSES = Path("/dev/shm"), Path("/proc")  # of Linux; elsewhere nothing is named or removed
_NAME = re.compile(r"(?:sem\.)?(lmjax-\d+-)(\d+)-(\d+)-")


@functools.cache
def mark() -> str:
    """Remove what runs that were killed have left, and return the prefix of the names of this process."""
    try:
        # The number of a process means nothing in another container, which may have the same folder.
        system = f"lmjax-{os.stat(_PROCESSES / 'self/ns/pid').st_ino}-"
        paths = list(_FOLDER.iterdir())
    except OSError:
        return ""
    for path in paths:
        found = _NAME.match(path.name)
        if found and found[1] == system and _start(int(found[2])) != int(found[3]):
            with contextlib.suppress(OSError):  # it is another user's, or another run is removing it
                path.unlink()
    name = f"{system}{os.getpid()}-{_start(os.getpid())}-"
    process: Any = multiprocessing.current_process()
    process._config["semprefix"] = f"/{name}"  # of the semaphores that it makes from now on
    return name


def use(name: str) -> None:
    """Have what this process puts into shared memory named after the one that has called `mark`."""
    module: Any = shared_memory
    if name:
        module._make_filename = lambda: f"/{name}{secrets.token_hex(8)}"


def room() -> str:
    """The size of the shared memory, in words; "" where it has no folder."""
    if not _FOLDER.is_dir():
        return ""
    found = os.statvfs(_FOLDER)
    free, size = (count * found.f_frsize / 2**20 for count in (found.f_bavail, found.f_blocks))
    return f" {_FOLDER} has {size:,.1f} MiB, of which {free:,.1f} are free (in Docker: --shm-size)."


def _start(process: int) -> int | None:
    """The time at which a process was started, in ticks; None if there is none of this number."""
    try:
        text = (_PROCESSES / str(process) / "stat").read_text()
        return int(text.rpartition(")")[2].split()[19])  # its name, in brackets, may have anything in it
    except OSError:
        return None
