"""Residual branches f: from a feature map to its increment; and the shortcuts where a feature map changes its shape.

Convolutions have no bias and are drawn from N(0, 2 / fan-out) (He et al. 2015); feature maps are NHWC. A branch is
pre-activated (BN-ReLU before each convolution; He et al. 2016b) unless it is asked to be post-activated (BN after each
one, ReLU between them; He et al. 2016a). Then the state is rectified after each step. BN and ReLU stand for the
normalization and the activation of the options.

Every kind is called as `kind(cin, cout, stride=1, options=Options(), rngs=rngs)`, takes from the options what concerns
it (normalization, activation, their placement, zero_init, dtype), and makes a module that maps [N, H, W, cin] to
[N, H / stride, W / stride, cout]. A kind whose class has an `entry` keeps the shape: that is the branch where the shape
changes. A shortcut whose class is `first` changes the shape before a step, which then is one at the new shape.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.convolution import convolve
from lmjax.networks.normalization import activated, norm, relu
from lmjax.networks.options import MOST_CHANNELS, PUBLISHED, Kind, Options, branches, plain, shortcuts
from lmjax.networks.pooling import max_pool
from lmjax.promotion import lenient

_he_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    cin: int, cout: int, size: int, *, stride: int = 1, groups: int = 1, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv:
    """A size x size convolution padded by size // 2 on every side, so that strides start at the first pixel."""
    return nnx.Conv(
        cin, cout, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=dtype,
        feature_group_count=groups, kernel_init=_he_fan_out, conv_general_dilated=convolve, rngs=rngs,
    )  # fmt: skip


class Activation(nnx.Module):
    """Normalization and activation: batch normalization and ReLU unless the options say otherwise."""

    def __init__(self, channels: int, options: Options = PUBLISHED, *, rngs: nnx.Rngs):
        self.norm, self.function = norm(channels, options, rngs), options.activation or relu

    def __call__(self, x: jax.Array) -> jax.Array:
        return activated(self.norm, self.function, x)


class Convolutions(nnx.Module):
    """Convolutions one after another: conv1, conv2, ... with act1, act2, ... before them, or norm1, ... after.

    With zero_init, f = 0 at first: the last normalization's scale is zero if post-activated (Goyal et al. 2017), else
    the last convolution's kernel (as the last layer of a branch in Zhang et al. 2019).

    Args:
        layers: (cout, stride) -> of each convolution its output channels, size, stride and number of groups.
        cin, cout, stride, options, rngs: see above.
    """

    def __init__(
        self, layers: Callable[[int, int], Sequence[tuple[int, int, int, int]]], cin: int, cout: int, *,
        stride: int = 1, options: Options = PUBLISHED, rngs: nnx.Rngs,
    ):  # fmt: skip
        convolutions, post, dtype = layers(cout, stride), options.post, options.dtype
        self.post, self.layers, self.function = post, len(convolutions), options.activation or relu
        for i, (cout, size, stride, groups) in enumerate(convolutions, start=1):
            if not post:
                setattr(self, f"act{i}", Activation(cin, options, rngs=rngs))
            setattr(self, f"conv{i}", conv(cin, cout, size, stride=stride, groups=groups, dtype=dtype, rngs=rngs))
            if post:
                setattr(self, f"norm{i}", norm(cout, options, rngs))
            cin = cout
        if options.zero_init:
            # Never a scale before a ReLU: relu'(0) = 0, so that neither it nor the convolution behind it would learn.
            last = getattr(getattr(self, f"norm{i}"), "scale", None) if post else getattr(self, f"conv{i}").kernel
            if last is None:
                raise InputError("zero_init: this normalization has no scale to start at zero: leave zero_init out")
            last[...] = jnp.zeros_like(last[...])

    def __call__(self, u: jax.Array) -> jax.Array:
        for i in range(1, self.layers + 1):
            convolve = getattr(self, f"conv{i}")
            if self.post:
                normalize, u = getattr(self, f"norm{i}"), convolve(u)
                u = activated(normalize, self.function, u) if i < self.layers else normalize(u)
            else:
                u = convolve(getattr(self, f"act{i}")(u))
        return u


@branches.register
def basic() -> Kind:
    """Two 3x3 convolutions, the stride in the first one (He et al. 2016a)."""
    return functools.partial(Convolutions, lambda cout, stride: [(cout, 3, stride, 1), (cout, 3, 1, 1)])


@branches.register
def bottleneck(inner: float = 1 / 4, groups: int = 1, *, stride_first: bool = False) -> Kind:
    """1x1, 3x3 and 1x1 convolutions (He et al. 2016a; with groups, Xie et al. 2017).

    Args:
        inner: channels of the 3x3 convolution as a multiple of cout.
        groups: of the 3x3 convolution; ResNeXt's cardinality.
        stride_first: the stride is in the first 1x1 (He et al., Gomez et al.) instead of the 3x3 (Lu et al., Xie et
            al.), which uses every pixel.
    """
    if inner <= 0 or groups < 1:
        raise InputError(f"bottleneck: inner must be positive and groups at least 1, got {inner} and {groups}")

    def layers(cout, stride):
        if inner * cout > MOST_CHANNELS:
            raise InputError(f"bottleneck: inner={inner:g} makes {inner * cout:.3g} channels: choose a smaller one")
        channels = max(1, round(inner * cout))
        if channels % groups:
            raise InputError(f"{channels} channels do not divide into {groups} groups: choose another width")
        first, second = (stride, 1) if stride_first else (1, stride)
        return [(channels, 1, first, 1), (channels, 3, second, groups), (cout, 1, 1, 1)]

    return functools.partial(Convolutions, layers)


