"""The network of a run, as one of its checkpoints has it, and the data set that it was trained on."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lmjax import networks, registry, weights
from lmjax.config import Config
from lmjax.console import few, no_logging, warn
from lmjax.data import Dataset, Photographs, normalize
from lmjax.data.crops import shorter_side
from lmjax.data.feed import EvaluationFeed, evaluation_feed
from lmjax.data.given import Preparation
from lmjax.devices import data_mesh, over_batches, replicated, shardings
from lmjax.errors import InputError
from lmjax.runtime import compiler_options
from lmjax.training.checkpoint import Checkpoints
from lmjax.training.epoch import mean_metrics
from lmjax.training.run_record import RunRecord
from lmjax.training.state import TrainState, initialize
from lmjax.training.step import Evaluation
from lmjax.weights import Weights, require_data

_BATCH = 128


class Prediction(NamedTuple):
    """The predictions of a network for N images.

    Attributes:
        probabilities: float32 [N, classes].
        labels: int32 [N], the most probable class of each, as a position in `TrainedNetwork.classes`.
    """

    probabilities: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork(contextlib.AbstractContextManager["TrainedNetwork"]):
    """A network to be looked at, on any number of devices. Its images are loaded when they are first asked for.

    Attributes:
        record: the folder of the run, or the file of weights.
        config, step: of the run, and of the checkpoint.
        mesh: the devices.
        trained_on: what the checkpoint says of the data; see `describe` of a data set.
        graph, state: the network, as `nnx.split` gives it; the state is without that of the optimizer.
        has_data: False for weights without a data set.
    """

    record: RunRecord
    config: Config
    step: int
    mesh: Mesh
    trained_on: dict[str, Any]
    graph: nnx.GraphDef
    state: TrainState
    has_data: bool = True

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
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image in training."""
        return tuple(self.trained_on["shape"])

    @property
    def prepare(self) -> Preparation:
        """Scales and cuts an image, given as for `predict`, to [H, W, C], ready for `normalized`."""
        of_weights, height = self.trained_on.get("shorter_side"), self.shape[0]
        return Preparation(self.shape, of_weights or shorter_side(height, self.config.data.origin.streamed))

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
        """The data set, with mean and std of the training; InputError if it is missing, or has other classes."""
        if not self.has_data:
            raise InputError(f"{self.record.directory}: has weights, and no images: give load a config with a data set")
        dataset = self.config.data.load()
        _require_fitting(dataset.describe(), self.trained_on, self.record)
        return dataclasses.replace(dataset, mean=self.mean, std=self.std)

    @functools.cached_property
    def _feed(self) -> EvaluationFeed:
        return evaluation_feed(self.config, self.dataset, self.mesh)

    @property
    def name(self) -> str:
        """Network and scheme: "resnet20, lm"."""
        return f"{self.config.model.name}, {_scheme(self)}"

    def model(self) -> networks.Network:
        """The network, ready to evaluate: `self.logits(model, pixels)`."""
        gather = jax.jit(lambda tree: tree, out_shardings=replicated(self.mesh))
        model = nnx.merge(self.graph, *gather(self.state.evaluated()))
        model.eval()
        return model

    def weights(self) -> Weights:
        """The weights that are evaluated, to be written by `lmjax.weights.save`."""
        data = {"classes": self.classes, "mean": self.mean, "std": self.std, "shape": self.shape}
        return Weights.of(self.model(), self.config.model, **data, shorter_side=self.prepare.shorter)

    def evaluate(self) -> dict[str, float]:
        """The metrics over every test image, each counted once; see `training.evaluate`."""
        function = Evaluation.of(self.config, self.dataset, self.graph, self._feed, self.mesh).evaluate
        found = mean_metrics(_as_in_training(function, self.mesh), self.state.evaluated(), self._feed)
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
        """At most `count` test images, drawn by `seed` without replacement, in their order, as of `test_batches`."""
        chosen = np.zeros(total := len(self.dataset.test), bool)
        chosen[np.random.default_rng(seed).choice(total, min(count, total), replace=False)] = True
        images, labels = [], []
        for some, theirs in self.test_batches():
            picked, chosen = np.split(chosen, [len(theirs)])
            images.append(some[picked]), labels.append(theirs[picked])
        return np.concatenate(images), np.concatenate(labels)

    def predict(self, images: Any) -> Prediction:
        """The probabilities of the classes for images of any number, kind and size.

        They are scaled, cut and normalized as in an evaluation of the data set that the network was trained on.

        Args:
            images: a path, an image of Pillow, or an array [h, w, c] of pixels, 0 to 255; a list of any of these; or an
                array [N, h, w, c]. Arrays of the network's own shape, as from `test_batches`, are not scaled or cut.

        Raises:
            InputError: naming an image that cannot be read or decoded, or does not fit.
        """
        parts = self.prepare.batches(images, _BATCH)
        shares = np.concatenate([over_batches(self._probabilities, self.mesh, _BATCH, part) for part in parts])
        return Prediction(shares, shares.argmax(-1).astype(np.int32))

    @functools.cached_property
    def _probabilities(self) -> Callable[..., jax.Array]:
        return _compiled(self.model(), lambda model, pixels: jax.nn.softmax(self.logits(model, pixels)))

    def over_batches(self, function: Callable[..., Any], size: int, *arrays: np.ndarray, axis: int = 0) -> Any:
        """Compile `function(network, *batch)`, apply it to all batches, and join the results along an axis."""
        return over_batches(_compiled(self.model(), function), self.mesh, size, *arrays, axis=axis)


