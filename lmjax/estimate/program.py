"""The programs of a run, compiled for accelerators that need not be there."""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from lmjax.config import Config
from lmjax.data import Dataset, Photographs
from lmjax.data.feed import evaluation_feed, training_feed
from lmjax.devices import data_mesh, has_seeds, seed_array, seed_mesh, shardings
from lmjax.errors import InputError, reason
from lmjax.estimate.targets import Target
from lmjax.training.compiled import Compiled
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.state import initialize
from lmjax.training.step import StepFunctions


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        name: "train" or "evaluate".
        compiled: what XLA has made.
        steps: of training that it makes; 1 batch of an evaluation.
        seconds: of tracing and compiling.
    """

    name: str
    compiled: jax.stages.Compiled
    steps: int
    seconds: float


def outline(config: Config) -> Dataset | Photographs:
    """The data of a run, without its images where their number and shape are known; else it is loaded."""
    made = config.data.origin.outline
    return config.data.load() if made is None else made()


def mesh_of(target: Target, seeds: int | None) -> Mesh:
    """The devices of a target for one run, or for so many seeds, one on each of the first devices.

    Raises:
        InputError: if there are more seeds than devices.
    """
    if seeds is None:
        return data_mesh(target.devices)
    if seeds > len(target.devices):
        raise InputError(
            f"--seeds {seeds}: target {target.name} has {len(target.devices)} devices, each for one seed: give fewer"
        )
    return seed_mesh(seeds, target.devices)


def prepare(config: Config, dataset: Dataset | Photographs, mesh: Mesh, seeds: Sequence[int]) -> Compiled:
    """The programs of a run, from the shapes of its state: those of a `Trainer` on a mesh that may only be described.

    Args:
        config, dataset: of the run.
        mesh: from `data_mesh` or `seed_mesh`.
        seeds: as many as the mesh has, where it is one of seeds.
    """
    feed, test_feed = training_feed(config, dataset, mesh, seeds), evaluation_feed(config, dataset, mesh)
    epochs, batch = config.train.epochs, config.train.batch_size
    rate = learning_rate(config.optimizer, steps_per_epoch=feed.steps_per_epoch, epochs=epochs, batch_size=batch)
    optimizer = create_optimizer(config.optimizer, rate)
    model, state = initialize(config, len(dataset.classes), dataset.shape[-1], None, optimizer)
    layout = shardings(state, mesh, split=config.train.shard_parameters)
    leading = (len(seeds),) if has_seeds(mesh) else ()
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding), state, layout
    )
    functions = StepFunctions.of(
        config, dataset, nnx.graphdef(model), test_feed, mesh, feed=feed, optimizer=optimizer, options=config.train,
        random=getattr(model, "random", True),
    )  # fmt: skip
    return Compiled(functions, mesh, state, seed_array(seeds, mesh), layout)


def programs(compiled: Compiled, target: Target) -> Iterator[Program]:
    """Compile the longest program of training, and that of an evaluation.

    Raises:
        InputError: if a program needs more memory than a device has, or the compiler fails.
    """
    steps = compiled.dispatches(compiled.functions.feed.steps_per_epoch)[0]
    for name, make, count in (("train", lambda: compiled.train(steps), steps), ("evaluate", compiled.evaluate, 1)):
        began = time.perf_counter()
        with _failure_is_named(name, target), _uncached():
            made = make()
        yield Program(name, made, count, time.perf_counter() - began)


@contextlib.contextmanager
def _failure_is_named(name: str, target: Target) -> Generator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        what = f"cannot be compiled ({reason(error)})"
        if "Couldn't find output tile sizes" in str(error):  # which are measured where there is a GPU
            what = "has a matrix product for which XLA finds no tiles: set XLA_FLAGS=--xla_gpu_enable_triton_gemm=false"
        elif "RESOURCE_EXHAUSTED" in str(error):
            gigabytes = target.memory / 2**30
            what = f"needs more than the {gigabytes:.0f} GiB of a device: choose a smaller batch, more devices or remat"
        raise InputError(f"target {target.name}: the program {name} {what}") from error


@contextlib.contextmanager
def _uncached() -> Generator[None]:
    """Without the folder of compiled programs: JAX cannot load one for devices that are not there."""
    settings: Any = jax.config
    enabled = settings.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
