"""ResNeXts: bottlenecks whose 3x3 convolutions are in groups (Xie et al. 2017)."""

import functools

from lmjax.errors import InputError, unknown
from lmjax.networks.branches import Stem, bottleneck
from lmjax.networks.network import Architecture
from lmjax.networks.options import family, names
from lmjax.networks.resnet import IMAGENET, LARGE


@family("resnext29_8x64d", "resnext29_16x64d", "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d")
def resnext(depth: int, groups: int, width: int) -> Architecture:
    """ResNeXts (Xie et al. 2017): 29 layers for CIFAR, 50 or 101 for ImageNet.

    Those for CIFAR are pre-activated, as the authors' README says of the paper's numbers (placement="post" is their
    released code), those for ImageNet post-activated as published.

    Args:
        depth: 29, 50 or 101.
        groups: of the 3x3 convolutions, the cardinality.
        width: channels of a group at the first stage, which has 256 itself.
    """
    if groups < 1 or width < 1:
        raise InputError(f"network: a cardinality such as 8x64d has two numbers from 1, got {groups}x{width}d")
    branch = bottleneck(inner=groups * width / 256, groups=groups)
    if depth == 29:
        first = functools.partial(Stem, activation=True)
        return Architecture((3, 3, 3), (256, 512, 1024), 64, branch, first=first, takes=())
    if depth not in (50, 101):
        raise unknown("network", f"resnext{depth}_{groups}x{width}d", names())
    return Architecture(IMAGENET[depth], (256, 512, 1024, 2048), 64, branch, first=LARGE, post=True, takes=())
