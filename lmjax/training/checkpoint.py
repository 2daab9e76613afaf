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

    Use it as a context manager, or call `close`: only then is everything written.
    """

    def __init__(self, directory: str | Path):
        # Orbax needs an absolute path, and would otherwise fail later, in its own thread.
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        )

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
        """
        network, training = _items(state)
        step = int(state.step)
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                network=ocp.args.StandardSave(network),
                training=ocp.args.StandardSave(training),
                about=ocp.args.JsonSave(about),
            ),
        )

    def restore(self, like: TrainState, *, network_only: bool = False) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, on the devices of `like`, and what was kept with it.

        Args:
            like: a state of the same shapes, dtypes and structure.
            network_only: leave the optimiser as it is in `like`, so that only the network needs to be the same.

        Raises:
            InputError: if there is none, or it is of another network.
        """
        step = self.latest()
        if step is None:
            raise InputError(f"{self.directory}: holds no checkpoint")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _items(like))
        wanted = {"network": abstract[0]} if network_only else dict(zip(("network", "training"), abstract, strict=True))
        items = {name: ocp.args.StandardRestore(target) for name, target in wanted.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore(), **items))
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{self.directory}: the checkpoint of step {step} does not fit this network: "
                f"{str(error).splitlines()[0]}"
            ) from error
        training = _items(like)[1] if network_only else restored.training
        return TrainState(**restored.network, **training), restored.about


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {"params": state.params, "statistics": state.statistics},
        {"step": state.step, "optimizer": state.optimizer},
    )
