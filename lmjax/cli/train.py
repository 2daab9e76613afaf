"""`lmjax train` and `lmjax evaluate`."""

import dataclasses
import inspect
import itertools
import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import numpy as np
import tyro
from jax.experimental import multihost_utils
from tyro.conf import Positional

import lmjax
from lmjax import command_line, devices, networks, runtime
from lmjax.command_line import load, override, read
from lmjax.config import Config, to_dict
from lmjax.console import quiet, say
from lmjax.errors import InputError, unknown
from lmjax.training import RunRecord, Trainer, program, seed_mesh, seeds, train, train_seeds
from lmjax.training.loop import name_broken
from lmjax.training.run_record import seed_folders


class Train(command_line.Command):
    """Train a network whose blocks are steps of a numerical scheme.

    It ends with 0 when the run is finished, 2 when there is a mistake to mend, 130, 143 or 129 when SIGINT, SIGTERM or
    SIGHUP has stopped it with all saved, and 75 when another process of the run is lost. After everything but 0 and 2,
    the same command with --resume auto goes on.
    """

    config: str | None = None
    """A Python file (which is run: use only files that you trust), with :ROW if it has several; a config that comes
    with lmjax, such as digits or cifar10:lm_resnet20; or the config.json of a run. --evaluate, and --resume with
    --workdir, take that of the run if it is left out."""
    seeds: tuple[str, ...] | None = None
    """Make the run from each of these seeds, as in 0 1 2 or 0..7, and report the mean and the standard deviation."""
    resume: str | None = None
    """Go on with the run in --workdir; "auto": start it if there is none, so that one command can be repeated until it
    is finished."""
    evaluate: str | None = None
    """Report the test accuracy of the run in this folder, and stop."""
    at: str = "latest"
    """The checkpoint to evaluate: latest, best, or a step."""
    deterministic: bool = False
    """Make a GPU repeat a run bit for bit, which costs speed."""
    log: tuple[str, ...] = ()
    """Tell one or several of tensorboard, wandb, mlflow and trackio of each epoch."""
    profile: str | None = None
    """Write a trace of some steps to this folder; --profile alone writes to the folder profile of the run."""
    dry_run: bool = False
    """Say what the run would be: its config, parameters, multiplications, steps and memory. It gets no folder."""
    quiet: bool = False
    """Print nothing but warnings, errors and results."""

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The seeds as numbers."""
        return command_line.seed_numbers(self.seeds)

    def _check(self, overrides: Sequence[str]) -> None:
        """Raise InputError if the choices contradict each other, or the config keys on the command line."""
        if self.evaluate == "":
            raise InputError("--evaluate: give the folder of a run")
        if self.resume not in (None, "required", "auto"):
            raise InputError(f"--resume: takes auto or nothing, got {self.resume!r}")
        if self.resume and self.evaluate is not None:
            raise InputError("--resume: does not go with --evaluate")
        if self.at != "latest" and self.evaluate is None:
            raise InputError("--at: goes with --evaluate")
        if self.evaluate is not None and (self.log or self.profile is not None or self.dry_run):
            raise InputError("--log, --profile and --dry-run: go with training, not with --evaluate")
        if self.seeds is not None:
            self._check_seeds(overrides)

    def _check_seeds(self, overrides: Sequence[str]) -> None:
        command_line.seed_numbers(self.seeds)
        if any(re.match(r"--seed\b", word) for word in overrides):
            raise InputError("--seed and --seeds: give one of them")
        if self.evaluate is not None:
            raise InputError("--seeds: does not go with --evaluate: evaluate the folder of one seed")

    @classmethod
    def start(cls, words: Sequence[str], prog: str) -> int:
        config, options = cls.parse(words, prog)
        return program.run(lambda: options.run(config))

    @classmethod
    def parse(cls, words: Sequence[str], prog: str = "lmjax train") -> tuple[Config, Self]:
        """The config and the options of a command line.

        Raises:
            InputError: if the config file does not exist or holds no config, or the words contradict each other, or
                a key of the config is unknown or ill-typed.
            SystemExit: after --help.
        """
        words = ["--help" if word == "-h" else word for word in words]
        for name, value in (("--resume", "required"), ("--profile", ""), ("--help", "")):
            words = _completed(words, name, value)
        if "--help" in words:
            _show_help(prog, words[words.index("--help") + 1])
        options, overrides = read(cls, words, prog=prog, return_unknown_args=True)
        options._check(overrides)
        if options.config is None:
            return override(options._recorded(overrides), overrides, prog=prog), options
        return override(load(options.config), overrides, prog=f"{prog} --config {options.config}"), options

    def _recorded(self, overrides: Sequence[str]) -> Config:
        """The config of the run that is evaluated, or gone on with."""
        folder = self.evaluate or (_value(overrides, "--workdir") if self.resume else None)
        if folder is not None:
            record = RunRecord(folder)
            held = seed_folders(record.directory) if self.seeds is not None else []
            if held or record.started or self.resume != "auto":
                return RunRecord(held[0] if held else folder).config()
        raise InputError(f"give --config FILE{command_line.available()}")

    @classmethod
    def form(cls) -> type:
        """With the keys of the config."""
        return type("Train", (cls, Config), {})

    def run(self, config: Config) -> None:
        """Make the run of the config, or look at it."""
        numbers = self.numbers
        alone = numbers is None or seeds.in_turn(config)
        notes = runtime.start(deterministic=self.deterministic, seeds=1 if alone else len(numbers))
        if self.evaluate is not None:
            _say_evaluation(config, self.evaluate, self.at)
            return
        if self.dry_run:
            say(_describe(config, numbers))
            return
        with quiet(self.quiet):
            for note in notes:
                say(note)
            if config.workdir is None:
                if self.resume:
                    raise InputError("--resume: give the --workdir of the run to go on with")
                words = [
                    command_line.stem(str(self.config)),
                    config.model.stepper,
                    _seeds_name(numbers or (config.seed,)),
                ]
                name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, words))) + f"-{_time_of_first():%Y%m%d-%H%M%S}"
                config = dataclasses.replace(config, workdir=str(Path("runs", name)))
            how = {"resume": self.resume, "log": self.log, "profile": self.profile}
            train(config, **how) if numbers is None else train_seeds(config, numbers, **how)


class Evaluate(command_line.Command):
    """The test loss and accuracy of a checkpoint of a run. Keys of the config, such as --data.dir, change the run's."""

    folder: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of the run."""
    at: str = "latest"
    """The checkpoint: latest, best, or a step."""
    config: str | None = None
    """Another config than that of the run, as lmjax train takes it."""
    deterministic: bool = False
    """Make a GPU repeat it bit for bit, which costs speed."""

    @classmethod
    def start(cls, words: Sequence[str], prog: str) -> int:
        options, overrides = read(cls, words, prog=prog, return_unknown_args=True)
        config = RunRecord(options.folder).config() if options.config is None else load(options.config)
        config = override(config, overrides, prog=f"{prog} RUN")
        return program.run(lambda: options.run(config))

    def run(self, config: Config) -> None:
        """Print what is found, as JSON."""
        runtime.start(deterministic=self.deterministic)
        _say_evaluation(config, self.folder, self.at)


def _value(words: Sequence[str], name: str) -> str | None:
    """The value of an option, as in "--workdir runs/a" or "--workdir=runs/a"; None if it is not there."""
    values = (
        after if word == name else word.partition("=")[2]
        for word, after in itertools.pairwise([*words, ""])
        if word.partition("=")[0] == name
    )
    return next(values, None)


def _completed(words: Sequence[str], name: str, value: str) -> list[str]:
    """The words, with a value after an option that stands alone."""
    found = []
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        found += [word, value] if word == name and following.startswith("-") else [word]
    return found


def _show_help(prog: str, topic: str) -> None:
    fields = dataclasses.fields(Config)
    groups: dict[str, Any] = {field.name: field.type for field in fields if dataclasses.is_dataclass(field.type)}
    form, description = Train, str(inspect.getdoc(Train))
    if topic == "all":
        form, description = Config, "Keys of the config."
    elif topic in groups:
        form = dataclasses.make_dataclass("Keys", [(topic, groups[topic], groups[topic]())])
        description = groups[topic].__doc__
    elif topic:
        raise unknown("topic of --help", topic, [*groups, "all"])
    else:
        keys = {name: (field.name.replace("_", "-") for field in dataclasses.fields(of)) for name, of in groups.items()}
        lines = [f"  --{name}.KEY: {', '.join(found)}" for name, found in keys.items()]
        head = "Keys of the config, which change what the file says (--help model explains those of --model):"
        description += "\n".join(["\n", head, *lines, "  --seed, --workdir"])
    read(form, ["--help"], prog=prog, description=description)


def _seeds_name(numbers: Sequence[int]) -> str:
    """The seeds in the name of a folder: seed0-1-2, or seed0-to-99 where there are many."""
    return "seed" + (f"{numbers[0]}-to-{numbers[-1]}" if len(numbers) > 8 else "-".join(map(str, numbers)))


def _say_evaluation(config: Config, folder: str, at: str) -> None:
    """Print the test loss and accuracy of a checkpoint of a run: "latest", "best", or that of a step."""
    with lmjax.load(folder, at=at, config=config) as trained:
        found = {"step": trained.step} | trained.evaluate()
        if config.data.on_error == "skip":
            found["broken_images"] = name_broken(trained.take_broken())
    say(json.dumps(found, indent=2))


def _describe(config: Config, numbers: Sequence[int] | None) -> str:
    """The text of --dry-run: a run, or the first seeds of one that are trained side by side, before it is begun."""
    mesh = None
    if numbers is not None and seeds.side_by_side(config):
        numbers = numbers[: jax.local_device_count()]
        mesh = seed_mesh(len(numbers))
    with Trainer(config, config.data.load(), mesh, None if mesh is None else numbers) as trainer:
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
