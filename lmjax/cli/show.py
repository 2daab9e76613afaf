"""`lmjax list`, `lmjax published` and `lmjax completion`."""

import contextlib
import io
import re
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from lmjax import cli, data, networks, optimizers, registry, schedules, steppers  # noqa: F401
from lmjax.command_line import Command, read
from lmjax.console import show
from lmjax.errors import unknown
from lmjax.results import published


class List(Command):
    """All that has a name, with its arguments and what it is."""

    kinds: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="KIND")] = ()
    """Such as steppers or networks; all kinds if none is given."""

    def run(self) -> None:
        """Print each kind, and its parts."""
        for kind in self.kinds:
            if kind not in registry.KINDS:
                raise unknown("kind", kind, registry.KINDS)
        for kind in self.kinds or registry.KINDS:
            show(f"{kind}:")
            for part in registry.KINDS[kind].describe():
                show(f"  {part.name}{part.signature}\n      {part.summary}")


class Published(Command):
    """The published rows, with their parameters, cost and error."""

    tables: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="TABLE")] = ()
    """Such as cifar10; all tables if none is given."""

    def run(self) -> None:
        """Print the tables."""
        for name in self.tables:
            if name not in published.TABLES:
                raise unknown("table", name, published.TABLES)
        for name in self.tables or published.TABLES:
            for line in published.describe(name):
                show(line)


class Completion(Command):
    """The script with which a shell completes commands and options: eval "$(lmjax completion bash)"."""

    shell: Positional[Literal["bash", "zsh"]]
    """The shell."""

    def run(self) -> None:
        """Print the script."""
        script = io.StringIO()
        with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
            read(cli.form(cli.COMMANDS), ["--tyro-write-completion", self.shell, "-"], prog="lmjax")
        # The shell would take each line of a help text for a completion.
        show(re.sub("^COMPLETION_SPEC = .*", lambda found: found[0].replace(r"\n", " "), script.getvalue(), flags=re.M))
