"""The cost of a table: training steps, which are known, and hours of an accelerator, which are estimated."""

import dataclasses
import functools

from lmjax import networks
from lmjax.config import Config, ModelConfig
from lmjax.results.reproduce.tables import Images, Table


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A chip, by what bounds a training step.

    Attributes:
        name: of one chip.
        multiplications: multiply-accumulate operations a second, in what it takes for float32 by default.
        bandwidth: bytes a second that its memory moves.
        launch: seconds from the start of one kernel to that of the next; 0 where a step is one program.
    """

    name: str
    multiplications: float
    bandwidth: float
    launch: float


ACCELERATORS = (
    # TensorFloat-32 rate as NVIDIA states it, bandwidth of a copy as measured, launch time as reported for CUDA graphs.
    Accelerator("H200", 494e12 / 2, 4.3e12, 2.2e-6),
    # The rate in bfloat16 with float32 sums, and the bandwidth, as Google states them.
    Accelerator("TPU v5e", 197e12 / 2, 0.82e12, 0.0),
)
"""The chips that hours are estimated for."""

# Per convolution, from a residual branch of two convolutions with their normalizations, adjacent elementwise operations
# fused: 14 kernels and 31 passes over a feature map forward and backward together, of these 6 and 12 forward.
_KERNELS, _PASSES = 14 / 2, 31 / 2
_KERNELS_FORWARD, _PASSES_FORWARD = 6 / 2, 12 / 2
_REACHED = 0.5  # fraction of the peak in training; published values for convolutional networks are 0.4 to 0.7


def steps(config: Config, images: Images) -> int:
    """The number of training steps of a run."""
    return config.train.epochs * (images.train // config.train.batch_size)


def hours(config: Config, images: Images, accelerator: Accelerator) -> float:
    """Estimate the hours of a run on one chip, without compiling and testing: a lower bound to plan by, not measured.

    A step takes the longest of three times: to launch its kernels, to move its feature maps in float32, and to multiply
    three times as much as forward. Where activations are not stored, the backward pass evaluates the branches again.
    """
    count, written, macs = _counted(config.model, images)
    again = config.model.memory != "stored"
    kernels = count * (_KERNELS + again * _KERNELS_FORWARD)
    moved = 4 * config.train.batch_size * written * (_PASSES + again * _PASSES_FORWARD)
    multiplied = config.train.batch_size * macs * (3 + again)
    step = max(
        kernels * accelerator.launch,
        moved / (_REACHED * accelerator.bandwidth),
        multiplied / (_REACHED * accelerator.multiplications),
    )
    return steps(config, images) * step / 3600


@functools.cache  # many runs have one network
def outline(model: ModelConfig, images: Images) -> networks.Network:
    """The network for these images, without its numbers."""
    return model.outline(classes=images.classes, cin=images.shape[-1])


@functools.cache  # tables share rows, and each is asked for on several chips
def _counted(model: ModelConfig, images: Images) -> tuple[int, int, int]:
    network = outline(model, images)
    return *networks.convolutions(network, images.shape), networks.forward_macs(network, images.shape)


def total(table: Table) -> tuple[int, int, list[float]]:
    """The number of runs that a table asks for, their training steps, and their hours on each of `ACCELERATORS`."""
    runs = sum(table.seeds.values())
    made = sum(count * steps(table.rows[row], table.images) for row, count in table.seeds.items())
    spent = [
        sum(count * hours(table.rows[row], table.images, one) for row, count in table.seeds.items())
        for one in ACCELERATORS
    ]
    return runs, made, spent
