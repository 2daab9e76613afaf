"""The network of a run, as one of its checkpoints has it, with the data that it was trained on."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax import networks
from lmjax.config import Config
from lmjax.console import warn
from lmjax.data import Dataset, Photographs, normalize
from lmjax.errors import InputError
from lmjax.training.checkpoint import Checkpoints
from lmjax.training.run_record import RunRecord
from lmjax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network and its data, to be looked at.

    Attributes:
        record: the folder of the run.
        config: of the run.
        step: of the checkpoint.
        trainer: with the state of the checkpoint; its data is normalized as in the run.
    """

    record: RunRecord
    config: Config
    step: int
    trainer: Trainer

    @property
    def dataset(self) -> Dataset | Photographs:
        """The data set; mean and std are those that the network was trained with."""
        return self.trainer.dataset

    @property
    def name(self) -> str:
        """Network and scheme: "resnet20, lm"."""
        return f"{self.config.model.name}, {self.trainer.scheme}"

    def model(self) -> networks.Network:
        """The network, ready to evaluate: `self.logits(model, pixels)`."""
        model = self.trainer.model
        model.eval()
        return model

    def normalized(self, pixels: jax.Array) -> jax.Array:
        """Pixels, 0 to 255, of any dtype, as the network takes them."""
        return normalize(pixels, self.dataset.mean, self.dataset.std, jnp.dtype(self.config.model.dtype))

    def logits(self, model: nnx.Module, pixels: jax.Array) -> jax.Array:
        """[N, H, W, C] in units of a pixel, 0 to 255, of any dtype -> logits [N, classes], float32.

        Differentiable in the pixels, if they are floating-point.
        """
        return model(self.normalized(pixels))

    def test_batches(self, limit: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The test images in their order, uint8 [N, H, W, C], and their labels, int32 [N].

        Args:
            limit: of how many images; None for all. The order of most data sets goes by class: `test_sample` mixes.
        """
        feed, left = self.trainer.feed, len(self.dataset.test) if limit is None else limit
        batch = jax.jit(feed.test_batch)
        for arrays in feed.test_arrays():
            if left <= 0:
                return
            images, labels = map(np.asarray, batch(arrays))
            there = np.flatnonzero(labels >= 0)[:left]
            left -= len(there)
            yield images[there], labels[there]

    def test_sample(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Some of the test images, drawn without replacement, in their order: as `test_batches`, in one piece.

        Args:
            count: how many; all, if there are no more.
            seed: draws them.
        """
        total = len(self.dataset.test)
        chosen = np.zeros(total, bool)
        chosen[np.random.default_rng(seed).choice(total, min(count, total), replace=False)] = True
        start, images, labels = 0, [], []
        for some, theirs in self.test_batches():
            picked = chosen[start : start + len(theirs)]
            images.append(some[picked]), labels.append(theirs[picked])
            start += len(theirs)
        return np.concatenate(images), np.concatenate(labels)

    def batches(self, size: int, *arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Pieces of arrays, of one length and split over the devices of the run.

        Args:
            size: of a piece; rounded up to a multiple of the devices, and no more than there is.
            arrays: of one length.

        Yields:
            How many rows of the pieces count, and the pieces. The last ones are filled up with copies of their first
            row.
        """
        mesh = self.trainer.mesh
        size = -(-min(size, len(arrays[0])) // mesh.size) * mesh.size
        for start in range(0, len(arrays[0]), size):
            pieces = [array[start : start + size] for array in arrays]
            count = len(pieces[0])
            filled = [np.concatenate([piece, np.repeat(piece[:1], size - count, axis=0)]) for piece in pieces]
            yield count, *(jax.device_put(piece, NamedSharding(mesh, P("data"))) for piece in filled)

    def over_batches(self, function: Callable[..., Any], size: int, *arrays: np.ndarray, axis: int = 0) -> Any:
        """The outcomes of `function(network, *pieces)` for all `batches`, compiled, and joined along an axis."""
        graph, state = nnx.split(self.model())
        program = jax.jit(lambda state, *pieces: function(nnx.merge(graph, state), *pieces))
        state = nnx.to_pure_dict(state)
        parts = [
            jax.tree.map(lambda x, count=count: np.asarray(x).take(range(count), axis), program(state, *pieces))
            for count, *pieces in self.batches(size, *arrays)
        ]
        return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


@contextlib.contextmanager
def open_run(
    directory: str | Path,
    *,
    at: str | int = "latest",
    config: Config | None = None,
    data_dir: str | None = None,
) -> Generator[TrainedNetwork, None, None]:
    """Open a run that has left a checkpoint. Nothing is written to its folder.

    Args:
        directory: the folder of the run.
        at: which checkpoint: "latest", "best", or a step.
        config: to use instead of the run's own; its network must be the same.
        data_dir: where the data is now, if it has moved.

    Raises:
        InputError: if there is no such checkpoint, the data is missing, its classes are others, or the config is of
            another network.
    """
    record = RunRecord(directory)
    if config is None:
        config = record.config()
    else:
        record.require_same(config, ("model", "train.average"))
    if data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=data_dir))
    with Checkpoints(record.directory / "checkpoints", read_only=True) as checkpoints:
        dataset = config.data.load()
        step = checkpoints.choose(at)
        about = checkpoints.about(step)
        record.require_own(step, about)
        now = dataset.describe()
        try:
            trained_on = about["data"]
            mean, std = (np.array(trained_on[key], np.float32) for key in ("mean", "std"))
            different = _other_classes(trained_on["classes"], now["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{record.directory}: the checkpoint of step {step} does not say what data it was trained on ({error}"
                "): evaluate another one"
            ) from error
        if different:
            raise InputError(f"{record.directory}: {different}")
        for key in ("shape", "resized"):
            if now.get(key) != trained_on.get(key):
                warn(f"note: {key} was {trained_on.get(key)} in training, and is {now.get(key)} here")
        with Trainer(config, dataclasses.replace(dataset, mean=mean, std=std)) as trainer:
            trainer.state, _ = checkpoints.restore(trainer.state, step, network_only=True)
            yield TrainedNetwork(record, config, step, trainer)


def _other_classes(trained_on: list[str], now: list[str]) -> str:
    """The difference between the classes, in words: a few of them, for there may be a thousand. "" if there is none."""
    if trained_on == now:
        return ""
    parts = [f"was trained on {len(trained_on)} classes, and here are {len(now)}"]
    for names, others, what in ((trained_on, now, "missing here"), (now, trained_on, "new")):
        if different := sorted(set(names) - set(others)):
            parts.append(f"{what}: {', '.join(different[:5])}" + (", ..." if len(different) > 5 else ""))
    return "; ".join(parts) + ("" if len(parts) > 1 else "; they are in another order")
