"""The parts that configs choose from: `python -m lmjax list [KIND]`."""

import argparse
import sys

from lmjax import data, networks, optimizers, output, registry, schedules, steppers  # noqa: F401  each registers its parts
from lmjax.errors import unknown


@output.lossy()
def main(arguments: list[str] | None = None) -> int:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m lmjax", description="Parts by name.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="list the parts of a kind, or of all")
    listing.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(registry.KINDS))
    kind = parser.parse_args(arguments).kind
    if kind is not None and kind not in registry.KINDS:
        print(f"error: {unknown('kind', kind, registry.KINDS)}", file=sys.stderr)
        return 2
    for plural in registry.KINDS if kind is None else (kind,):
        print(f"{plural}:")
        for part in registry.KINDS[plural].describe():
            print(f"  {part.name}{part.signature}\n      {part.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
