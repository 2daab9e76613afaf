"""Local files: names and contents that come from elsewhere, and writing that a crash or a power cut leaves whole."""

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from lmjax.errors import InputError, reason

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a path of pathlib has lost the second slash; C:/ is no scheme
_LARGEST = 2**30  # bytes of a text that is read whole
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # file systems that cannot sync, mostly folders


def local(place: str | Path, option: str) -> Path:
    """The path that an option gives, with the home folder for ~.

    Args:
        place: the path, as it was given.
        option: how the message begins: "--out", "data.dir:".

    Raises:
        InputError: if it is the address of another store, as "gs://bucket/run".
    """
    if found := _SCHEME.match(str(place)):
        scheme = found[0][:-2]
        ways = "copy from or to the other place"
        if scheme == "gs":
            ways = (
                "copy it with gcloud storage rsync -r, or mount a bucket that has a hierarchical namespace "
                "(Cloud Storage FUSE)"
            )
        raise InputError(f"{option} {place}: {scheme}:// is not supported: name a folder of this machine, and {ways}")
    return Path(os.path.expanduser(place))


def inside(root: Path, *names: str) -> Path:
    """The path of names, one a level, that a file or a data set has given, below a folder.

    Raises:
        InputError: if a name is more than a name ("../x", "/x"), is hidden or empty, or is a link there: what is
            written to the path would then be elsewhere.
    """
    path = root
    for name in names:
        if not name or name.startswith(".") or re.search(r"[/\\\x00]", name):
            raise InputError(f"{name!r} cannot be the name of a file or a folder in {root}: rename it at its source")
        path = path / name
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and nothing is written through one: delete it, or name another folder"
            )
    return path


@contextlib.contextmanager
def writing(path: Path, option: str = "") -> Generator[None, None, None]:
    """Inside it, what keeps a path from being written is an InputError that names it as the option does."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"{option} {path}: cannot be written ({reason(error)})".lstrip()) from error


def require_place(path: Path, option: str) -> None:
    """Check, before the work, that a file can be written.

    Raises:
        InputError: if it is a folder or in none, a run has recorded something there, or the folder cannot be written.
    """
    with writing(path, option):
        if path.is_dir():
            raise InputError(f"{option} {path}: is a folder: name a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}: make it first")
        if path.name in ("config.json", "metrics.jsonl", "summary.json") and (path.parent / "config.json").exists():
            raise InputError(
                f"{option} {path}: would take the place of what the run in {path.parent} has recorded: rename it"
            )
        if path.is_file() or not path.exists():  # else a device, which is written to itself
            tempfile.TemporaryFile(dir=path.parent).close()


def read(path: Path) -> str:
    """The text of a file, UTF-8.

    Raises:
        OSError: if it cannot be read, or is no file: a pipe or a device may have no end.
        ValueError: if it is no text, or too long to be one.
    """
    with open(path, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        if status.st_size > _LARGEST:
            raise ValueError(f"it has {status.st_size:,} bytes")
        return file.read().decode()


def without_waiting(path: str | Path, flags: int) -> int:
    """Open a file; a pipe, too, which otherwise waits for someone to write into it. An `opener` of `open`."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # not on Windows


def write(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file whole: whatever happens in between, it is either the old one or the new one.

    A link of its name is replaced, not followed; a device or a pipe, such as /dev/stdout, is written to.

    Args:
        path: of the file, in a folder that is there.
        content: text is encoded as UTF-8; what cannot be, of a name that is no text, is escaped.
        durable: return only when it has reached the disk. Otherwise a power cut may leave an empty file.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if os.path.exists(path) and not os.path.isfile(path):
        with path.open("wb") as file:
            file.write(data)
        return
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            if durable:
                _bring(file)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, made if it is not there, and bring it to the disk. No link is followed."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags, 0o666), "ab") as file:
        file.write(text.encode())
        _bring(file)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they outlive a power cut."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync(each.parent)


def sync(path: Path) -> None:
    """Bring a file to the disk; or the names in a folder, without what the files hold."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read; on Windows, every folder
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _bring(file: BinaryIO) -> None:
    file.flush()
    _sync(file.fileno())


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
