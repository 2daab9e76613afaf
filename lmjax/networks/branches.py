"""Residual branches f: from a feature map to its increment; and the shortcuts where a feature map changes its shape.

Convolutions have no bias and are drawn from N(0, 2 / fan-out) (He et al. 2015); feature maps are NHWC. A branch is
pre-activated (BN-ReLU before each convolution; He et al. 2016b) unless it is asked to be post-activated (BN after each
one, ReLU between them; He et al. 2016a). Then the state is rectified after each step.

Every class is made by `Class(cin, cout, stride=1, post=False, dtype=jnp.float32, rngs=rngs)` and maps
[N, H, W, cin] to [N, H / stride, W / stride, cout]. `zero_init=True` makes a branch that is zero at first and learns.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.convolution import convolve
from lmjax.networks.normalisation import BatchNorm

_he_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    cin: int, cout: int, size: int, *, stride: int = 1, groups: int = 1, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv:
    """A size x size convolution padded by size // 2 on every side, so that strides start at the first pixel."""
    return nnx.Conv(
        cin, cout, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=dtype,
        feature_group_count=groups, kernel_init=_he_fan_out, conv_general_dilated=convolve, rngs=rngs,
    )  # fmt: skip


def norm(channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> BatchNorm:
    """Batch normalisation, statistics in float32, over the batch of all devices unless it is grouped."""
    return BatchNorm(channels, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)


class Activation(nnx.Module):
    """Batch normalisation and ReLU."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = norm(channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(x))


class Convolutions(nnx.Module):
    """Convolutions one after another: conv1, conv2, ... with act1, act2, ... before them, or norm1, ... after.

    Args:
        cin: channels at the start.
        layers: of each convolution its output channels, size, stride and number of groups.
        post: whether to normalise after each convolution instead of normalising and rectifying before it.
        zero_init: start as f = 0: the last normalisation's scale is zero if post-activated (Goyal et al. 2017), else
            the last convolution's kernel (as the last layer of a branch in Zhang et al. 2019).
    """

    def __init__(
        self, cin: int, layers: Sequence[tuple[int, int, int, int]], *, post: bool, zero_init: bool = False,
        dtype: DTypeLike, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.post, self.layers = post, len(layers)
        for i, (cout, size, stride, groups) in enumerate(layers, start=1):
            if not post:
                setattr(self, f"act{i}", Activation(cin, dtype=dtype, rngs=rngs))
            setattr(self, f"conv{i}", conv(cin, cout, size, stride=stride, groups=groups, dtype=dtype, rngs=rngs))
            if post:
                setattr(self, f"norm{i}", norm(cout, dtype=dtype, rngs=rngs))
            cin = cout
        if zero_init:
            # Never a scale before a ReLU: relu'(0) = 0, so that neither it nor the convolution behind it would learn.
            last = getattr(self, f"norm{i}").scale if post else getattr(self, f"conv{i}").kernel
            last[...] = jnp.zeros_like(last[...])

    def __call__(self, u: jax.Array) -> jax.Array:
        for i in range(1, self.layers + 1):
            convolve = getattr(self, f"conv{i}")
            if self.post:
                u = getattr(self, f"norm{i}")(convolve(u))
                u = jax.nn.relu(u) if i < self.layers else u
            else:
                u = convolve(getattr(self, f"act{i}")(u))
        return u


class Basic(Convolutions):
    """Two 3x3 convolutions, the stride in the first one (He et al. 2016a)."""

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, post: bool = False, zero_init: bool = False,
        dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        layers = [(cout, 3, stride, 1), (cout, 3, 1, 1)]
        super().__init__(cin, layers, post=post, zero_init=zero_init, dtype=dtype, rngs=rngs)


class Bottleneck(Convolutions):
    """1x1, 3x3 and 1x1 convolutions (He et al. 2016a; with groups, Xie et al. 2017).

    Args:
        inner: channels of the 3x3 convolution as a multiple of cout.
        groups: of the 3x3 convolution; ResNeXt's cardinality.
        stride_first: the stride is in the first 1x1 (He et al., Gomez et al.) instead of the 3x3 (Lu et al., Xie et
            al.), which uses every pixel.
    """

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, inner: float = 1 / 4, groups: int = 1,
        stride_first: bool = False, post: bool = False, zero_init: bool = False, dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        channels = round(inner * cout)
        if channels % groups:
            raise InputError(f"{channels} channels do not divide into {groups} groups: choose another width")
        first, second = (stride, 1) if stride_first else (1, stride)
        layers = [(channels, 1, first, 1), (channels, 3, second, groups), (cout, 1, 1, 1)]
        super().__init__(cin, layers, post=post, zero_init=zero_init, dtype=dtype, rngs=rngs)


class Symmetric(nnx.Module):
    """u -> -K^T relu(BN(K u)), a 3x3 convolution and its transpose (Chang et al. 2018; Ruthotto and Haber 2020).

    But for the normalisation, the gradient of a scalar function of u: the force that `hamiltonian` and `verlet` are
    made for. It keeps the shape; where that changes, the branch is `Basic`.
    """

    entry = Basic

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, post: bool = False, dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        if cin != cout or stride != 1 or post:
            raise InputError("a symmetric branch keeps the shape, and has its activation inside")
        self.conv = conv(cin, cout, 3, dtype=dtype, rngs=rngs)
        self.act = Activation(cout, dtype=dtype, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        x = self.act(self.conv(u))
        kernel = self.conv.kernel[...].astype(x.dtype)
        # The transpose of a 3x3 convolution with padding 1: kernel turned by 180 degrees, channels exchanged.
        turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        return -convolve(x, turned, (1, 1), [(1, 1), (1, 1)])


class Projection(nnx.Module):
    """The shortcut where the shape changes: BN-ReLU-conv1x1 (the code of Lu et al. 2018), or conv1x1-BN."""

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, post: bool = False, dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.post = post
        if not post:
            self.act = Activation(cin, dtype=dtype, rngs=rngs)
        self.conv = conv(cin, cout, 1, stride=stride, dtype=dtype, rngs=rngs)
        if post:
            self.norm = norm(cout, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x)) if self.post else self.conv(self.act(x))


class BareProjection(nnx.Module):
    """conv1x1 and nothing else (RevNets with bottlenecks; Gomez et al. 2017)."""

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, post: bool = False, dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.conv = conv(cin, cout, 1, stride=stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class PoolAndPad(nnx.Module):
    """The mean over stride x stride pixels, and as many zero channels before as after.

    No parameters (Huang et al. 2016, Gomez et al. 2017; option A of He et al. 2016a subsamples instead of averaging).
    """

    def __init__(
        self, cin: int, cout: int, *, stride: int = 1, post: bool = False, dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):  # fmt: skip
        if cout < cin:
            raise InputError(f"a shortcut that pads cannot go from {cin} to fewer channels, {cout}")
        self.stride, self.more = stride, cout - cin

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.stride > 1:
            x = nnx.avg_pool(x, (self.stride,) * 2, (self.stride,) * 2)
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
        dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.conv = conv(cin, cout, size, stride=stride, dtype=dtype, rngs=rngs)
        self.act = Activation(cout, dtype=dtype, rngs=rngs) if activation else None
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / s, W / s, cout], s the product of the strides."""
        x = self.conv(x)
        x = x if self.act is None else self.act(x)
        return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.pool else x
