"""The command `lmjax`, which is `python -m lmjax`, too."""

import functools
import inspect
import operator
import os
import pkgutil
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import jax
import tyro

import lmjax
from lmjax import command_line
from lmjax.console import show
from lmjax.errors import unknown

# A summary, and the place of the command, or of several by name: a module is imported for its command alone.
COMMANDS = {
    "train": ("Train a network, from one seed or from several.", "lmjax.cli.train:Train"),
    "evaluate": ("Print the test loss and accuracy of a checkpoint of a run.", "lmjax.cli.train:Evaluate"),
    "predict": ("Print what a trained network says about images.", "lmjax.cli.predict:Predict"),
    "export": ("Write a trained network to a file for other programs.", "lmjax.cli.export:Export"),
    "estimate": ("Compile a run for accelerators that need not be there.", "lmjax.cli.estimate:EstimateRun"),
    "list": ("List steppers, networks, optimizers and all else that has a name.", "lmjax.cli.show:List"),
    "report": ("Write one page about runs.", "lmjax.cli.report:Report"),
    "analyze": ("Look at schemes, and at trained networks.", "lmjax.cli.analyze:COMMANDS"),
    "reproduce": ("Run the published claims from paired seeds.", "lmjax.cli.reproduce:Reproduce"),
    "published": ("List the published rows, and their cost.", "lmjax.cli.show:Published"),
    "prepare": ("Prepare data sets of photographs, once, for training.", "lmjax.cli.prepare:COMMANDS"),
    "completion": ("Print what makes a shell complete the words of lmjax.", "lmjax.cli.show:Completion"),
}
PATIENCE = 10  # seconds for the threads of a program that has come to its end
_LMJAX = ("Residual networks as schemes for ODEs. lmjax --version says the version.", "lmjax.cli:COMMANDS")


def main(arguments: Sequence[str] | None = None, *, command: Any = _LMJAX, prog: str = "lmjax") -> int:
    """Run the command that the arguments name; returns the exit code.

    Args:
        arguments: the words after the name of the program; None takes those of the process.
        command: the class of a command, or several by name.
        prog: the name of the program.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return command_line.exit_code(lambda: _run(words, command, prog))


def run() -> NoReturn:
    """Run the command of this process, and end it."""
    end(main())


def end(code: int) -> NoReturn:
    """End the process with what `main` has returned."""
    if code > 2 or (code and jax.distributed.is_initialized()):
        # All files are closed. An orderly exit of Python would free what XLA's threads may still use to compile, and a
        # process that has failed would wait for the others.
        os._exit(code)
    if not jax.distributed.is_initialized():  # several processes wait for each other, which takes its time
        # Threads of a failed save may block for minutes, and Python would wait for them.
        late = threading.Timer(PATIENCE, os._exit, [code])
        late.daemon = True
        late.start()
    sys.exit(code)


def _run(words: Sequence[str], command: Any, prog: str) -> int | None:
    if words == ["--version"]:
        show(f"lmjax {lmjax.__version__}")
        return 0
    target = found(command)
    if not isinstance(target, Mapping):
        return target.start(words, prog)
    if not words or words[0].startswith("-"):
        return command_line.read(form(target, whole=False), words, prog=prog, description=_summary(command))
    name, *rest = words
    if name not in target:
        raise unknown("command", name, target)
    return _run(rest, target[name], f"{prog} {name}")


def form(commands: Mapping[str, Any], *, whole: bool = True) -> Any:
    """The type that stands for one of several commands.

    Args:
        commands: by name.
        whole: with their options, for which all of them are imported; else with names and summaries alone.
    """

    def of(command):
        if not whole:
            return lambda: None
        target = found(command)
        return form(target) if isinstance(target, Mapping) else target.form()

    choices = [
        Annotated[Any, tyro.conf.subcommand(name, constructor=of(command), description=_summary(command))]
        for name, command in commands.items()
    ]
    return functools.reduce(operator.or_, choices)


def found(command: Any) -> Any:
    """The class of a command, or the commands by name."""
    return pkgutil.resolve_name(command[1]) if isinstance(command, tuple) else command


def _summary(command: Any) -> str:
    return command[0] if isinstance(command, tuple) else str(inspect.getdoc(command)).partition("\n")[0]
