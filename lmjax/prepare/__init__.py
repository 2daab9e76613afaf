"""Prepares data sets of photographs, once: what `python -m lmjax.prepare` runs. A file for each command."""

from lmjax import subcommands
from lmjax.prepare import imagenet, resize, validation

COMMANDS = (imagenet, validation, resize)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command."""
    return subcommands.run(
        "python -m lmjax.prepare", "Prepares data sets of photographs for training.", COMMANDS, arguments
    )
