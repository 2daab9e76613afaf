"""Checkpoints of a run, on Orbax.

Each is sealed with the sums of its files, which are compared before it is read; one without sums is tried as it is. All
its files are on the disk before it gets its name, and the name is on the disk before an older checkpoint is removed: a
power cut leaves the newest or the one before.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lmjax import files
from lmjax.console import warn
from lmjax.errors import InputError, reason
from lmjax.training.checkpoint_folder import DISCARDED, CheckpointFolder, PlainPath, Unreadable
from lmjax.training.state import TrainState

_METRIC = "test_accuracy"


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run. Writing goes on in the background; a checkpoint appears, and disappears, as a whole.

    The first of a run is read back at once. One that cannot be written is reported, not raised; those before it stay.
    The disk needs room for two more than are kept: the one being written, and the one that it replaces.

    Args:
        directory: where they are; made if it is not there.
        keep_last: the number of the newest that are kept.
        keep_best: the number of those with the highest "test_accuracy" that are kept besides.
        read_only: touch nothing, not even what another process may be writing there just now.
        report: told what went wrong, in a line.
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
        # Absolute, since Orbax needs that, and without links, since it and TensorStore resolve "link/.." differently.
        self.directory = Path(os.path.realpath(directory))
        self.folder = CheckpointFolder(self.directory, writes=not read_only, report=report)
        self._kept = _Kept(self.folder, keep_last, keep_best)
        self._saving: int | None = None
        self._path = PlainPath(self.directory)
        self._manager = _manager(self._path.path, self.folder, self._kept, lambda: self.folder.seal(self._saving))

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Wait until everything is written, which it is only then, or has turned out to be impossible to write."""
        self.wait()
        self._manager.close()
        self._path.close()
        self.folder.tidy()

    def wait(self) -> None:
        """Wait until the last `save` is done, and report if it has failed."""
        with self._reported(self._saving):
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the checkpoint with the highest test accuracy after an epoch; None if there is none."""
        return max(self._kept.best(self.steps(), 1), default=None)

    def steps(self) -> list[int]:
        """The steps of all checkpoints that are not damaged, increasing."""
        return sorted(step for step in self._manager.all_steps() if step not in self.folder.damaged)

    def choose(self, which: str | int) -> int:
        """The step that is meant by "latest", "best", or a step. Raises InputError if there is no such checkpoint."""
        return _chosen(which, self.steps(), self.best(), self.folder)

    def about(self, step: int) -> dict[str, Any]:
        """The plain data that was kept with a checkpoint. Raises InputError as `restore`."""
        return self.folder.about(step)

    def save(self, state: TrainState, about: dict[str, Any], *, test_accuracy: float | None = None) -> None:
        """Save a state under its own step, once the one before is written. Its arrays may then be donated.

        A step that is there already is left as it is, unless its accuracy has become known.

        Args:
            state: to be saved.
            about: plain data to keep with it.
            test_accuracy: of the state, if it is known: then it may be kept as one of the best.

        Raises:
            InputError: if there are later checkpoints, of another run, or the first one is not read back as it was.
        """
        self.wait()
        self.folder.tidy()
        step, first = int(state.step), not self.steps()
        metrics = {} if test_accuracy is None else {_METRIC: test_accuracy}
        if step == self.latest():
            # The only checkpoint is not replaced: a kill before the new one is written would leave none.
            if not metrics or _METRIC in self.about(step) or len(self.steps()) == 1:
                return
            self._manager.delete(step)
        self._saving, self._kept.accuracies[step] = step, test_accuracy
        saved = True
        # Several processes: raise, as one that went on alone would wait forever for the others, which wait in Orbax.
        with self._reported(step) if jax.process_count() == 1 else _raised(step, self.directory):
            saved = self._manager.save(step, args=_saved(state, about | metrics))
        if not saved:
            raise InputError(f"{self.directory}: holds later checkpoints, up to step {self.latest()}, of another run")
        if first:
            self.wait()
            if self.steps():  # else it is reported that it could not be written
                _require_equal(state, lambda: _read(self._manager, self.folder, step, state)[0], self.directory)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a run that goes on from this one makes once more."""
        for later in [other for other in self.steps() if other > step]:
            self._manager.delete(later)

    def restore(
        self, like: TrainState, step: int | None = None, *, network_only: bool = False
    ) -> tuple[TrainState, dict]:
        """A checkpoint, on the devices of `like`, and what was kept with it.

        Args:
            like: a state of the same shapes, dtypes and structure.
            step: of the checkpoint; None is the newest that can be read.
            network_only: leave the optimizer as it is in `like`, so that only the network needs to be the same.

        Raises:
            InputError: if there is none, if it is of another network, or if it cannot be read.
        """
        if step is not None:
            return _read(self._manager, self.folder, step, like, network_only)
        while (found := self.try_restore(like, self.choose("latest"), network_only)) is None:
            pass
        return found

    def try_restore(self, like: TrainState, step: int, network_only: bool = False) -> tuple[TrainState, dict] | None:
        """As `restore`, of one step; None if one of the processes cannot read it. It is set aside then."""
        try:
            found = _read(self._manager, self.folder, step, like, network_only)
        except Unreadable:
            found = None
        # With parameters that are divided over the devices, each process reads its own part, and all must succeed.
        if np.all(multihost_utils.process_allgather(np.bool_(found is not None))):
            return found
        if not self.folder.writes or jax.process_index() == 0:
            self.folder.leave_out(step, "cannot be read")
        multihost_utils.sync_global_devices(f"the checkpoint of step {step} is left out")
        self._manager.reload()
        return None

    @contextlib.contextmanager
    def _reported(self, step: int | None) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:  # whatever it is, an hour of training is worth more than the reason it is not kept
            self.folder.failed = True
            self.folder.tidy()
            self._manager.reload()
            last = "there is none" if (before := self.latest()) is None else f"the last one is of step {before}"
            self.folder.report(f"{_unwritten(step, error)}: going on without it; {last}")