def _scheme(trained: TrainedNetwork) -> str:
    return trained.config.model.stepper or networks.scheme(nnx.merge(trained.graph, *trained.state.evaluated()))


def _as_in_training(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A function to be compiled with the options of the evaluations of a run, such as no excess precision on a GPU."""
    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(function, out_shardings=replicated(mesh), compiler_options=options)


def _compiled(model: nnx.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """The program of `function(model, *arrays)`, which takes the arrays."""
    graph, state = nnx.split(model)
    program = jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))
    return functools.partial(program, nnx.to_pure_dict(state))


def load(
    directory: str | Path,
    *,
    at: str | int = "latest",
    config: Config | None = None,
    data_dir: str | None = None,
) -> TrainedNetwork:
    """Open a run that has left a checkpoint, without its data, or weights. Nothing is written to its folder.

    Args:
        directory: the folder of the run, or a .safetensors file that `lmjax.weights.save` has written.
        at: which checkpoint of the run: "latest", "best", or a step.
        config: to use instead of the run's own; its network must be the same. For weights, it gives the data set.
        data_dir: where the data is now, if it has moved.

    Returns:
        The network; as a context manager, or by `close`, it ends what reads its images.

    Raises:
        InputError: if there is no such checkpoint or file, or the config is of another network.
    """
    record = RunRecord(directory)
    if weights.is_file(record.directory):
        return _of_weights(record, at, config, data_dir)
    if config is None:
        config = record.config()
    else:
        record.require_same(config, ("model", "train.average"))
    config = _with_data_in(data_dir, config)
    with no_logging(), Checkpoints(record.directory / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.choose(at)
        about = checkpoints.about(step)
        record.require_own(step, about)
        trained_on, mesh = _trained_on(about, step, record), data_mesh()
        classes, channels = len(trained_on["classes"]), trained_on["shape"][-1]
        try:
            model, state = initialize(config, classes, channels, None, None)
        except InputError as error:
            raise InputError(f"{record.directory}: {error}{registry.cure(error)}") from error
        layout = shardings(state, mesh, split=config.train.shard_parameters)
        like = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, layout)
        state, _ = checkpoints.restore(like, step, network_only=True)
    return TrainedNetwork(record, config, step, mesh, trained_on, nnx.graphdef(model), state)


def _with_data_in(folder: str | None, config: Config) -> Config:
    """The config with another folder of the data, if one is given."""
    return config if folder is None else dataclasses.replace(config, data=dataclasses.replace(config.data, dir=folder))


def _of_weights(record: RunRecord, at: str | int, config: Config | None, data_dir: str | None) -> TrainedNetwork:
    path, has_data = record.directory, config is not None
    found, mesh = weights.read(path), data_mesh()
    if at != "latest":
        raise InputError(f"{path}: has weights, and no checkpoints: leave out at={at!r}")
    if config is None:
        config = Config(model=found.model)
    elif config.model != found.model:
        raise InputError(f"{path}: is of another network than the config: {found.model}, not {config.model}")
    config = _with_data_in(data_dir, config)
    graph, params, statistics = nnx.split(found.network(), nnx.Param, nnx.BatchStat)
    state = TrainState(jnp.zeros((), jnp.int32), nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), None)
    about = {
        "classes": list(found.classes), "shape": list(found.shape), "mean": found.mean, "std": found.std,
        "shorter_side": found.shorter_side,
    }  # fmt: skip
    return TrainedNetwork(record, config, 0, mesh, about, graph, jax.device_put(state, replicated(mesh)), has_data)


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
    """Raise InputError if a network cannot take a data set; warn where only the size of the images differs."""
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
            parts.append(f"{what}: {few(different)}")
    return "; ".join(parts) + ("" if len(parts) > 1 else "; they are in another order")
