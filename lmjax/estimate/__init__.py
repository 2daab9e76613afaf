"""The cost of a run on accelerators that need not be there: its programs, compiled, and read.

Nothing is run, and nothing is timed. What comes out is exact of the program (kernels, bytes, feature maps, collectives)
or an estimate of the compiler (cycles), which says so.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lmjax import networks
from lmjax.config import Config, DataConfig
from lmjax.console import warn
from lmjax.data import Dataset, Photographs
from lmjax.devices import data_mesh, seed_mesh
from lmjax.errors import InputError, reason
from lmjax.estimate.summary import Summary, summarize
from lmjax.estimate.targets import Target, known, target
from lmjax.training.compiled import Compiled
from lmjax.training.progress import LANES
from lmjax.training.seeds import in_turn

__all__ = ["Estimate", "Summary", "Target", "estimate", "known", "target"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The figures of one program of a run on a target.

    Attributes:
        target: as it was asked for.
        program: "train" or "evaluate".
        devices: of the target.
        batch: images on one device, in a step.
        steps: of training that the program makes.
        seconds: of tracing and compiling, on this machine.
        memory: bytes of a device that JAX takes.
        resident: bytes on a device through the whole run: the state, and the images of training and evaluation.
        fits: True if these and the program need no more, as far as the compiler says.
        plain_traffic: bytes that a step moves in the plain form of its blocks, see `networks.plain_traffic`; None for
            an evaluation, and for networks that are not made of steps.
        padding: images computed for each real one: above 1 on a TPU with few images a chip, else 1.
        summary: what the program is made of.
    """

    target: str
    program: str
    devices: int
    batch: int
    steps: int
    seconds: float
    memory: int
    resident: int
    fits: bool
    plain_traffic: int | None
    padding: float
    summary: Summary


def estimate(config: Config, where: Target, *, seeds: Sequence[int] | None = None) -> Iterator[Estimate]:
    """Compile the programs of a run for a target, and read them.

    Args:
        config: the run.
        where: from `target`.
        seeds: of runs side by side, one on each device; None: one run on all devices.

    Yields:
        The figures of the training, and then of the evaluation.

    Raises:
        InputError: if there are more seeds than devices, or the run cannot be compiled for the target, or does not fit.
    """
    count = len(where.devices)
    if seeds is not None and len(seeds) > count:
        raise InputError(
            f"--seeds {len(seeds)}: target {where.name} has {count} devices, each for one seed: give fewer"
        )
    if seeds is not None and in_turn(config):
        raise InputError("--seeds: photographs and train.shard_parameters train one seed after another: leave it out")
    dataset = _dataset(config.data)
    mesh = data_mesh(where.devices) if seeds is None else seed_mesh(len(seeds), where.devices)
    compiled = Compiled(config, dataset, mesh, seeds or (config.seed,))
    over = count if seeds is None else 1
    model = config.model.outline(classes=len(dataset.classes), cin=dataset.shape[-1])
    plain = networks.plain_traffic(model, dataset.shape)
    width = jnp.dtype(config.model.dtype).itemsize
    room, resident = _room(where), sum(map(_bytes, jax.tree.leaves(compiled.functions.test_feed.example)))
    longest = compiled.dispatches(compiled.functions.feed.steps_per_epoch)[0]
    for name, steps in (("train", longest), ("evaluate", 1)):
        before, train = compiled.seconds, name == "train"
        with _compiling(name, where):
            program = compiled.train(steps) if train else compiled.evaluate()
        images = config.train.batch_size if train else min(config.train.eval_batch_size, len(dataset.test))
        batch, bfloat16 = math.ceil(images / over), config.model.dtype == "bfloat16"
        summary = summarize(program, batch=batch, steps=steps, bfloat16=bfloat16, size=dataset.shape[:2])
        held = summary.memory
        resident += held["arguments"] if train else 0
        needed = resident + held["results"] + held["between"] - held["donated"]
        yield Estimate(
            where.name, name, count, batch, steps, compiled.seconds - before, room, resident,
            where.platform == "tpu" or needed <= room,  # the compiler for TPUs refuses what does not fit
            plain * width * batch if train and plain else None,
            math.ceil(batch / LANES) * LANES / batch if where.platform == "tpu" else 1.0, summary,
        )  # fmt: skip


def _dataset(data: DataConfig) -> Dataset | Photographs:
    """The data set, without its images where their number and shape are known, or they are not here."""
    origin = data.origin
    if origin.outline is None or (origin.streamed and data.dir is not None and os.path.exists(data.dir)):
        return data.load()
    found = origin.outline()
    if origin.streamed and data.dir is not None:
        about = f"{len(found.train):,} training images of {len(found.classes):,} classes"
        warn(f"data.dir {data.dir}: is not here, and is taken for {about}")
    return found


def _bytes(x: Any) -> int:
    """The bytes of an array, or of a description of one, on one device."""
    divided = x.sharding.shard_shape(x.shape) if hasattr(x, "sharding") else x.shape  # a NumPy scalar has none
    return math.prod(divided) * x.dtype.itemsize


def _room(where: Target) -> int:
    """Bytes of a device that JAX takes: of a GPU a share, by default 0.75."""
    if where.platform != "cuda":
        return where.memory
    name = "XLA_CLIENT_MEM_FRACTION" if os.environ.get("XLA_CLIENT_MEM_FRACTION") else "XLA_PYTHON_CLIENT_MEM_FRACTION"
    try:
        return int(where.memory * float(os.environ.get(name) or 0.75))
    except ValueError as error:
        raise InputError(f"{name}: must be a number, got {os.environ[name]!r}") from error


@contextlib.contextmanager
def _compiling(name: str, where: Target) -> Generator[None]:
    """Name what cannot be compiled; without the folder of programs, as JAX cannot load one for devices not there."""
    settings: Any = jax.config
    enabled = settings.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        what = f"cannot be compiled ({reason(error)})"
        if "Couldn't find output tile sizes" in str(error):  # which are measured where there is a GPU
            what = "has a matrix product for which XLA finds no tiles: set XLA_FLAGS=--xla_gpu_enable_triton_gemm=false"
        elif "RESOURCE_EXHAUSTED" in str(error):
            gigabytes = where.memory / 2**30
            what = f"needs more than the {gigabytes:.0f} GiB of a device: choose a smaller batch, more devices or remat"
        raise InputError(f"target {where.name}: the program {name} {what}") from error
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
