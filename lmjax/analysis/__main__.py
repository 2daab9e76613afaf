"""Looks at schemes and at trained networks, from the command line. A file for each command."""

import sys

from lmjax import runtime, subcommands
from lmjax.analysis import coefficients, curves, modified_equation, order, refinement, robustness, stability, trajectory

COMMANDS = (order, stability, modified_equation, coefficients, curves, trajectory, refinement, robustness)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command."""
    return subcommands.run(
        "python -m lmjax.analysis", "Looks at schemes, and at trained networks.", COMMANDS, arguments
    )


def run(arguments: list[str] | None = None) -> int:
    """Run a command in a process of its own."""
    # Not runtime.start(): what looks at runs is no process of one.
    runtime.quieten_orbax()
    runtime.cache_programs()
    if runtime.cpu_only():
        runtime.keep_memory()
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run())
