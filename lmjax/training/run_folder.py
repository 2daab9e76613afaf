"""The folder of one run: its config and metrics, its checkpoints, and the tools that look on."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax

import lmjax
from lmjax import data, devices, files
from lmjax.config import Config, to_dict
from lmjax.console import say
from lmjax.errors import InputError
from lmjax.results import plots
from lmjax.results.coefficients import Coefficients
from lmjax.steppers import Stepper
from lmjax.training.checkpoint import Checkpoints
from lmjax.training.checkpoint_folder import checkpoint_steps, require_possible
from lmjax.training.progress import say_stability
from lmjax.training.run_record import RunRecord
from lmjax.training.run_record_writer import RunRecordWriter
from lmjax.training.state import TrainState, settings
from lmjax.training.trackers import Trackers
from lmjax.training.trainer import EpochSums, Trainer


class Position(NamedTuple):
    """All that a run goes on from.

    Attributes:
        state: of the checkpoint.
        sums: of its epoch so far.
        redraws: see `Trainer.redraw`.
        rows: the metrics of its epochs.
        seconds: of the run until then.
    """

    state: TrainState
    sums: EpochSums
    redraws: int
    rows: list[dict[str, Any]]
    seconds: float


class RunFolder:
    """The folder of one run, which its config names. To be opened when all else is ready.

    Args:
        config: the run.
        name: of the run, for messages.
        resume: go on with the run in the folder, instead of requiring that there is none.

    Raises:
        InputError: if the folder holds no such run, or one that is not to be resumed, or cannot hold checkpoints.

    Attributes:
        ended: True once it is said that the run has diverged.
    """

    def __init__(self, config: Config, name: str, resume: bool):
        self.config, self.resume, self.name, self.ended = config, resume, name, False
        self.record = RunRecordWriter(config.folder, writes=jax.process_index() == 0)
        self.record.require_same(config, may_be_longer=True) if resume else self.record.require_none()
        require_possible(self.record.directory)
        self._versions = versions()  # at the start, because the checkout may change during the run
        # The seconds of earlier processes, from the checkpoint; steps that a rollback undoes in this one count, too.
        self._seconds_before, self._began = None if resume else 0.0, time.perf_counter()

    def open(self, stack: contextlib.ExitStack, log: Collection[str]) -> None:
        """Write the config of a new run, and let checkpoints and trackers in, until the stack is closed."""
        record, keep = self.record, self.config.checkpoint
        place = files.inside(record.directory, "checkpoints")  # behind a link, those of another folder would be removed
        if not self.resume:
            record.start(self.config)
        say(f"writing to {record.directory}")
        self.checkpoints = stack.enter_context(Checkpoints(place, keep_last=keep.keep_last, keep_best=keep.keep_best))
        self.trackers = stack.enter_context(Trackers(log, record.directory, self.config, writes=record.writes))
        if not self.resume:
            self.trackers.begin([])

    def read(self, trainer: Trainer, like: TrainState, step: int | None) -> Position | None:
        """The position of a checkpoint; None if it cannot be read, and is set aside.

        Args:
            trainer: of the run.
            like: a state of the same shapes, on the devices to restore to.
            step: of the checkpoint; None is the newest that can be read.

        Raises:
            InputError: if it is of another run, of other data, or of another version of lmjax.
        """
        found = self.checkpoints.restore(like) if step is None else self.checkpoints.try_restore(like, step)
        if found is None:
            return None
        state, about = found
        step = int(state.step)
        self.record.require_own(step, about)
        try:
            rows, sums, redraws, seconds = _position(about, step, trainer.steps_per_epoch)
            require_same_data(trainer.dataset, about["data"], self.record)
            _require_same_settings(about.get("settings", {}), self.record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.checkpoints.directory}: the checkpoint of step {step} is of another version of lmjax: start "
                "a new run"
            ) from error
        return Position(state, sums, redraws, rows, seconds)

    def go_back(self, position: Position) -> None:
        """Make the metrics those of a position, and remove later checkpoints."""
        self.checkpoints.remove_after(int(position.state.step))
        self._rewrite(position.rows)
        if self._seconds_before is None:
            self._seconds_before = position.seconds

    def forget(self) -> str:
        """Drop the metrics of a run that has no checkpoint; returns a note on them."""
        path = self.record.metrics_path
        again = f"; the {len(self.record.read_rows())} epochs of {path} are made once more" if path.exists() else ""
        self._rewrite([])
        return again

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        before, epochs = self.record.update(self.config), self.config.train.epochs
        if before is not None and before.train.epochs < epochs:
            say(
                f"train.epochs was {before.train.epochs}, and is {epochs}: from here on the learning rate is that of a "
                f"run of {epochs} epochs"
            )
        self.record.rewrite(rows)
        self.trackers.begin(rows)

    def save(self, trainer: Trainer, i: int, test_accuracy: float | None = None) -> None:
        """Save a checkpoint of seed number i. Raises InputError if the folder is gone, which Orbax would make anew."""
        self.record.require_there()
        about = {
            "config": to_dict(self.config),
            "data": trainer.dataset.describe(),
            "settings": settings(),
            "wall_seconds": self.seconds(),
            "rows": self.record.rows,
            "sums": dataclasses.asdict(trainer.sums[i]),
            "redraws": trainer.redraws[i],
        }
        self.checkpoints.save(trainer.state_of(i), about, test_accuracy=test_accuracy)
        self.trackers.saved()

    def seconds(self) -> float:
        """Seconds of the run so far, over all its processes."""
        return (self._seconds_before or 0.0) + time.perf_counter() - self._began

    def log(self, trainer: Trainer, i: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """Add the row of an epoch of seed number i; returns it."""
        row = {"epoch": len(self.record.rows) + 1, "step": trainer.step} | metrics
        row |= {"wall_seconds": self.seconds(), "coefficients": trainer.coefficients(i)}
        self.record.log(row)
        if self.trackers.wanted:
            self.trackers.log(row | {"zero_stability": trainer.zero_stability(i)})
        return row

    def among_the_best(self) -> bool:
        """True if the last epoch is one of those whose checkpoints are kept as the best."""
        *others, last = (row["test_accuracy"] for row in self.record.rows)
        return sum(accuracy >= last for accuracy in others) < self.config.checkpoint.keep_best

    def finish(self, trainer: Trainer, i: int) -> dict[str, Any]:
        """Wait for the last checkpoint, and write the summary."""
        config, record = self.config, self.record
        _require_saved(self, trainer, i)
        rows = record.rows
        summary: dict[str, Any] = {
            **{key: value for key, value in rows[-1].items() if key.startswith("test_")},
            "parameters": trainer.parameters,
            "zero_stability": trainer.zero_stability(i),
            "epochs": config.train.epochs,
            "steps": trainer.step,
            "seed": config.seed,
            "images_per_second": len(rows) / sum(1 / row["images_per_second"] for row in rows),
            "wall_seconds": rows[-1]["wall_seconds"],
            "compile_seconds": trainer.compiled.seconds,
            "device": devices.describe(1 if trainer.several else trainer.mesh.size),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "versions": self._versions,
            "data": describe(trainer.dataset),
        }
        record.summarize(summary)
        _draw(record, f"{config.model.name}, {trainer.scheme}, {trainer.dataset.name}", trainer.stepper)
        say_stability(summary["zero_stability"])
        say(f"test accuracy {summary['test_accuracy']:.2%}; everything is in {record.directory}", result=True)
        return summary


def _require_saved(folder: RunFolder, trainer: Trainer, i: int) -> None:
    """Wait for the last checkpoint of seed number i, and save once more if it could not be written.

    Raises:
        InputError: if it could not be written the second time either.
    """
    directory = folder.checkpoints.directory
    for again in (True, False):
        folder.checkpoints.wait()
        folder.record.require_there()
        saved = max(checkpoint_steps(directory), default=0)
        if again and saved != trainer.step:  # perhaps by chance: to Orbax a change of the clock looks like a timeout
            folder.save(trainer, i, folder.record.rows[-1]["test_accuracy"])
    if saved != trainer.step:
        raise InputError(
            f"{directory}: the end of the run could not be saved: make room; --resume then goes on from step {saved}"
        )


def _position(about: dict[str, Any], step: int, steps_per_epoch: int) -> tuple[list[dict], EpochSums, int, float]:
    """The rows, the sums, the redraws and the seconds that were kept with a state; an error if they cannot be of it."""
    rows, sums, redraws, seconds = about["rows"], EpochSums(**about["sums"]), about["redraws"], about["wall_seconds"]
    keys = ("epoch", "step", "test_accuracy", "images_per_second", "wall_seconds")
    numbers = [row[key] for row in rows for key in keys] + [*sums.metrics.values(), sums.seconds, seconds]
    counts = [sums.steps, sums.skipped, sums.skipped_in_a_row, sums.broken, redraws]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError("not a number")
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not isinstance(about["data"], dict):
        raise TypeError("not a count, or no description")
    within = step - len(rows) * steps_per_epoch
    numbered = [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    if not numbered or sums.steps not in (within, within or steps_per_epoch):  # the next epoch clears the sums
        raise ValueError("not of this step")
    return rows, sums, redraws, seconds


def describe(dataset: data.Dataset | data.Photographs) -> dict[str, Any]:
    """A few numbers that tell the images of two runs apart: how many there are, and their mean color."""
    found = dataset.describe()
    return found | {"classes": len(found["classes"])}


def require_same_data(dataset: data.Dataset | data.Photographs, before: dict[str, Any], record: RunRecord) -> None:
    """Raise InputError if a data set is not what `describe` said of it before."""
    now = dataset.describe()
    # A key that an earlier version of lmjax did not record cannot be compared.
    changed = [key for key in now if key in before and now[key] != before[key]]
    if changed:
        raise InputError(
            f"{record.directory}: the data has changed since ({', '.join(changed)}): "
            "go on with the same data, or start a new run"
        )


def _require_same_settings(before: dict[str, Any], record: RunRecord) -> None:
    for name, now in settings().items():
        if before.get(name, now) != now:
            raise InputError(
                f"{record.directory}: was made with {name}={before[name]}, and would go on differently with {now}: "
                f"set {name.upper()} as it was"
            )


def _draw(record: RunRecordWriter, title: str, stepper: Stepper | None) -> None:
    if not record.writes:
        return
    try:
        plots.save(plots.run_curves(record.rows, title), record.directory / "learning_curves.png")
        if record.rows[-1]["coefficients"]:
            found = Coefficients.of(record.rows[-1:], stepper, record.directory, title)
            plots.save(plots.run_coefficients(found, title), record.directory / "coefficients.png")
    except (InputError, OSError) as error:  # matplotlib is missing, or there is no room: the numbers are written
        say(f"no pictures: {error}")


def versions() -> dict[str, str]:
    """The versions of Python, lmjax and the packages it uses, and the commit of lmjax where it is a git checkout."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "lmjax": lmjax.__version__}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found if (held := commit()) is None else found | {"commit": held}


@functools.cache
def commit() -> str | None:
    """The commit of the git checkout that lmjax is imported from, or None; with "-dirty" if files differ from it."""
    root = Path(lmjax.__file__).parents[1]
    if not (root / ".git").exists():  # an installed package; a .git further up is that of another project
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # GIT_DIR may name another one.
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=ours).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that is not the user's
        return None
