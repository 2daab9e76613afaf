"""RevNets: coupled ResNets, whose states can be rebuilt (Gomez et al. 2017)."""

import functools

from lmjax import steppers
from lmjax.errors import unknown
from lmjax.networks.branches import BareProjection, PoolAndPad, Stem, basic, bottleneck
from lmjax.networks.network import Architecture
from lmjax.networks.options import family, names
from lmjax.networks.resnet import LARGE

# Steps and channels (before the factor 4 of bottlenecks) of each stage, and whether there are bottlenecks.
_DEPTHS = {
    38: ((3, 3, 3), (32, 64, 112), False),
    104: ((2, 2, 11, 2), (128, 256, 512, 832), True),
    110: ((9, 9, 9), (32, 64, 128), False),
    164: ((9, 9, 9), (32, 64, 128), True),
}


@family(*(f"revnet{depth}" for depth in _DEPTHS))
def revnet(depth: int) -> Architecture:
    """RevNets, with `reversible` or another coupled scheme (Gomez et al. 2017).

    38, 110 and 164 are for CIFAR, 104 is for ImageNet. Every unit is pre-activated; the published code leaves that
    out in the very first one.
    """
    if depth not in _DEPTHS:
        raise unknown("network", f"revnet{depth}", names())
    depths, channels, bottlenecks = _DEPTHS[depth]
    branch, shortcut, expansion, takes = basic(), PoolAndPad, 1, None
    if bottlenecks:
        branch, shortcut, expansion, takes = bottleneck(stride_first=True), BareProjection, 4, ()
    return Architecture(
        depths, tuple(expansion * c for c in channels), channels[0], branch, shortcut, boundary="step", takes=takes,
        first=functools.partial(LARGE if len(depths) == 4 else Stem, activation=True), stepper=steppers.reversible(),
    )  # fmt: skip
