"""Printing: lines, notes, and streams that go on when what they write cannot be written."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Generator, Sequence
from typing import Any

import jax

_QUIET = [False]
# Escapes for control characters: the name of a file may contain commands to a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@contextlib.contextmanager
def quiet(wanted: bool = True) -> Generator[None, None, None]:
    """While this is entered, `say` prints results alone."""
    before, _QUIET[0] = _QUIET[0], wanted
    try:
        yield
    finally:
        _QUIET[0] = before


@contextlib.contextmanager
def no_logging() -> Generator[None, None, None]:
    """While this is entered, packages log nothing: the errors that they raise say what matters."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def say(text: str, *, result: bool = False) -> None:
    """Print a line on the standard output, in the first process alone.

    Args:
        text: the line.
        result: it is a result of the program, which is printed even where it is to be `quiet`.
    """
    if jax.process_index() == 0 and (result or not _QUIET[0]):
        show(text)


def printable(text: str) -> str:
    """The text with what would control a terminal, or is no Unicode, escaped."""
    return text.encode(errors="backslashreplace").decode().translate(_CONTROLS)


def show(text: str) -> None:
    """Print a line on the standard output, in any process. What would control a terminal is escaped."""
    print(printable(text), flush=True)


def warn(text: str) -> None:
    """Print a line on the standard error, in any process."""
    print(printable(text), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a line on the standard error, in the first process alone."""
    if jax.process_index() == 0:
        warn(text)


class _Lossy(io.FileIO):
    """A file that loses what cannot be written: on a full disk, to a reader or a terminal that is gone."""

    def write(self, data: Any, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(data) or len(data)  # None: the reader is too slow, and the stream does not block
        return len(data)


@contextlib.contextmanager
def lossy() -> Generator[None, None, None]:
    """Inside it, nothing that is printed can end the program: what cannot be written is lost.

    Characters that the encoding of a stream lacks are escaped. Streams that were replaced before, as in a notebook, are
    left alone.
    """
    with contextlib.ExitStack() as stack:
        for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
            with contextlib.suppress(OSError):
                _keep_open(descriptor)
            stream = getattr(sys, name)
            if descriptor and stream is getattr(sys, f"__{name}__"):
                setattr(sys, name, _like(stream, descriptor))
                stack.callback(setattr, sys, name, stream)
                stack.callback(getattr(sys, name).flush)
        yield


def few(names: Sequence[Any], most: int = 5) -> str:
    """The first names of many, "a, b and 3 more"; "nothing" if there is none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "nothing"


def duration(seconds: float) -> str:
    """1.5 -> "1.5 s", 9000 -> "2 h 30 min"."""
    if seconds < 120:
        return f"{seconds:.{int(seconds < 10)}f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def tell(text: str) -> None:
    """Write a line to the standard error from a handler of signals, where `print` may already be at work."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _keep_open(descriptor: int) -> None:
    """Open a descriptor that was closed: the next file would get its number, and be written over by what is printed."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _like(stream: io.TextIOWrapper | None, descriptor: int) -> io.TextIOWrapper:
    """A text stream to the same place that loses what cannot be written; None was closed when Python started."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    with contextlib.suppress(OSError):
        stream.flush()
    file = _Lossy(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file), encoding=stream.encoding, errors="backslashreplace",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip
