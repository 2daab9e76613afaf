"""The network of a run, as one of its checkpoints has it, and the data set that it was trained on."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax import networks, weights
from lmjax.config import Config, DataConfig
from lmjax.console import warn
from lmjax.data import Dataset, Photographs, normalize
from lmjax.data.feed import EvaluationFeed, evaluation_feed
from lmjax.devices import data_mesh, replicated, shardings
from lmjax.errors import InputError
from lmjax.training.checkpoint import Checkpoints
from lmjax.training.epoch import mean_metrics
from lmjax.training.run_record import RunRecord, cure
from lmjax.training.state import TrainState, initialize
from lmjax.training.step import Evaluation
from lmjax.weights import Weights, require_data


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork(contextlib.AbstractContextManager):
    """A network to be looked at, on any number of devices. Its images are loaded when they are first asked for.

    Attributes:
        record: the folder of the run.
        config, step: of the run, and of the checkpoint.
        mesh: the devices.
        trained_on: what the checkpoint says of the data; see `describe` of a data set.
        graph, state: the network, as `nnx.split` gives it; the state is without that of the optimizer.
    """

    record: RunRecord
    config: Config
    step: int
    mesh: Mesh
    trained_on: dict[str, Any]
    graph: nnx.GraphDef
    state: TrainState

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End what reads photographs."""
        if "_feed" in self.__dict__:
            self._feed.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each logit."""
        return tuple(self.trained_on["classes"])

    @property
    def mean(self) -> np.ndarray:
        """The mean of each channel in training, in the units of a pixel (0 to 255); float32 [C]."""
        return np.array(self.trained_on["mean"], np.float32)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation, as `mean`."""
        return np.array(self.trained_on["std"], np.float32)

    @functools.cached_property
    def dataset(self) -> Dataset | Photographs:
        """The data set; its mean and std are those of the training.

        Raises InputError if it is missing, or has other classes or channels.
        """
        dataset = self.config.data.load()
        _require_fitting(dataset.describe(), self.trained_on, self.record)
        return dataclasses.replace(dataset, mean=self.mean, std=self.std)

    @functools.cached_property
    def _feed(self) -> EvaluationFeed:
        return evaluation_feed(self.config, self.dataset, self.mesh)

    @property
    def name(self) -> str:
        """Network and scheme: "resnet20, lm"."""
        return f"{self.config.model.name}, {self.config.model.stepper or networks.scheme(self.model())}"

    def model(self) -> networks.Network:
        """The network, ready to evaluate: `self.logits(model, pixels)`."""
        gather = jax.jit(lambda tree: tree, out_shardings=replicated(self.mesh))
        model = nnx.merge(self.graph, *gather(self.state.evaluated()))
        model.eval()
        return model

    def weights(self) -> Weights:
        """What is evaluated, to be written by `lmjax.weights.save`."""
        data = {"classes": self.classes, "mean": self.mean, "std": self.std, "shape": self.trained_on["shape"]}
        return Weights.of(self.model(), self.config.model, **data)

    def evaluate(self) -> dict[str, float]:
        """The metrics over every test image, each counted once; see `training.evaluate`."""
        function = Evaluation.of(self.config, self.dataset, self.graph, self._feed, self.mesh).evaluate
        found = mean_metrics(jax.jit(function, out_shardings=replicated(self.mesh)), self.state.evaluated(), self._feed)
        assert found is not None  # which it is only after a pause
        return found[0]

    def take_broken(self) -> list[str]:
        """The images that could not be decoded since the last call."""
        return self._feed.take_broken()

    def normalized(self, pixels: jax.Array) -> jax.Array:
        """Pixels, 0 to 255, of any dtype, as the network takes them."""
        return normalize(pixels, self.mean, self.std, jnp.dtype(self.config.model.dtype))

    def logits(self, model: nnx.Module, pixels: jax.Array) -> jax.Array:
        """[N, H, W, C] in units of a pixel, 0 to 255, of any dtype -> logits [N, classes], float32.

        Differentiable in the pixels, if they are floating-point.
        """
        return model(self.normalized(pixels))

    def test_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The test images in their order, uint8 [N, H, W, C], and their labels, int32 [N].

        The order of most data sets goes by class: `test_sample` mixes.
        """
        batch = jax.jit(self._feed.batch)
        for arrays in self._feed.arrays():
            images, labels = map(np.asarray, batch(arrays))
            yield images[labels >= 0], labels[labels >= 0]

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
        """Cut arrays of equal length into batches of rows, each divided over the devices.

        Args:
            size: the rows of a batch, at most the length of the arrays; rounded up to a multiple of the devices.

        Yields:
            A count, and a batch of each array. Its first `count` rows are those of the array; in the last batch, copies
            of its first row follow.
        """
        size = -(-min(size, len(arrays[0])) // self.mesh.size) * self.mesh.size
        for start in range(0, len(arrays[0]), size):
            pieces = [array[start : start + size] for array in arrays]
            count = len(pieces[0])
            filled = [np.concatenate([piece, np.repeat(piece[:1], size - count, axis=0)]) for piece in pieces]
            yield count, *(jax.device_put(piece, NamedSharding(self.mesh, P("data"))) for piece in filled)

    def over_batches(self, function: Callable[..., Any], size: int, *arrays: np.ndarray, axis: int = 0) -> Any:
        """Compile `function(network, *batch)`, apply it to all `batches`, and join the results along an axis."""
        graph, state = nnx.split(self.model())
        program = jax.jit(lambda state, *pieces: function(nnx.merge(graph, state), *pieces))
        state = nnx.to_pure_dict(state)
        parts = [
            jax.tree.map(lambda x, count=count: np.asarray(x).take(range(count), axis), program(state, *pieces))
            for count, *pieces in self.batches(size, *arrays)
        ]
        return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def open_run(
    directory: str | Path,
    *,
    at: str | int = "latest",
    config: Config | None = None,
    data_dir: str | None = None,
) -> TrainedNetwork:
    """Open a run that has left a checkpoint, without its data. Nothing is written to its folder.

    Args:
        directory: the folder of the run.
        at: which checkpoint: "latest", "best", or a step.
        config: to use instead of the run's own; its network must be the same.
        data_dir: where the data is now, if it has moved.

    Returns:
        The network; as a context manager, or by `close`, it ends what reads its images.

    Raises:
        InputError: if there is no such checkpoint, or the config is of another network.
    """
    record = RunRecord(directory)
    if config is None:
        config = record.config()
    else:
        record.require_same(config, ("model", "train.average"))
    if data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=data_dir))
    with Checkpoints(record.directory / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.choose(at)
        about = checkpoints.about(step)
        record.require_own(step, about)
        trained_on, mesh = _trained_on(about, step, record), data_mesh()
        classes, channels = len(trained_on["classes"]), trained_on["shape"][-1]
        try:
            model, state = initialize(config, classes, channels, None, None)
        except InputError as error:
            raise InputError(f"{record.directory}: {error}{cure(error)}") from error
        layout = shardings(state, mesh, split=config.train.shard_parameters)
        like = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, layout)
        state, _ = checkpoints.restore(like, step, network_only=True)
    return TrainedNetwork(record, config, step, mesh, trained_on, nnx.graphdef(model), state)


def open_weights(path: str | Path, data: DataConfig) -> TrainedNetwork:
    """Open a file that `lmjax.weights.save` has written, with a data set of its classes, as `open_run` opens a run.

    Raises:
        InputError: if the file cannot be read.
    """
    found, mesh = weights.read(path), data_mesh()
    graph, params, statistics = nnx.split(found.network(), nnx.Param, nnx.BatchStat)
    state = TrainState(jnp.zeros((), jnp.int32), nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), None)
    trained_on = {
        "classes": list(found.classes), "shape": list(found.shape), "mean": found.mean, "std": found.std,
    }  # fmt: skip
    config = Config(model=found.model, data=data)
    return TrainedNetwork(RunRecord(path), config, 0, mesh, trained_on, graph, jax.device_put(state, replicated(mesh)))


def _trained_on(about: dict[str, Any], step: int, record: RunRecord) -> dict[str, Any]:
    """The description of the data in a checkpoint. Raises InputError if it cannot be one."""
    try:
        found = about["data"]
        require_data(found)
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{record.directory}: the checkpoint of step {step} does not say what data it was trained on ({error}): "
            "evaluate another one"
        ) from error


def _require_fitting(now: dict[str, Any], trained_on: dict[str, Any], record: RunRecord) -> None:
    """Raise InputError if a network cannot take a data set; what is only another size is said."""
    different = _other_classes(trained_on["classes"], now["classes"])
    if not different and now["shape"][-1] != trained_on["shape"][-1]:
        different = f"was trained on {trained_on['shape'][-1]} channels, and here are {now['shape'][-1]}"
    if different:
        raise InputError(f"{record.directory}: {different}")
    for key in ("shape", "resized"):
        if key in trained_on and now.get(key) != trained_on[key]:
            warn(f"note: {key} was {trained_on[key]} in training, and is {now.get(key)} here")


def _other_classes(trained_on: list[str], now: list[str]) -> str:
    """The difference between the classes, in words: a few of them, for there may be a thousand. "" if there is none."""
    if trained_on == now:
        return ""
    parts = [f"was trained on {len(trained_on)} classes, and here are {len(now)}"]
    for names, others, what in ((trained_on, now, "missing here"), (now, trained_on, "new")):
        if different := sorted(set(names) - set(others)):
            parts.append(f"{what}: {', '.join(different[:5])}" + (", ..." if len(different) > 5 else ""))
    return "; ".join(parts) + ("" if len(parts) > 1 else "; they are in another order")
