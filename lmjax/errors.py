"""Errors that are the user's to mend: one message that names the thing and the cure.

A command prints an `InputError` without a traceback; everything else is a bug of ours and keeps its traceback.
"""

import difflib
import importlib
import os
import re
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """A mistake of the user; the message names it and the cure."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """The error for a `name` that is none of `choices`, with the nearest ones suggested.

    Args:
        kind: what the name was meant to name, e.g. "stepper".
        name: what was given.
        choices: every name that would have done.
    """
    choices = sorted(set(choices))
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known: {', '.join(choices)}")


def optional_import(module: str, *, package: str, purpose: str) -> ModuleType:
    """Import a package that only some users need.

    Args:
        module: the dotted name to import.
        package: what `pip install` calls it.
        purpose: what it is needed for, completing "<purpose> needs <package>".

    Raises:
        InputError: if it is not installed, with the pip command that installs it.
    """
    root = module.partition(".")[0]
    try:
        importlib.import_module(root)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise  # it is installed and something that it needs is missing: not ours to explain away
        raise InputError(f"{purpose} needs {package}, which is not installed: pip install {package}") from error
    return importlib.import_module(module)


def reason(error: BaseException) -> str:
    """The cause of an error in one line: the words of the operating system where it has some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if code := re.search(r"os_error_code='(\d+)'", text):  # as tensorstore says it
        return os.strerror(int(code[1]))
    line = next(iter(text.splitlines()), "") or type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}..."
