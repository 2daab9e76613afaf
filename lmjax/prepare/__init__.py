"""Prepares data sets of photographs, once: what `python -m lmjax.prepare` runs. A file for each command."""

import argparse
import sys

from lmjax.errors import InputError
from lmjax.prepare import imagenet, resize, validation

COMMANDS = (imagenet, validation, resize)  # the `add` of each adds a parser, whose option `run` is what to call


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; prints an `InputError` without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m lmjax.prepare", description="Prepares data sets of photographs for training."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
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