def _chosen(which: str | int, steps: Sequence[int], best: int | None, folder: CheckpointFolder) -> int:
    if not steps:
        aside = [*map(str, sorted(folder.damaged)), *folder.set_aside()]
        why = f" that is whole ({', '.join(aside)}): restore one from a copy, or start a new run"
        raise InputError(f"{folder.path}: holds no checkpoint{why if aside else ''}")
    step = {"latest": steps[-1], "best": best}.get(str(which), which)
    if step is None:
        raise InputError(f"{folder.path}: none of the checkpoints was made after an evaluation: name a step")
    if str(step) not in map(str, steps):
        raise InputError(f"{folder.path}: no checkpoint {step}: choose from latest, best, {', '.join(map(str, steps))}")
    return int(step)


class _Kept:
    """The checkpoints that Orbax is to keep: the newest, and those with the highest accuracies."""

    def __init__(self, folder: CheckpointFolder, last: int, best: int):
        self._folder, self._last, self._best = folder, last, best
        self.accuracies: dict[int, float | None] = {}

    def best(self, steps: Sequence[int], count: int) -> set[int]:
        """The steps, of these, with the highest accuracies, so many of them at most."""
        for step in steps:
            if step not in self.accuracies:
                with contextlib.suppress(InputError):
                    self.accuracies[step] = self._folder.about(step).get(_METRIC)
        found = sorted((accuracy, step) for step in steps if (accuracy := self.accuracies.get(step)) is not None)
        return {step for _, step in found[::-1][:count]}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell Orbax which checkpoints to keep; one of them is just being saved."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self._last :], *self.best(steps, self._best)}
        return [step in kept for step in steps]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Orbax asks only for its log. Its step numbers would count as asked, and `Interruption` might miss its own.
        return False

    def _load_checkpoint_infos(self, skip_metadata_read: bool = False) -> list[Any]:
        # Orbax's own metadata have no checksum, and the list of checkpoints does not need them.
        return super()._load_checkpoint_infos(skip_metadata_read=True)

    def _finalize_checkpoint(self, step: int) -> None:
        """Called in the background when a checkpoint has its name, and before older ones are removed."""
        super()._finalize_checkpoint(step)
        if jax.process_index() == 0:
            folder = Path(self.directory, str(step))
            for path in (*filter(Path.is_file, folder.iterdir()), folder, folder.parent):
                files.sync(path)


