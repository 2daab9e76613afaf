"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s"): residual networks whose branches are mostly 1x1 convolutions.

The stem, and a layer between two stages, is a convolution whose stride is its kernel size: it turns patches into single
positions. It comes before the first step of a stage, so that all steps of the stage keep the shape.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.errors import InputError
from lmjax.networks.branches import basic, keep_shape
from lmjax.networks.convolution import convolve
from lmjax.networks.network import NORMAL, Architecture, NormalizedLinear
from lmjax.networks.normalization import LayerNorm, gelu, norm
from lmjax.networks.options import PUBLISHED, Kind, Options, branches, family, plain, registry, shortcuts
from lmjax.promotion import lenient


class Perceptron(nnx.Module):
    """Linear to four times the channels, activation (GELU), linear: [..., C] -> [..., C]."""

    def __init__(self, channels: int, options: Options, rngs: nnx.Rngs, *, first: Any = NORMAL, last: Any = NORMAL):
        make = {"dtype": options.dtype, "rngs": rngs}
        self.activation = options.activation or gelu()
        self.widen = nnx.Linear(channels, 4 * channels, kernel_init=first, **make)
        self.narrow = nnx.Linear(4 * channels, channels, kernel_init=last, **make)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.narrow(self.activation(self.widen(x)))


class Inverted(nnx.Module):
    """Depthwise kernel x kernel convolution, normalization (layer), a `Perceptron` at each pixel, a scale.

    The scale of each channel starts at `scale`, so small that the network starts as its shortcuts; zero_init makes
    it 0.
    """

    entry = staticmethod(basic())

    def __init__(
        self, kernel: int, scale: float, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        keep_shape("convnext", cin, cout, stride, options)
        self.depthwise = nnx.Conv(
            cin, cin, (kernel, kernel), padding=kernel // 2, feature_group_count=cin, kernel_init=NORMAL,
            dtype=options.dtype, rngs=rngs,
        )  # fmt: skip
        self.norm = norm(cin, options, rngs, LayerNorm)
        self.perceptron = Perceptron(cin, options, rngs)
        self.scale = nnx.Param(jnp.full(cin, 0 if options.zero_init else scale, jnp.float32))

    def __call__(self, u: jax.Array) -> jax.Array:
        x = self.perceptron(self.norm(self.depthwise(u)))
        with lenient():
            return x * self.scale[...].astype(x.dtype)


@branches.register(name="convnext")
def inverted(kernel: int = 7, *, scale: float = 1e-6) -> Kind:
    """The branch of ConvNeXt (Liu et al. 2022): see `Inverted`.

    Args:
        kernel: the size of the depthwise convolution, odd.
        scale: of each channel at the start.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"convnext: kernel must be odd, so that it has a middle, got {kernel}")
    return functools.partial(Inverted, kernel, scale)


@plain(shortcuts, "patches")
class Patches(nnx.Module):
    """A convolution whose stride is its size, after layer normalization or before it (Liu et al. 2022)."""

    first = True

    def __init__(
        self, cin: int, cout: int, *, stride: int, before: bool = True, options: Options = PUBLISHED, rngs: nnx.Rngs
    ):
        self.before = before
        self.norm = norm(cin if before else cout, options, rngs, LayerNorm)
        self.conv = nnx.Conv(
            cin, cout, (stride, stride), strides=stride, padding="VALID", kernel_init=NORMAL, dtype=options.dtype,
            conv_general_dilated=convolve, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / stride, W / stride, cout], without what remains of a division."""
        side = self.conv.kernel_size[0]
        if min(x.shape[1:3]) < side:
            raise InputError(
                f"images are too small: {x.shape[1]} x {x.shape[2]} pixels or features do not hold a patch of "
                f"{side} x {side}: choose a smaller patch, as in convnext_atto(patch=1), or larger images"
            )
        return self.conv(self.norm(x)) if self.before else self.norm(self.conv(x))


@family("convnext_atto", "convnext_tiny")
def convnext(depths: tuple[int, ...], channels: tuple[int, ...], *, patch: int = 4) -> Architecture:
    """ConvNeXts of any size (Liu et al. 2022).

    Args:
        depths, channels: of the stages; all but the first halve the resolution.
        patch: side of the first patches in pixels; 4 for ImageNet, 1 or 2 for small images.
    """
    tuples = isinstance(depths, (tuple, list)) and isinstance(channels, (tuple, list))
    numbers = (*depths, *channels) if tuples and depths and len(depths) == len(channels) else (0,)
    if not (all(isinstance(n, int) for n in numbers) and min(*numbers, patch) >= 1):
        raise InputError("network convnext: depths and channels must have a whole number a stage, and none below 1")
    return Architecture(
        tuple(depths), tuple(channels), None, inverted(), Patches,
        first=functools.partial(Patches, stride=patch, before=False), activation=None, head=NormalizedLinear,
    )  # fmt: skip


@registry.register
def convnext_atto(patch: int = 4) -> Architecture:
    """ConvNeXt of 3.7 million parameters (its sizes: Wightman's timm; Woo et al. 2023)."""
    return convnext((2, 2, 6, 2), (40, 80, 160, 320), patch=patch)


@registry.register
def convnext_tiny(patch: int = 4) -> Architecture:
    """ConvNeXt-T, of 28.6 million parameters (Liu et al. 2022)."""
    return convnext((3, 3, 9, 3), (96, 192, 384, 768), patch=patch)
