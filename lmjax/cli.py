"""The command `lmjax`, which is `python -m lmjax`, too: train, evaluate, list, report, analyze, reproduce, prepare."""

import dataclasses
import importlib
import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import lmjax
from lmjax import command_line, console, data, devices, networks, optimizers, registry, runtime, schedules, steppers  # noqa: F401
from lmjax.config import Config, to_dict
from lmjax.console import quiet, say
from lmjax.errors import InputError, unknown
from lmjax.training import Record, Trainer, evaluate, open_run, program, seed_mesh, seeds, train, train_seeds
from lmjax.training.loop import report_broken

_TRAIN = """Train a network whose blocks are steps of a numerical scheme.

It ends with 0 when the run is finished, 2 when there is a mistake to mend, 130, 143 or 129 when SIGINT, SIGTERM or
SIGHUP has stopped it with all saved, and 75 when another process of the run is lost. After everything but 0 and 2, the
same command with --resume auto goes on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    with console.lossy():
        if name in ("-h", "--help"):
            print(_usage())
            return 0 if words else 2
        if name == "--version":
            print(f"lmjax {lmjax.__version__}")
            return 0
        if name not in COMMANDS:
            print(f"error: {unknown('command', name, COMMANDS)}", file=sys.stderr)
            return 2
        return COMMANDS[name](words[1:])


def run() -> None:
    """Run the command of this process, and end it."""
    program.end(main())


def _usage() -> str:
    lines = [f"  {name:11}{command.__doc__.partition('.')[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lmjax COMMAND ..., lmjax COMMAND --help, lmjax --version", "", *lines])


def train_command(arguments: Sequence[str] | None = None, *, prog: str = "lmjax train") -> int:
    """Train a network, from one seed or from several."""
    return program.run(lambda: _train(arguments, prog))


def evaluate_command(arguments: Sequence[str]) -> int:
    """Print the test loss and accuracy of a checkpoint of a run. lmjax evaluate RUN [--at best] [--config FILE]"""
    if not arguments or arguments[0].startswith("-"):
        print(evaluate_command.__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    folder, *rest = arguments
    if not any(word.partition("=")[0] == "--config" for word in rest):
        record = Record(folder)
        if not record.started:
            return program.run(record.config)  # which says what is wrong
        rest = ["--config", str(record.config_path), *rest]
    return train_command(["--evaluate", folder, *rest], prog="lmjax evaluate")


def list_command(arguments: Sequence[str]) -> int:
    """List the parts of a kind, or of all kinds: steppers, networks, optimizers and so on."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"usage: lmjax list [{' | '.join(registry.KINDS)}]")
        return 0
    if wrong := [kind for kind in arguments if kind not in registry.KINDS]:
        print(f"error: {unknown('kind', wrong[0], registry.KINDS)}", file=sys.stderr)
        return 2
    for plural in arguments or registry.KINDS:
        print(f"{plural}:")
        for part in registry.KINDS[plural].describe():
            print(f"  {part.name}{part.signature}\n      {part.summary}")
    return 0


def _elsewhere(module: str, summary: str, function: str = "main"):
    """The command of a module that is imported only for it."""

    def command(arguments: Sequence[str]) -> int:
        return getattr(importlib.import_module(module), function)(arguments)

    command.__doc__ = summary
    return command


COMMANDS = {
    "train": train_command,
    "evaluate": evaluate_command,
    "list": list_command,
    "report": _elsewhere("lmjax.report", "Write one page about runs"),
    "analyze": _elsewhere("lmjax.analysis.__main__", "Look at schemes, and at trained networks", "run"),
    "reproduce": _elsewhere("lmjax.reproduce.__main__", "Run the published claims from paired seeds"),
    "published": _elsewhere("lmjax.published", "List the published rows, and their cost"),
    "prepare": _elsewhere("lmjax.prepare", "Prepare data sets, once, for training"),
}


def _train(arguments: Sequence[str] | None, prog: str) -> None:
    config, options = command_line.parse(arguments, prog=prog, description=_TRAIN)
    numbers = options.numbers
    alone = numbers is None or seeds.in_turn(config)
    notes = runtime.start(deterministic=options.deterministic, seeds=1 if alone else len(numbers))
    if options.evaluate is not None:
        say(json.dumps(_evaluate(config, options.evaluate, options.at), indent=2))
        return
    if options.dry_run:
        say(_describe(config, numbers))
        return
    with quiet(options.quiet):
        for note in notes:
            say(note)
        if config.workdir is None:
            if options.resume:
                raise InputError("--resume: give the --workdir of the run to go on with")
            words = [command_line.stem(options.config), config.model.stepper, _seeds_name(numbers or (config.seed,))]
            name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, words))) + f"-{_time_of_first():%Y%m%d-%H%M%S}"
            config = dataclasses.replace(config, workdir=str(Path("runs", name)))
        how = {"resume": options.resume, "log": options.log, "profile": options.profile}
        train(config, **how) if numbers is None else train_seeds(config, numbers, **how)


def _seeds_name(numbers: Sequence[int]) -> str:
    """The seeds in the name of a folder: seed0-1-2, or seed0-to-99 where there are many."""
    return "seed" + (f"{numbers[0]}-to-{numbers[-1]}" if len(numbers) > 8 else "-".join(map(str, numbers)))


def _evaluate(config: Config, directory: str, at: str) -> dict:
    """The test loss and accuracy of a checkpoint of a run: "latest", "best", or that of a step."""
    with open_run(directory, at=at, config=config) as trained:
        found = {"step": trained.step} | evaluate(trained.trainer)
        if config.data.on_error == "skip":
            found["broken_images"] = report_broken(trained.trainer)
        return found


def _describe(config: Config, numbers: Sequence[int] | None) -> str:
    """The text of --dry-run: a run, or the first seeds of one that are trained side by side, before it is begun."""
    first = numbers[: jax.local_device_count()] if numbers is not None and seeds.side_by_side(config) else None
    with Trainer(config, config.data.load(), first and seed_mesh(len(first)), first) as trainer:
        dataset, train = trainer.dataset, config.train
        macs = networks.forward_macs(
            config.model.outline(classes=len(dataset.classes), cin=dataset.shape[-1]), dataset.shape
        )
        steps = trainer.compiled.dispatches(trainer.steps_per_epoch)
        memory = trainer.compiled.train(steps[0]).memory_analysis()
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return "\n".join([
            json.dumps(to_dict(config), indent=2),
            f"network: {config.model.name}, {trainer.scheme}: {trainer.parameters:,} parameters, {macs / 1e6:,.1f} "
            "million multiplications an image, forward",
            f"data: {dataset.name}, {len(dataset.train):,} training and {len(dataset.test):,} test images of "
            f"{' x '.join(map(str, dataset.shape))}, {len(dataset.classes)} classes",
            f"steps: {trainer.steps_per_epoch:,} an epoch, {trainer.total_steps:,} in {train.epochs:,} epochs, "
            f"{steps[0]} in a program",
            f"memory of each device, XLA's estimate: {kept / 2**20:,.1f} MiB for state and data, "
            f"{memory.temp_size_in_bytes / 2**20:,.1f} MiB during a step",
            f"devices: {devices.describe(trainer.mesh.size)}; compiled in {trainer.compiled.seconds:.1f} s; "
            "nothing was written",
        ])  # fmt: skip


def _time_of_first() -> datetime:
    """Now, by the clock of the first process: all must name the same folder."""
    return datetime.fromtimestamp(int(multihost_utils.broadcast_one_to_all(np.uint32(time.time()))))