def _manager(path: Path, folder: CheckpointFolder, kept: _Kept, seal: Callable[[], None]) -> _Manager:
    """Orbax's manager of the checkpoints in a folder, which it is given by a path that it takes as it is."""
    options = ocp.CheckpointManagerOptions(
        preservation_policy=kept,
        read_only=not folder.writes,
        create=folder.writes,
        cleanup_tmp_directories=folder.writes,
        # Renamed before it is removed: a kill in the middle would otherwise leave what looks like a damaged checkpoint.
        todelete_subdir=DISCARDED if folder.writes else None,
        async_options=ocp.options.AsyncOptions(post_finalization_callback=seal),
    )
    arrays = ocp.StandardCheckpointHandler
    handlers = {"network": arrays(), "training": arrays(), "about": ocp.JsonCheckpointHandler()}
    try:
        return _Manager(path, options=options, item_handlers=handlers)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path}: cannot be used ({reason(error)})") from error


def _read(
    manager: _Manager, folder: CheckpointFolder, step: int, like: TrainState, network_only: bool = False
) -> tuple[TrainState, dict[str, Any]]:
    network, training = _items(like)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (network, training))
    wanted = {"network": abstract[0]} if network_only else dict(zip(("network", "training"), abstract, strict=True))
    with folder.reading(step):
        # Read by itself: the manager would look into Orbax's own metadata first, which have no checksum.
        saved = ocp.StandardCheckpointHandler().metadata(manager.directory / str(step) / "network")
        _require_same_arrays(saved, abstract[0], f"{folder.path}: the checkpoint of step {step}")
        items = {name: ocp.args.StandardRestore(target) for name, target in wanted.items()}
        restored: Any = manager.restore(step, args=ocp.args.Composite(**items))
    return TrainState(**restored.network, **(training if network_only else restored.training)), folder.about(step)


@contextlib.contextmanager
def _raised(step: int, directory: Path) -> Generator[None, None, None]:
    """Turn an error of the disk into an InputError; any other tells that another process is lost."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and "os_error_code" not in str(error):
            raise
        cure = "make room; --resume then goes on from the last one"
        raise InputError(f"{directory}: {_unwritten(step, error)}: {cure}") from error


def _unwritten(step: int | None, error: Exception) -> str:
    return f"the checkpoint of step {step} could not be written ({reason(error)})"


def _require_equal(state: TrainState, read: Callable[[], TrainState], directory: Path) -> None:
    """Raise InputError if what is read is not the state that was saved."""
    try:
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(read()), strict=True)
        why = None if all(_same(*pair) for pair in pairs) else "other numbers"
    except InputError as error:
        why = reason(error.__cause__ or error)
    if why:
        raise InputError(
            f"{directory}: the first checkpoint was written, and is not what is read back ({why}): choose another "
            "--workdir"
        )


def _require_same_arrays(saved: Any, wanted: Any, checkpoint: str) -> None:
    theirs, ours = _shapes(saved), _shapes(wanted)
    for path in sorted(theirs.keys() | ours.keys()):
        if theirs.get(path) != ours.get(path):
            there, here = (f"of shape {x[path]}" if path in x else "missing" for x in (theirs, ours))
            raise InputError(
                f"{checkpoint} is of another network ({path} is {there} there and {here} in this one): give the config "
                "that it was trained with"
            )


def _same(a: jax.Array, b: jax.Array) -> bool:
    """True if two arrays have the same bits, as far as this process has them."""
    pairs = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes() for x, y in pairs)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    network = {"params": state.params, "statistics": state.statistics}
    if state.average is not None:
        network["average"] = state.average
    return network, {"step": state.step, "optimizer": state.optimizer}


def _saved(state: TrainState, about: dict[str, Any]) -> ocp.args.Composite:
    network, training = map(ocp.args.StandardSave, _items(state))
    return ocp.args.Composite(network=network, training=training, about=ocp.args.JsonSave(about))
