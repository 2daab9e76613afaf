"""Residual branches f: from a feature map to its increment.

All are pre-activation (He et al. 2016b): normalise, rectify, convolve. Convolutions have no bias and are drawn from
N(0, 2 / fan-out) (He et al. 2015); feature maps are NHWC.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

_he_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(cin: int, cout: int, size: int, *, stride: int = 1, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Conv:
    """A size x size convolution padded by size // 2 on every side, so that strides start at the first pixel."""
    return nnx.Conv(
        cin, cout, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=dtype,
        kernel_init=_he_fan_out, rngs=rngs,
    )  # fmt: skip


class Activation(nnx.Module):
    """Batch normalisation (statistics in float32, over the batch of all devices) and ReLU."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(x))


class Basic(nnx.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3, the stride in the first convolution."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.act1 = Activation(cin, dtype=dtype, rngs=rngs)
        self.conv1 = conv(cin, cout, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.act2 = Activation(cout, dtype=dtype, rngs=rngs)
        self.conv2 = conv(cout, cout, 3, dtype=dtype, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / stride, W / stride, cout]."""
        return self.conv2(self.act2(self.conv1(self.act1(u))))


class Bottleneck(nnx.Module):
    """BN-ReLU-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1 with cout / 4 channels inside, the stride in the 3x3."""

    expansion = 4

    def __init__(self, cin: int, cout: int, *, stride: int = 1, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        inner = cout // self.expansion
        self.act1 = Activation(cin, dtype=dtype, rngs=rngs)
        self.conv1 = conv(cin, inner, 1, dtype=dtype, rngs=rngs)
        self.act2 = Activation(inner, dtype=dtype, rngs=rngs)
        self.conv2 = conv(inner, inner, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.act3 = Activation(inner, dtype=dtype, rngs=rngs)
        self.conv3 = conv(inner, cout, 1, dtype=dtype, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / stride, W / stride, cout]."""
        return self.conv3(self.act3(self.conv2(self.act2(self.conv1(self.act1(u))))))


class Projection(nnx.Module):
    """BN-ReLU-conv1x1: the shortcut where the shape changes."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.act = Activation(cin, dtype=dtype, rngs=rngs)
        self.conv = conv(cin, cout, 1, stride=stride, dtype=dtype, rngs=rngs)

    def __call__(self, u: jax.Array) -> jax.Array:
        """[N, H, W, cin] -> [N, H / stride, W / stride, cout]."""
        return self.conv(self.act(u))