def keep_shape(kind: str, cin: int, cout: int, stride: int, options: Options) -> None:
    """Check what is asked of a branch that keeps the shape, and has its activation inside."""
    if cin != cout or stride != 1:
        raise InputError(
            f"a {kind} branch keeps the shape, and cannot go from {cin} to {cout} channels with stride {stride}"
        )
    if options.post:
        raise InputError(f"placement post: a {kind} branch has its activation inside: leave placement out")
    if options.sharing == "convolutions":
        raise InputError(f"sharing convolutions: not for a {kind} branch: choose all or none")


@plain(branches, "symmetric")
class Symmetric(nnx.Module):
    """u -> -K^T relu(BN(K u)), a 3x3 convolution and its transpose (Chang et al. 2018; Ruthotto and Haber 2020).

    Where the normalization is a fixed map (batch normalization in evaluation), it is minus the gradient of a potential,
    a scalar function of u: such forces are what `hamiltonian` and `verlet` are made for. It keeps the shape; where a
    stage changes it, the branch is `basic`.
    """

    entry = staticmethod(basic())

    def __init__(self, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED, rngs: nnx.Rngs):
        keep_shape("symmetric", cin, cout, stride, options)
        if options.zero_init:  # relu'(0) = 0 wherever it is made zero
            raise InputError("zero_init: a symmetric branch that starts at zero never learns: leave it out")
        self.conv = conv(cin, cout, 3, dtype=options.dtype, rngs=rngs)
        self.act = Activation(cout, options, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        x = self.act(self.conv(u))
        kernel = self.conv.kernel[...].astype(x.dtype)
        # The transpose of a 3x3 convolution with padding 1: kernel turned by 180 degrees, channels exchanged.
        turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        return -convolve(x, turned, (1, 1), [(1, 1), (1, 1)])


@plain(shortcuts, "projection")
class Projection(nnx.Module):
    """The shortcut where the shape changes: BN-ReLU-conv1x1 (the code of Lu et al. 2018), or conv1x1-BN."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED, rngs: nnx.Rngs):
        self.post = options.post
        if not self.post:
            self.act = Activation(cin, options, rngs=rngs)
        self.conv = conv(cin, cout, 1, stride=stride, dtype=options.dtype, rngs=rngs)
        if self.post:
            self.norm = norm(cout, options, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)) if self.post else self.conv(self.act(x))


@plain(shortcuts, "bare_projection")
class BareProjection(nnx.Module):
    """conv1x1 and nothing else (RevNets with bottlenecks; Gomez et al. 2017)."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED, rngs: nnx.Rngs):
        self.conv = conv(cin, cout, 1, stride=stride, dtype=options.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


@plain(shortcuts, "pad")
class PoolAndPad(nnx.Module):
    """The mean over stride x stride pixels, and as many zero channels before as after.

    At an odd edge it is the mean of the pixels that there are. No parameters (Huang et al. 2016, Gomez et al. 2017;
    option A of He et al. 2016a subsamples instead of averaging).
    """

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED, rngs: nnx.Rngs | None = None
    ):
        if cout < cin:
            raise InputError(f"a shortcut that pads cannot go from {cin} to fewer channels, {cout}")
        self.stride, self.more = stride, cout - cin

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.stride > 1:
            with lenient():
                odd, size = any(n % self.stride for n in x.shape[1:3]), (self.stride, self.stride)
                x = nnx.avg_pool(x, size, size, padding="SAME", count_include_pad=not odd)
        before = self.more // 2
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, self.more - before)))


class Stem(nnx.Module):
    """The first layer: a convolution, optionally BN-ReLU, and optionally max-pooling over 3x3 pixels with stride 2.

    Args:
        cin, cout: channels of the images and of the features.
        size, stride: of the convolution.
        activation: BN-ReLU after the convolution.
        pool: the max-pooling.
    """

    def __init__(
        self, cin: int, cout: int, *, size: int = 3, stride: int = 1, activation: bool = False, pool: bool = False,
        options: Options = PUBLISHED, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.conv = conv(cin, cout, size, stride=stride, dtype=options.dtype, rngs=rngs)
        # A post-activated branch has no activation before its first convolution, so the stem has one after its own.
        self.act = Activation(cout, options, rngs=rngs) if activation or options.post else None
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / s, W / s, cout], s the product of the strides."""
        x = self.conv(x)
        x = x if self.act is None else self.act(x)
        return max_pool(x, 3, 2, padding=1) if self.pool else x
