"""The cost of a run on accelerators that need not be there: its programs, compiled, and read.

Nothing is run, and nothing is timed. What comes out is exact of the program (kernels, bytes, feature maps, collectives)
or an estimate of the compiler (cycles), which says so.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from lmjax import networks
from lmjax.config import Config
from lmjax.estimate.program import mesh_of, outline, prepare, programs
from lmjax.estimate.summary import Summary, summarize
from lmjax.estimate.targets import Target, known, target
from lmjax.training.progress import LANES

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
        memory: bytes of a device.
        fits: True if the program needs no more, as far as the compiler says.
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
        InputError: if the run cannot be compiled for the target, or does not fit.
    """
    dataset = outline(config)
    compiled = prepare(config, dataset, mesh_of(where, None if seeds is None else len(seeds)), seeds or (config.seed,))
    over = len(where.devices) if seeds is None else 1
    model = config.model.outline(classes=len(dataset.classes), cin=dataset.shape[-1])
    plain = networks.plain_traffic(model, dataset.shape)
    width = jnp.dtype(config.model.dtype).itemsize
    for made in programs(compiled, where):
        train = made.name == "train"
        images = config.train.batch_size if train else min(config.train.eval_batch_size, len(dataset.test))
        batch, bfloat16 = math.ceil(images / over), config.model.dtype == "bfloat16"
        summary = summarize(made.compiled, batch=batch, steps=made.steps, bfloat16=bfloat16, size=dataset.shape[:2])
        held = summary.memory
        needed = held["arguments"] + held["results"] + held["between"] - held["donated"]
        yield Estimate(
            where.name, made.name, len(where.devices), batch, made.steps, made.seconds, where.memory,
            where.platform == "tpu" or needed <= where.memory,  # the compiler for TPUs refuses what does not fit
            plain * width * batch if train and plain else None,
            math.ceil(batch / LANES) * LANES / batch if where.platform == "tpu" else 1.0, summary,
        )  # fmt: skip
