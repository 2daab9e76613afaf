"""ResNets, pre-activated (He et al. 2016b) unless asked to be post-activated (He et al. 2016a)."""

import functools

from lmjax.errors import InputError
from lmjax.networks.branches import Stem, basic, bottleneck
from lmjax.networks.network import Architecture
from lmjax.networks.options import family

IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Steps of each stage, by depth."""
LARGE = functools.partial(Stem, size=7, stride=2, pool=True)
"""The stem for ImageNet."""
_BOTTLENECK = (164, 1001)
_DEPTHS = sorted((8, 14, 20, 26, 32, 44, 56, 110, 1202, *_BOTTLENECK, *IMAGENET))


@family(*(f"resnet{depth}" for depth in _DEPTHS))
def resnet(depth: int) -> Architecture:
    """ResNets, for CIFAR and ImageNet (He et al. 2016).

    20, 32, 44, 56, 110, 1202, or any depth 6n + 2: for CIFAR, three stages of n basic blocks with 16, 32 and 64
    channels. 164 and 1001: bottlenecks, depth 9n + 2, four times the channels. 18, 34, 50, 101, 152: for ImageNet.

    The depth counts the layers of the Euler network: a scheme with several branches a step has that many times more
    in all blocks but the first of a stage.
    """
    if depth in IMAGENET:
        branch, expansion = (basic(), 1) if depth < 50 else (bottleneck(), 4)
        return Architecture(IMAGENET[depth], tuple(expansion * 64 * 2**i for i in range(4)), 64, branch, first=LARGE)
    branch, expansion, layers = (bottleneck(), 4, 9) if depth in _BOTTLENECK else (basic(), 1, 6)
    if not layers + 2 <= depth < 10_000 or (depth - 2) % layers:
        raise InputError(
            f"network 'resnet{depth}': its depth must be 6n + 2, e.g. 20, 32, 44, 56 or 110 (164 and 1001 have "
            "bottlenecks; 18, 34, 50, 101 and 152 are those of ImageNet)"
        )
    return Architecture(((depth - 2) // layers,) * 3, tuple(expansion * 16 * 2**i for i in range(3)), 16, branch)
