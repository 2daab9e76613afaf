"""A run from beginning to end: data, network, epochs, checkpoints, summary."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import lmjax
from lmjax import data
from lmjax.config import Config, to_dict
from lmjax.errors import InputError
from lmjax.training import figures
from lmjax.training.checkpoint import Checkpoints, require_possible
from lmjax.training.console import ProgressBar, device, say, say_epoch, say_stability, warn
from lmjax.training.interruption import Interruption
from lmjax.training.profiling import Profile
from lmjax.training.record import Record
from lmjax.training.schedule import Schedule
from lmjax.training.trackers import Trackers
from lmjax.training.trainer import NonFiniteLoss, Tally, Trainer


class Stopped(Exception):
    """A signal has ended a run, and everything is saved.

    Attributes:
        code: what the process should end with.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


class Diverged(InputError):
    """The loss of a run is not finite, and its config does not say to go on after that."""


class Run:
    """One run, in the folder that its config names.

    Args:
        config: the run.
        interruption: what may ask it to stop.
        resume: go on with the one in its folder.
        like: the trainer of a run that differs in the seed alone: what it has loaded and compiled is used again.
        dataset: what `load_data` gives, if it is loaded already.
        log: the trackers to tell of it, of `trackers.NAMES`.
        profile: the folder for a trace of some of its steps, "" for one in its own; None for no trace.
        name: what it is called in what is printed; None for its seed.
    """

    def __init__(
        self,
        config: Config,
        interruption: Interruption,
        *,
        resume: bool = False,
        like: Trainer | None = None,
        dataset: data.Dataset | data.Photographs | None = None,
        log: Collection[str] = (),
        profile: str | None = None,
        name: str | None = None,
    ):
        self.config = config
        self._interruption, self._resume, self._like, self._dataset = interruption, resume, like, dataset
        self._log_to, self._profile, self._name = log, profile, name or f"seed {config.seed}"
        self._began, self._seconds_before = time.perf_counter(), 0.0

    def story(self) -> Generator[Any, None, dict]:
        """All of it. The training itself is left to `seeds.side_by_side`, which may do that of several runs at once.

        Yields:
            The trainer, once all is ready; then functions to be called for the next part of the training.

        Returns:
            The summary.

        Raises:
            InputError: for what the user has to mend; a `Diverged`, if it is the loss. What was trained until then is
                saved.
            Stopped: if it was asked to.
        """
        with contextlib.ExitStack() as self._open:
            self._prepare()
            yield self.trainer
            while len(self.record.rows) < self.config.train.epochs:
                try:
                    tested = yield from self._epoch(len(self.record.rows) + 1)
                except NonFiniteLoss as error:
                    self._roll_back(error)
                else:
                    if tested is not None:
                        self._log(tested)
            return self._finish()

    def _prepare(self):
        config = self.config
        self.record = record = Record(config.workdir, writes=jax.process_index() == 0)
        record.require_same(config) if self._resume else record.require_none()
        require_possible(record.directory)
        multihost_utils.sync_global_devices("all have looked at the folder")  # and only now may one write to it
        self._open.enter_context(record)
        if self._resume:
            record.hold()
        like = self._like
        if like is None:
            self.trainer = Trainer(config, load_data(config) if self._dataset is None else self._dataset)
        else:
            self.trainer = like.reseeded(config.seed)
        trainer = self.trainer
        dataset = trainer.dataset
        say(f"{config.model.name}, {trainer.scheme}: {trainer.parameters:,} parameters on {device()}")
        say(f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images")
        trainer.compile()
        say(f"compiled in {trainer.compile_seconds:.1f} s")
        if not self._resume:
            record.start(config)  # only now: a network that cannot run leaves nothing behind
        say(f"writing to {record.directory}")
        self._open.enter_context(self._interruption)
        self._open.enter_context(trainer)
        keep = config.checkpoint
        self.checkpoints = self._open.enter_context(
            Checkpoints(record.directory / "checkpoints", keep_last=keep.keep_last, keep_best=keep.keep_best)
        )
        self.trackers = self._open.enter_context(Trackers(self._log_to, record.directory, config, writes=record.writes))
        if self._resume:
            self._seconds_before = self._go_on()
        self.trackers.begin(record.rows)
        self._due = Schedule(keep, trainer.step)

    def _go_on(self) -> float:
        """Brings everything to where the newest checkpoint has left it; returns the seconds until then."""
        trainer, checkpoints, record = self.trainer, self.checkpoints, self.record
        if checkpoints.latest() is None and not checkpoints.set_aside():
            trainer.restart()
            again = ""
            if record.metrics_path.exists():
                again = f"; the {len(record.read_rows())} epochs of {record.metrics_path} are made once more"
            record.rewrite([])
            say(f"there is no checkpoint yet: starting again{again}")
            return 0.0
        trainer.state, about = checkpoints.restore(trainer.state)
        record.require_own(trainer.step, about)
        try:
            rows, tally, draws, seconds = _position(about, trainer.step, trainer.steps_per_epoch)
            require_same_data(trainer.dataset, about["data"], record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{checkpoints.directory}: the checkpoint of step {trainer.step} is of another version of lmjax: start "
                "a new run"
            ) from error
        trainer.tally = tally
        trainer.draw_anew(draws)
        record.rewrite(rows)
        done = len(record.rows)
        within = trainer.step - done * trainer.steps_per_epoch
        say(f"going on after epoch {done}" + (f" and {within} steps" if within else ""))
        return seconds

    def _save(self, test_accuracy: float | None = None) -> None:
        about = {
            "config": to_dict(self.config),
            "data": self.trainer.dataset.describe(),
            "wall_seconds": self._seconds(),
            "rows": self.record.rows,
            "tally": dataclasses.asdict(self.trainer.tally),
            "draws": self.trainer.draws,
        }
        self.checkpoints.save(self.trainer.state, about, test_accuracy=test_accuracy)
        self.trackers.saved()
        self._due.saved(self.trainer.step)

    def _save_what_is_sound(self) -> None:
        """Saves, unless a loss that is not finite has ended this run, too: then its state is broken, or not counted."""
        trainer = self.trainer
        if trainer.step == len(self.record.rows) * trainer.steps_per_epoch + trainer.tally.steps:
            with contextlib.suppress(NonFiniteLoss):
                trainer.require_finite()
                self._save()

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began

    def _epoch(self, epoch: int) -> Generator[Callable[[], None], None, dict | None]:
        """Trains to the end of an epoch, and evaluates. Returns None if there was a pause in either, to save."""
        trainer, interruption = self.trainer, self._interruption
        end = epoch * trainer.steps_per_epoch
        try:
            if trainer.step < end:
                yield functools.partial(
                    _train, trainer, lambda step: interruption() or self._due(step), self._take_profile()
                )
            tested = trainer.evaluate(interruption) if trainer.step == end else None
        except (InputError, GeneratorExit):  # of the data, or of another seed: what is trained is not lost
            if jax.process_count() == 1:  # of several processes, the others know nothing of it
                self._save_what_is_sound()
            raise
        if tested is None:
            trainer.require_finite()
            self._save()
            if interruption.signal:
                raise self._stopped()
        return tested

    def _take_profile(self) -> Profile | None:
        """What traces an epoch: the first that this process makes."""
        wanted, self._profile = self._profile, None
        if wanted is None or not self.record.writes:
            return None
        return Profile(Path(wanted) if wanted else self.record.directory / "profile")

    def _log(self, tested: dict[str, float]) -> None:
        """Notes what an epoch has come to, and saves if it is time."""
        config, trainer, rows = self.config, self.trainer, self.record.rows
        row = {"epoch": len(rows) + 1, "step": trainer.step} | trainer.epoch_metrics() | tested
        if config.data.on_error == "skip":
            row["broken_images"] = report_broken(trainer)
        row["wall_seconds"] = self._seconds()
        row["coefficients"] = trainer.coefficients()
        keep, epoch = config.checkpoint, row["epoch"]
        among_the_best = sum(other["test_accuracy"] >= row["test_accuracy"] for other in rows) < keep.keep_best
        self.record.log(row)
        if self.trackers.wanted:
            self.trackers.log(row | {"zero_stability": trainer.zero_stability()})
        say_epoch(row, config, self._name)
        last, in_turn = epoch == config.train.epochs, keep.epochs is not None and epoch % keep.epochs == 0
        if last or in_turn or among_the_best or self._due(trainer.step):
            self._save(row["test_accuracy"])

    def _roll_back(self, error: NonFiniteLoss) -> None:
        """Goes on from the last checkpoint with other draws, or ends if that is not wanted, or not any more."""
        config, trainer, checkpoints = self.config, self.trainer, self.checkpoints
        draws, limit = trainer.draws + 1, config.train.nan_limit
        checkpoints.wait()
        if config.train.on_nan != "rollback" or draws > limit:
            saved = checkpoints.latest()
            where = "" if saved is None else f"; the last checkpoint, of step {saved}, is in {checkpoints.directory}"
            cure = f"try a smaller --optimizer.learning-rate than {config.optimizer.learning_rate:g}"
            raise Diverged(f"{error}: {cure}{where}") from error
        self._go_on()
        self.trackers.begin(self.record.rows)
        trainer.draw_anew(draws)
        self._due.saved(trainer.step)
        warn(f"{error}: back to step {trainer.step}, and on with other random draws ({draws} of at most {limit} times)")

    def _stopped(self) -> Stopped:
        """What ends a run that was asked to stop, once all is written."""
        self.checkpoints.wait()
        multihost_utils.sync_global_devices("all have stopped")  # who leaves first would be missed by the others
        step, saved = self.trainer.step, self.checkpoints.latest()
        text = f"stopped at step {step}: --workdir and --resume go on"
        if saved != step:
            text += " from the beginning" if saved is None else f" from step {saved}"
        return Stopped(text, self._interruption.exit_code)

    def _finish(self) -> dict:
        """Waits for the last checkpoint, and writes the summary."""
        config, trainer, record, checkpoints = self.config, self.trainer, self.record, self.checkpoints
        checkpoints.wait()
        if checkpoints.latest() != trainer.step:
            raise InputError(
                f"{checkpoints.directory}: the end of the run could not be saved: make room; --resume then goes on "
                f"from step {checkpoints.latest() or 0}"
            )
        rows = record.rows
        summary = {
            **{key: value for key, value in rows[-1].items() if key.startswith("test_")},
            "parameters": trainer.parameters,
            "zero_stability": trainer.zero_stability(),
            "epochs": config.train.epochs,
            "steps": trainer.step,
            "seed": config.seed,
            "images_per_second": len(rows) / sum(1 / row["images_per_second"] for row in rows),
            "wall_seconds": rows[-1]["wall_seconds"],
            "compile_seconds": trainer.compile_seconds,
            "device": device(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "versions": versions(),
            "data": describe(trainer.dataset),
        }
        record.summarise(summary)
        _draw(record, f"{config.model.name}, {trainer.scheme}, {config.data.name}")
        say_stability(summary["zero_stability"])
        say(f"test accuracy {summary['test_accuracy']:.2%}; everything is in {record.directory}")
        return summary


def _position(about: dict[str, Any], step: int, steps_per_epoch: int) -> tuple[list[dict], Tally, int, float]:
    """The rows, the tally, the draws and the seconds that were kept with a state; an error if they cannot be of it."""
    rows, tally, draws, seconds = about["rows"], Tally(**about["tally"]), about["draws"], about["wall_seconds"]
    keys = ("epoch", "step", "test_accuracy", "images_per_second", "wall_seconds")
    numbers = [row[key] for row in rows for key in keys] + [*vars(tally).values(), draws, seconds]
    counts = [tally.steps, tally.skipped, draws]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError("not a number")
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(about["data"], dict):
        raise TypeError("not a count, or no description")
    within = step - len(rows) * steps_per_epoch
    numbered = [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    if not numbered or tally.steps not in (within, within or steps_per_epoch):  # the next epoch clears the tally
        raise ValueError("not of this step")
    return rows, tally, draws, seconds


def _train(trainer: Trainer, pause: Callable[[int], bool], profile: Profile | None) -> None:
    traced = contextlib.nullcontext(lambda step: None) if profile is None else profile.epoch(trainer)
    with traced as between, ProgressBar(trainer) as progress:
        trainer.train_epoch(progress, lambda step: between(step) or pause(step))


def load_data(config: Config) -> data.Dataset | data.Photographs:
    """The data set of a run."""
    return config.data.load()


def describe(dataset: data.Dataset | data.Photographs) -> dict[str, Any]:
    """What tells the images of two runs apart, in a few numbers: how many there are, and their mean colour."""
    found = dataset.describe()
    return found | {"classes": len(found["classes"])}


def require_same_data(dataset: data.Dataset | data.Photographs, before: dict[str, Any], record: Record) -> None:
    """Raises InputError if a data set is not what `describe` said of it before."""
    now = dataset.describe()
    # What an earlier version has not noted cannot be compared.
    changed = [key for key in now if key in before and now[key] != before[key]]
    if changed:
        raise InputError(
            f"{record.directory}: the data has changed since ({', '.join(changed)}): "
            "go on with the same data, or start a new run"
        )


def report_broken(trainer: Trainer) -> int:
    """Names the images that could not be decoded, each process its own, and returns how many all have met."""
    broken = sorted(trainer.feed.take_broken())
    if broken:
        named = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        warn(f"{len(broken)} images could not be decoded, and were skipped: {named}")
    return int(multihost_utils.process_allgather(np.int32(len(broken))).sum())


def _draw(record: Record, title: str) -> None:
    if not record.writes:
        return
    try:
        figures.learning_curves(record.rows, record.directory / "learning_curves.png", title)
        if record.rows[-1]["coefficients"]:
            figures.coefficients(record.rows[-1]["coefficients"], record.directory / "coefficients.png", title)
    except (InputError, OSError) as error:  # matplotlib is missing, or there is no room: the numbers are written
        say(f"no pictures: {error}")


def versions() -> dict[str, str]:
    """Of Python, of lmjax and of what it computes with."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "lmjax": lmjax.__version__}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
