"""Checkpoints of a run, on Orbax."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lmjax import files
from lmjax.console import warn
from lmjax.errors import InputError, reason
from lmjax.training import integrity
from lmjax.training.state import TrainState

_METRIC = "test_accuracy"
_DISCARDED = "discarded"
_DESCRIPTORS = Path("/proc/self/fd")


class _Unreadable(InputError):
    """A checkpoint that cannot be read, and whose sums are missing or do not match."""


class Checkpoints:
    """The checkpoints of one run. Writing goes on in the background; a checkpoint appears, and disappears, as a whole.

    Each is sealed with the sums of its files, which are compared before it is read; one without sums is tried as it is.
    All its files are on the disk before it gets its name, and the name is on the disk before an older checkpoint is
    removed: a power cut leaves the newest or the one before. The first of a run is read back at once. A checkpoint that
    cannot be written ends nothing: it is reported, and those before it stay. The disk needs room for two more than are
    kept: the one that is being written, and the one that it replaces.

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
        # Absolute, which Orbax needs, and without links: of "link/.." it and TensorStore think differently.
        self.directory = Path(os.path.realpath(directory))
        if read_only and not os.path.isdir(self.directory):
            raise InputError(f"{self.directory}: holds no checkpoint")
        self._report = report
        self._saving: int | None = None
        self._accuracies: dict[int, float | None] = {}
        self._keep_last, self._keep_best = keep_last, keep_best
        self._damaged: dict[int, str] = {}
        self._writes, self._failed = not read_only, False
        if self._writes and jax.process_index() == 0:
            try:
                files.make_folder(self.directory)
            except OSError as error:
                raise InputError(f"{self.directory}: cannot be made a folder ({reason(error)})") from error
        if not self._writes or jax.process_index() == 0:  # of those that write, one decides for all
            self._leave_out_damaged()
        if self._writes:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._tidy()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
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
        self._path = _PlainPath(self.directory)
        try:
            self._manager = _Manager(self._path.path, options=options, item_handlers=handlers)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.directory}: cannot be used ({reason(error)})") from error

    def _leave_out_damaged(self):
        """Find the checkpoints that are damaged, before Orbax reads any."""
        for step in checkpoint_steps(self.directory):
            path = self.directory / str(step)
            sums = integrity.sums(path)
            if sums is not None:
                wrong = integrity.damage(path, sums)
            else:
                wrong = None if _about(path).is_file() else "is no checkpoint"
            # A run that is going on may have removed one meanwhile.
            if wrong and self._has(step):
                self._leave_out(step, wrong)
            elif sums is None and self._has(step):
                self._report(f"{path}: {integrity.NAME} is missing or cut short: it is tried as it is")

    def _leave_out(self, step, wrong):
        """Do not use a checkpoint any more, and give it another name if that is ours to do."""
        path = self.directory / str(step)
        if not self._writes:
            self._damaged[step] = wrong
            self._report(f"{path}: {wrong}: it is left out")
            return
        names = (f"damaged-{step}" + (f"-{n}" if n else "") for n in range(10_000))
        aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        path.rename(aside)
        self._report(f"{path}: {wrong}: it is left out, and set aside as {aside.name}")

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
        self._path.close()
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
        return max(self._best_of(self.steps(), 1), default=None)

    def _best_of(self, steps, count):
        """The steps, of these, with the highest accuracies, so many of them at most."""
        for step in steps:
            if step not in self._accuracies:
                with contextlib.suppress(InputError):
                    self._accuracies[step] = self.about(step).get(_METRIC)
        found = sorted((accuracy, step) for step in steps if (accuracy := self._accuracies.get(step)) is not None)
        return {step for _, step in found[::-1][:count]}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell Orbax which checkpoints to keep; one of them is just being saved."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self._keep_last :], *self._best_of(steps, self._keep_best)}
        return [step in kept for step in steps]

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
            InputError: if the folder holds later checkpoints, which are of another run, or if this is the first one,
                and what is read back is not what was written.
        """
        self.wait()
        self._tidy()
        first = not self.steps()
        network, training = _items(state)
        metrics = {} if test_accuracy is None else {_METRIC: test_accuracy}
        step = int(state.step)
        if step == self.latest():
            # One that was made before the evaluation gives way to one of which the accuracy is known; unless it is the
            # only one, without which a kill in between would leave none.
            if not metrics or _METRIC in self.about(step) or len(self.steps()) == 1:
                return
            self._manager.delete(step)
        self._saving, self._accuracies[step] = step, test_accuracy
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
            )
        if not saved:
            raise InputError(f"{self.directory}: holds later checkpoints, up to step {self.latest()}, of another run")
        if first:
            self._read_back(state)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a run that goes on from this one makes once more."""
        for later in [other for other in self.steps() if other > step]:
            self._manager.delete(later)

    def _read_back(self, state):
        """Raise InputError if the checkpoint that was just saved cannot be read, or holds other numbers."""
        self.wait()
        if not self.steps():
            return  # that it could not be written is reported
        try:
            restored, _ = self._restore(state, int(state.step))
            why = None if all(map(_same, jax.tree.leaves(state), jax.tree.leaves(restored))) else "other numbers"
        except InputError as error:
            why = reason(error.__cause__ or error)
        if why:
            raise InputError(
                f"{self.directory}: the first checkpoint was written, and is not what is read back ({why}): choose "
                "another --workdir"
            )

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
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

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
                f"the checkpoint of step {step} could not be written ({reason(error)}): going on without it; {last}"
            )

    @contextlib.contextmanager
    def _failure_ends(self, step):
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and "os_error_code" not in str(error):
                raise  # it is no matter of the disk: another process is lost
            why = f"the checkpoint of step {step} could not be written ({reason(error)})"
            raise InputError(f"{self.directory}: {why}: make room; --resume then goes on from the last one") from error

    def choose(self, which: str | int = "latest") -> int:
        """The step of the checkpoint that is meant.

        Args:
            which: "latest", "best", or a step.

        Raises:
            InputError: if there is no such checkpoint.
        """
        latest, steps = self._require(None), self.steps()
        if which == "latest":
            return latest
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
            about = json.loads(_about(self.directory / str(step)).read_text(encoding="utf-8"))
            if not isinstance(about, dict):
                raise ValueError("about is no table")
            return about

    def _require(self, step):
        step = self.latest() if step is None else step
        if step is None:
            damaged = [*map(str, self._damaged), *self.set_aside()]
            why = f" that is whole ({', '.join(damaged)}): restore one from a copy, or start a new run"
            raise InputError(f"{self.directory}: holds no checkpoint{why if damaged else ''}")
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
            sums = integrity.sums(path)
            if sums is not None and integrity.damage(path, sums) is None:
                raise InputError(
                    f"{path}: this checkpoint cannot be read here, though its sums are right ({reason(error)}): keep it"
                ) from error
            raise _Unreadable(
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
            step: of the checkpoint; None is the newest that can be read.
            network_only: leave the optimiser as it is in `like`, so that only the network needs to be the same.

        Raises:
            InputError: if there is none, if it is of another network, or if it cannot be read.
        """
        if step is not None:
            return self._restore(like, step, network_only=network_only)
        while True:
            chosen = self._require(None)
            try:
                found = self._restore(like, chosen, network_only=network_only)
            except _Unreadable:
                found = None
            # Of parameters that are divided over the devices, each process reads its own.
            if np.all(multihost_utils.process_allgather(np.bool_(found is not None))):
                return found
            if not self._writes or jax.process_index() == 0:
                self._leave_out(chosen, "cannot be read")
            multihost_utils.sync_global_devices(f"the checkpoint of step {chosen} is left out")
            self._manager.reload()

    def try_restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]] | None:
        """As `restore`, of one step; None if it cannot be read, and is set aside. For one process alone."""
        try:
            return self._restore(like, step)
        except _Unreadable:
            self._leave_out(step, "cannot be read")
            self._manager.reload()
            return None

    def _restore(self, like, step, *, network_only=False):
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

    def _finalize_checkpoint(self, step: int) -> None:
        """Called in the background when a checkpoint has its name, and before older ones are removed."""
        super()._finalize_checkpoint(step)
        if jax.process_index() == 0:
            folder = Path(self.directory, str(step))
            for path in (*filter(Path.is_file, folder.iterdir()), folder, folder.parent):
                files.sync(path)


def require_possible(directory: Path) -> None:
    """Check that checkpoints can be written below a folder of this name, which need not be there yet.

    Raises:
        InputError: if its name has characters that some reader interprets, and the system has no paths for open
            folders.
    """
    if not _is_plain(directory) and not os.path.isdir(_DESCRIPTORS):
        raise InputError(
            f"{directory}: on this system, the path of checkpoints can only have ASCII letters, digits and _ . - in "
            "it: choose another --workdir"
        )


def _is_plain(folder: Path) -> bool:
    return re.fullmatch(r"[\w./-]+", os.path.realpath(folder), re.ASCII) is not None


class _PlainPath:
    r"""A path to a folder that Orbax and TensorStore take as it is.

    They interpret some characters of a path ([, *, %, \\, letters that are not ASCII), and may not find what they have
    written. A path with other characters than ASCII letters, digits and _ . / - is replaced by /proc/self/fd/N, with N
    the descriptor of the open folder.

    Raises:
        InputError: where the system has no such paths.
    """

    def __init__(self, folder: Path):
        require_possible(folder)
        self.path, self._descriptor = folder, None
        if _is_plain(folder):
            return
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.path = _DESCRIPTORS / str(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _about(folder: Path) -> Path:
    """The file in which Orbax's handler keeps the plain data of a checkpoint."""
    return folder / "about" / "metadata"


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder, increasing."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isascii() and path.name.isdecimal())


def newest_about(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """The step of the newest checkpoint that says something of itself, and that; None if there is none."""
    for step in reversed(checkpoint_steps(directory)):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return step, json.loads(_about(directory / str(step)).read_text(encoding="utf-8"))
    return None


def _same(a: jax.Array, b: jax.Array) -> bool:
    """True if two arrays have the same bits, as far as this process has them."""
    pairs = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes() for x, y in pairs)


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
