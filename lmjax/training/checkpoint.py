"""Checkpoints of a run, on Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lmjax.errors import InputError
from lmjax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run. The newest two are kept; writing goes on in the background.

    Args:
        directory: where they are; made if it is not there.
        read_only: touch nothing, not even what another process may be writing there just now.

    Use it as a context manager, or call `close`: only then is everything written.
    """

    def __init__(self, directory: str | Path, *, read_only: bool = False):
        # Orbax needs an absolute path, and would otherwise fail later, in its own thread.
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise InputError(f"{self.directory}: holds no checkpoint")
        options = (
            ocp.CheckpointManagerOptions(read_only=True, create=False)
            if read_only
            else ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        )
        handlers = {
            "network": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, about: dict[str, Any]) -> None:
        """Saves a state. Its arrays may be donated as soon as this returns.

        Args:
            state: to be saved under its own step.
            about: plain data to keep with it.

        Raises:
            InputError: if the folder holds later checkpoints, which are of another run.
        """
        network, training = _items(state)
        step = int(state.step)
        if step == self.latest():
            return
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                network=ocp.args.StandardSave(network),
                training=ocp.args.StandardSave(training),
                about=ocp.args.JsonSave(about),
            ),
        )
        if not saved:
            raise InputError(f"{self.directory}: holds later checkpoints, up to step {self.latest()}, of another run")

    def about(self) -> dict[str, Any]:
        """What was kept with the newest checkpoint.

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        step = self._require_latest()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        except (ValueError, KeyError, OSError) as error:
            raise self._damaged(step) from error

    def _require_latest(self):
        step = self.latest()
        if step is None:
            raise InputError(f"{self.directory}: holds no checkpoint")
        return step

    def _damaged(self, step):
        return InputError(
            f"{self.directory / str(step)}: this checkpoint cannot be read: delete it, and the one before is used, "
            "if there is one"
        )

    def _require_same_arrays(self, step, saved, wanted):
        theirs, ours = _shapes(saved), _shapes(wanted)
        for path in sorted(theirs.keys() | ours.keys()):
            if theirs.get(path) != ours.get(path):
                there, here = (f"of shape {x[path]}" if path in x else "missing" for x in (theirs, ours))
                raise InputError(
                    f"{self.directory}: the checkpoint of step {step} is of another network ({path} is {there} there "
                    f"and {here} in this one): give the config that it was trained with"
                )

    def restore(self, like: TrainState, *, network_only: bool = False) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, on the devices of `like`, and what was kept with it.

        Args:
            like: a state of the same shapes, dtypes and structure.
            network_only: leave the optimiser as it is in `like`, so that only the network needs to be the same.

        Raises:
            InputError: if there is none, if it is of another network, or if it cannot be read.
        """
        step = self._require_latest()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _items(like))
        wanted = {"network": abstract[0]} if network_only else dict(zip(("network", "training"), abstract, strict=True))
        items = {name: ocp.args.StandardRestore(target) for name, target in wanted.items()}
        try:
            saved = self._manager.item_metadata(step).network
        except (ValueError, KeyError, OSError) as error:
            raise self._damaged(step) from error
        if saved is not None:
            self._require_same_arrays(step, saved, abstract[0])
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore(), **items))
        except (ValueError, KeyError, OSError) as error:
            raise self._damaged(step) from error
        training = _items(like)[1] if network_only else restored.training
        return TrainState(**restored.network, **training), restored.about


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
