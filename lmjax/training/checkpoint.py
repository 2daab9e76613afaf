"""Checkpoints of a run, on Orbax."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from lmjax.errors import InputError
from lmjax.training import integrity
from lmjax.training.console import warn
from lmjax.training.step import TrainState

_METRIC = "test_accuracy"
_DISCARDED = "discarded"


class Checkpoints:
    """The checkpoints of one run. Writing goes on in the background; a checkpoint appears, and disappears, as a whole.

    Each is sealed with the sums of its files, which are compared before it is read. A checkpoint that cannot be written
    ends nothing: it is reported, and those before it stay. The disk needs room for two more than are kept: the one that
    is being written, and the one that it replaces.

    Args:
        directory: where they are; made if it is not there.
        keep_last: how many of the newest are kept.
        keep_best: how many of those with the highest "test_accuracy" are kept besides.
        read_only: touch nothing, not even what another process may be writing there just now.
        report: told what went wrong, in a line.

    Use it as a context manager, or call `close`: only then is everything written.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        read_only: bool = False,
        report: Callable[[str], None] = warn,
    ):
        # Orbax needs an absolute path, and would otherwise fail later, in its own thread.
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise InputError(f"{self.directory}: holds no checkpoint")
        self._report = report
        self._saving: int | None = None
        self._writes, self._failed = not read_only, False
        if self._writes and jax.process_index() == 0:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.directory}: cannot be made a folder ({error.strerror})") from error
        self._leave_out_damaged()
        self._tidy()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), *_best(keep_best)]),
            best_fn=None if read_only else _metric,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            # Removing a folder takes a while, in which a kill would leave what looks like a damaged checkpoint.
            todelete_subdir=None if read_only else _DISCARDED,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        handlers = {
            "network": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        try:
            self._manager = _Manager(self.directory, options=options, item_handlers=handlers)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.directory}: cannot be used ({_reason(error)})") from error

    def _leave_out_damaged(self):
        """Finds the checkpoints that are damaged, before Orbax reads any, and gives them other names."""
        self._damaged: dict[int, str] = {}
        if not self._writes or jax.process_index() == 0:  # of those that write, one decides for all
            steps = [
                int(path.name) for path in self.directory.glob("*") if path.name.isascii() and path.name.isdecimal()
            ]
            found = {step: integrity.damage(self.directory / str(step)) for step in sorted(steps)}
            # A run that is going on may have removed one meanwhile.
            self._damaged = {step: wrong for step, wrong in found.items() if wrong and self._has(step)}
        for step, wrong in self._damaged.items():
            path = self.directory / str(step)
            if not self._writes:
                self._report(f"{path}: {wrong}: it is left out")
                continue
            names = (f"damaged-{step}" + (f"-{n}" if n else "") for n in range(10_000))
            aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
            path.rename(aside)
            self._report(f"{path}: {wrong}: it is left out, and set aside as {aside.name}")
        if self._writes:
            self._damaged = {}
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")

    def _has(self, step):
        return (self.directory / str(step)).exists()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits until everything is written, or has turned out to be impossible to write."""
        self.wait()
        self._manager.close()
        self._tidy()

    def wait(self) -> None:
        """Waits until the last `save` is done, and reports if it has failed."""
        with self._failure_is_reported(self._saving):
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the checkpoint with the highest test accuracy after an epoch; None if there is none."""
        accuracies = {step: self.about(step).get(_METRIC) for step in self.steps()}
        found = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
        return max(found)[1] if found else None

    def steps(self) -> list[int]:
        """The steps of all checkpoints that are not damaged, increasing."""
        return sorted(step for step in self._manager.all_steps() if step not in self._damaged)

    def set_aside(self) -> list[str]:
        """The names of damaged checkpoints, now and earlier."""
        return sorted(path.name for path in self.directory.glob("damaged-*"))

    def save(self, state: TrainState, about: dict[str, Any], *, test_accuracy: float | None = None) -> None:
        """Saves a state. Its arrays may be donated as soon as this returns.

        Waits for the one before to be written. What cannot be written is reported.

        Args:
            state: to be saved under its own step. If that is there already, nothing is done.
            about: plain data to keep with it.
            test_accuracy: of the state, if it is known: then it may be kept as one of the best.

        Raises:
            InputError: if the folder holds later checkpoints, which are of another run.
        """
        self.wait()
        self._tidy()
        network, training = _items(state)
        metrics = {} if test_accuracy is None else {_METRIC: test_accuracy}
        step = int(state.step)
        if step == self.latest():
            # One that was made before the evaluation gives way to one of which the accuracy is known; unless it is the
            # only one, without which a kill in between would leave none.
            if not metrics or _METRIC in self.about(step) or len(self.steps()) == 1:
                return
            self._manager.delete(step)
        self._saving = step
        saved = True
        # Of several processes, one that goes on alone would wait for ever for the others, who wait for it in Orbax.
        alone = jax.process_count() == 1
        with self._failure_is_reported(step) if alone else self._failure_ends(step):
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    network=ocp.args.StandardSave(network),
                    training=ocp.args.StandardSave(training),
                    about=ocp.args.JsonSave(about | metrics),
                ),
                metrics=metrics or None,
            )
        if not saved:
            raise InputError(f"{self.directory}: holds later checkpoints, up to step {self.latest()}, of another run")

    def _seal(self) -> None:
        """Called in the background when all files of a checkpoint are written, before it gets its name."""
        if jax.process_index() == 0:
            for part in self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                integrity.seal(part)

    def _tidy(self):
        """Removes the checkpoints that are not kept, and what is there of one that could not be written."""
        if self._writes and jax.process_index() == 0:
            names = [_DISCARDED]
            # Once more later, since Orbax does not wait for those of its threads that have not failed yet.
            names += ["*.orbax-checkpoint-tmp*"] if self._failed else []
            for path in (path for name in names for path in self.directory.glob(name)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _failure_is_reported(self, step):
        try:
            yield
        except Exception as error:  # whatever it is, an hour of training is worth more than the reason it is not kept
            self._failed = True
            self._tidy()
            self._manager.reload()
            before = self.latest()
            last = "there is none" if before is None else f"the last one is of step {before}"
            self._report(
                f"the checkpoint of step {step} could not be written ({_reason(error)}): going on without it; {last}"
            )

    @contextlib.contextmanager
    def _failure_ends(self, step):
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and "os_error_code" not in str(error):
                raise  # it is no matter of the disk: another process is lost
            why = f"the checkpoint of step {step} could not be written ({_reason(error)})"
            raise InputError(f"{self.directory}: {why}: make room; --resume then goes on from the last one") from error

    def choose(self, which: str | int = "latest") -> int:
        """The step of the checkpoint that is meant.

        Args:
            which: "latest", "best", or a step.

        Raises:
            InputError: if there is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            broken = f": {', '.join(map(str, self._damaged))} cannot be read" if self._damaged else ""
            raise InputError(f"{self.directory}: holds no checkpoint{broken}")
        if which == "latest":
            return steps[-1]
        step = self.best() if which == "best" else int(which)
        if step is None:
            raise InputError(f"{self.directory}: none of the checkpoints was made after an evaluation: name a step")
        if step not in steps:
            raise InputError(f"{self.directory}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return step

    def about(self, step: int | None = None) -> dict[str, Any]:
        """What was kept with a checkpoint; None is the newest.

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        step = self._require(step)
        with self._must_be_readable(step):
            about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            if not isinstance(about, dict):
                raise ValueError("about is no table")
            return about

    def _require(self, step):
        step = self.latest() if step is None else step
        if step is None:
            raise InputError(f"{self.directory}: holds no checkpoint")
        return step

    @contextlib.contextmanager
    def _must_be_readable(self, step):
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # Orbax raises bare ones, too
            path = self.directory / str(step)
            if not self._has(step):
                raise InputError(
                    f"{path}: the run that is going on there has removed it meanwhile: try again"
                ) from error
            if integrity.damage(path) is None:
                taken = "\\" in path.as_posix()
                cure = "rename the folder: tensorstore takes its backslash for a slash" if taken else "keep it"
                raise InputError(
                    f"{path}: this checkpoint cannot be read here, though its sums are right ({_reason(error)}): {cure}"
                ) from error
            raise InputError(
                f"{path}: this checkpoint cannot be read: delete it, and the one before is used, if there is one"
            ) from error

    def _require_same_arrays(self, step, saved, wanted):
        theirs, ours = _shapes(saved), _shapes(wanted)
        for path in sorted(theirs.keys() | ours.keys()):
            if theirs.get(path) != ours.get(path):
                there, here = (f"of shape {x[path]}" if path in x else "missing" for x in (theirs, ours))
                raise InputError(
                    f"{self.directory}: the checkpoint of step {step} is of another network ({path} is {there} there "
                    f"and {here} in this one): give the config that it was trained with"
                )

    def restore(
        self, like: TrainState, step: int | None = None, *, network_only: bool = False
    ) -> tuple[TrainState, dict[str, Any]]:
        """A checkpoint, on the devices of `like`, and what was kept with it.

        Args:
            like: a state of the same shapes, dtypes and structure.
            step: of the checkpoint; None is the newest.
            network_only: leave the optimiser as it is in `like`, so that only the network needs to be the same.

        Raises:
            InputError: if there is none, if it is of another network, or if it cannot be read.
        """
        step = self._require(step)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _items(like))
        wanted = {"network": abstract[0]} if network_only else dict(zip(("network", "training"), abstract, strict=True))
        items = {name: ocp.args.StandardRestore(target) for name, target in wanted.items()}
        with self._must_be_readable(step):
            saved = self._manager.item_metadata(step).network
            if saved is not None:
                self._require_same_arrays(step, saved, abstract[0])
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        training = _items(like)[1] if network_only else restored.training
        return TrainState(**restored.network, **training), self.about(step)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax asks for its log alone, with numbers of its own, between which the next one of ours may be missed.
        return False


def _best(count: int) -> list[policies.PreservationPolicy]:
    if not count:
        return []
    return [policies.BestN(get_metric_fn=_metric, n=count, keep_checkpoints_without_metrics=False)]


def _metric(metrics: dict[str, float]) -> float:
    return metrics[_METRIC]


def _reason(error: Exception) -> str:
    """The operating system's words, of an error that may have pages."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if code := re.search(r"os_error_code='(\d+)'", text):  # as tensorstore says it
        return os.strerror(int(code[1]))
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}..."


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path."""
    return {
        "/".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path): tuple(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    network = {"params": state.params, "statistics": state.statistics}
    if state.average is not None:
        network["average"] = state.average
    return network, {"step": state.step, "optimizer": state.optimizer}
