"""Looks at schemes and at trained networks, from the command line. A file for each command."""

import argparse
import sys

from lmjax import runtime
from lmjax.analysis import coefficients, curves, modified_equation, order, refinement, robustness, stability, trajectory
from lmjax.errors import InputError

# The `add` of each adds a parser, whose option `run` is what to call.
COMMANDS = (order, stability, modified_equation, coefficients, curves, trajectory, refinement, robustness)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; prints an `InputError` without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m lmjax.analysis", description="Looks at schemes, and at trained networks."
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


if __name__ == "__main__":
    # Not runtime.start(): what looks at runs is no process of one.
    runtime.quieten_orbax()
    runtime.cache_programs()
    if runtime.cpu_only():
        runtime.keep_memory()
    sys.exit(main())
