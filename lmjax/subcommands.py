"""Programs of several commands, each in a file of its own."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from lmjax import console
from lmjax.errors import InputError


@console.lossy()
def run(prog: str, description: str, commands: Sequence[ModuleType], arguments: Sequence[str] | None) -> int:
    """Runs the command that the arguments name; prints an `InputError` without a traceback.

    Args:
        prog, description: of the program, for --help.
        commands: the `add` of each adds a parser, whose option `run` is what to call.
        arguments: the words after the program's name; None takes the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in commands:
        command.add(parsers)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
