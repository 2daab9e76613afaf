"""Normalizations and activations by name."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.options import Activation, Normalization, Options, activations, normalizations, plain
from lmjax.networks.sums import two_broadcasts, two_sums
from lmjax.promotion import at_least_float32, lenient


@plain(normalizations, "batch")
class BatchNorm(nnx.BatchNorm):
    """Batch normalization (Ioffe and Szegedy 2015), if desired with statistics of groups of images.

    With mean and variance over all images and pixels of a channel, y = (x - mean) / sqrt(var + epsilon) scale + bias.

    By default the mean and the variance of a channel are those of the whole batch, whatever devices it is spread
    over, which costs two sums over all devices forward and two backward. With `group` = g, image n is normalized with
    the statistics of the images g floor(n/g), ..., g floor(n/g) + g - 1 alone (the "ghost batches" of Hoffer, Hubara
    and Soudry 2017; with g the batch of a device, what data-parallel training without synchronization computes). No
    device then waits for another while g divides the images it has; the result does not depend on their number. The
    running statistics are updated with the mean over the groups. An evaluation uses those, and has no groups.

    Mean and variance come from one pass over x, so that both sums over the devices are made at once. With the running
    mean s as a shift (Chan, Golub and LeVeque 1983), d = x - s, they are

        mean = s + E[d],    var = max(E[d^2] - E[d]^2, eps E[d^2]),

    with eps = 2^-23, the rounding of float32: the variance is never negative, and never less than its own rounding
    error. The difference loses (E[d] / std)^2 eps of the variance, and s follows the mean: with a momentum of 0.9, a
    constant mean is 0.9^n away after n steps. Measured for float32 means of several standard deviations, over 2048
    numbers a channel, the largest error of y (scale 1, against float64) is

        mean / std         1       10      100     1000    10^4    10^6
        first step, s = 0  7e-7    3e-5    3e-3    0.3     3       4
        once s follows     1e-6    1e-6    4e-6    3e-5    6e-4    0.03

    The errors of the last row are those of subtracting the mean first. (Those of the first row are up to ten times
    larger where XLA sums one number after another; from 1000 on, that is no normalization yet.)

    Attributes:
        group: the number of images in a group; None for the whole batch.

    Args:
        features: how many channels.
        momentum: the fraction of the running statistics that a step keeps.
        epsilon: added to the variance.
        dtype: of the result; None for the promoted dtype of x and the parameters. Parameters and running statistics
            are float32; the computation is in float32, or in float64 if x is.
        use_scale, use_bias: whether there are these parameters.
        rngs: as any module of Flax takes them; nothing is drawn.
    """

    group: int | None = None

    def __init__(
        self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, dtype: DTypeLike | None = None,
        use_scale: bool = True, use_bias: bool = True, rngs: nnx.Rngs,
    ):  # fmt: skip
        super().__init__(
            features, momentum=momentum, epsilon=epsilon, dtype=dtype, use_scale=use_scale, use_bias=use_bias, rngs=rngs
        )

    @lenient()
    def __call__(self, x: jax.Array, *, rectify: bool = False) -> jax.Array:
        """[N, ..., channels], normalized in training with the statistics of x, in evaluation with the running ones.

        Args:
            x: the features.
            rectify: max(y, 0) instead of y; see `activated`.

        Raises:
            InputError: if N is no multiple of the group.
        """
        shift, shape = lax.stop_gradient(self.mean[...]), x.shape
        scale = jnp.ones_like(shift) if self.scale is None else self.scale[...]
        bias = jnp.zeros_like(shift) if self.bias is None else self.bias[...]
        dtype = self.dtype or jnp.result_type(x.dtype, scale, bias)
        x = x.astype(at_least_float32(x.dtype))
        if self.use_running_average:
            y = (x - shift) * (lax.rsqrt(self.var[...] + self.epsilon) * scale) + bias
            return (jax.nn.relu(y) if rectify else y).astype(dtype)
        if self.group is not None:
            if shape[0] % self.group:
                raise InputError(f"batch normalization: {shape[0]} images do not divide into groups of {self.group}")
            x = x.reshape(-1, self.group, *shape[1:])
        y, mean, var = _normalized(x, shift, scale, bias, self.epsilon, self.group is not None, rectify)
        for statistic, new in ((self.mean, mean), (self.var, var)):
            new = lax.stop_gradient(new.reshape(-1, shape[-1]).mean(0))  # the mean over the groups
            new = self.momentum * statistic[...] + (1 - self.momentum) * new
            statistic[...] = new.astype(statistic[...].dtype)
        return y.astype(dtype).reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
@lenient()
def _normalized(x, shift, scale, bias, epsilon, grouped, rectify):
    """y = (x - mean) / sqrt(var + epsilon) scale + bias, and mean and variance of each channel, or group and channel.

    With `rectify` it is max(y, 0) instead of y. Its derivative is written out, so that going backward takes two sums
    over x, as going forward does. It is one in JAX itself, which can be differentiated again in any mode.
    """
    mean, var = _moments(x, shift, grouped)
    y = (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias
    return jnp.maximum(y, 0) if rectify else y, mean, var


@_normalized.defjvp
@lenient()
def _derivative(epsilon, grouped, rectify, primals, tangents):
    x, shift, scale, bias = primals
    dx, _, dscale, dbias = tangents
    mean, var = _moments(x, shift, grouped)
    rate = lax.rsqrt(var + epsilon)
    gain = rate * scale
    centered, axes = x - mean, tuple(range(grouped, x.ndim - 1))
    count = x.size // mean.size
    # The sums are broadcast to the size of x only at the end: transposed, the broadcasts are again two sums at once.
    total, along = two_sums(dx, centered * dx, axes)
    constant, slope = dbias - gain * total / count, rate * (dscale - gain * rate * along / count)
    constant, slope = two_broadcasts(constant, slope, x.shape)
    y, direct, through = centered * gain + bias, gain * dx, constant + centered * slope
    if rectify:
        positive, other = _signs(x, y, mean, gain, bias)
        y, direct, through = jnp.maximum(y, 0), jnp.where(positive, direct, 0), jnp.where(other, 0, through)
    return (y, mean, var), (direct + through, jnp.zeros_like(mean), jnp.zeros_like(var))


def _signs(x, y, mean, gain, bias):
    """The masks y > 0 and y <= 0 of y = (x - mean) gain + bias, which are constants in differentiation."""
    x, y, mean, gain, bias = map(lax.stop_gradient, (x, y, mean, gain, bias))

    def gpu(x, _, mean, gain, bias):
        # XLA writes a mask to memory unless it is very cheap to compute again. So it is one comparison of x with the
        # zero of its channel, which a barrier keeps apart; each of its two uses has a comparison of its own.
        flat, falling = gain == 0, gain < 0
        zero = jnp.where(flat, jnp.where(bias > 0, -jnp.inf, jnp.inf), mean - bias / jnp.where(flat, 1, gain))
        zero = jnp.where(falling, lax.nextafter(zero, jnp.full_like(zero, -jnp.inf)), zero)  # x < zero, not x = zero
        zero, falling = lax.optimization_barrier((zero, falling))
        return (x > zero) != falling, (x <= zero) != falling

    def elsewhere(_, y, *__):
        return y > 0, y <= 0

    return lax.platform_dependent(x, y, mean, gain, bias, cuda=gpu, rocm=gpu, default=elsewhere)


def _moments(x, shift, grouped):
    d = x - shift
    offset, square = two_sums(d, jnp.square(d), tuple(range(grouped, x.ndim - 1)))
    offset, square = offset * offset.size / x.size, square * offset.size / x.size
    # The variance is bounded from below by its own rounding error.
    return shift + offset, jnp.maximum(square - jnp.square(offset), jnp.finfo(x.dtype).eps * square)


def group_batch_norm(network: nnx.Module, group: int | None) -> None:
    """Set the group of every batch normalization in a network.

    Raises:
        InputError: for a group below 1, or where there is no `BatchNorm`.
    """
    if group is not None and group < 1:
        raise InputError(f"train.batch_norm_group: must be at least 1, got {group}")
    found = [module for _, module in nnx.iter_graph(network) if isinstance(module, BatchNorm)]
    if group is not None and not found:
        raise InputError("train.batch_norm_group: this network has no batch normalization: leave it out")
    for module in found:
        module.group = group


@plain(normalizations, "layer")
class LayerNorm(nnx.LayerNorm):
    """Layer normalization, of each pixel or token over its channels (Ba et al. 2016)."""

    __call__ = lenient()(nnx.LayerNorm.__call__)


@plain(normalizations, "rms")
class RMSNorm(nnx.RMSNorm):
    """Each pixel or token over the root mean square of its channels, times a scale (Zhang and Sennrich 2019)."""

    __call__ = lenient()(nnx.RMSNorm.__call__)


class GroupNorm(nnx.GroupNorm):
    """Flax's group normalization, which promotes dtypes."""

    __call__ = lenient()(nnx.GroupNorm.__call__)


@normalizations.register
def group(groups: int = 32) -> Normalization:
    """Group normalization, of each image over its pixels and each group of channels (Wu and He 2018).

    Args:
        groups: how many, a divisor of all numbers of channels. 1 takes all channels together.
    """

    def make(channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> GroupNorm:
        if groups < 1 or channels % groups:
            raise InputError(f"normalization group: {channels} channels do not divide into {groups} groups")
        return GroupNorm(channels, num_groups=groups, dtype=dtype, rngs=rngs)

    return make


def norm(channels: int, options: Options, rngs: nnx.Rngs, own: Normalization = BatchNorm) -> nnx.Module:
    """The normalization that is chosen, or the network's own."""
    return (options.normalization or own)(channels, dtype=options.dtype, rngs=rngs)


@jax.custom_jvp
def _rectified(x):
    return jnp.maximum(x, 0)


@_rectified.defjvp
def _derivative_of_rectified(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = _rectified(x)
    # Of y, which is stored as the input of what follows: of x, often a sum, both terms would be read again. XLA makes
    # y > 0 a test of x.
    return y, jnp.where(y != 0, dx, 0)


# Python functions: copies of a network, pickled ones too, share them, but would each have a jax object of its own.


@plain(activations, "relu")
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), the rectified linear unit (Nair and Hinton 2010)."""
    return _rectified(x)


@plain(activations, "silu")
def silu(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-x)), the sigmoid linear unit or swish (Elfwing et al. 2018)."""
    return jax.nn.silu(x)


@plain(activations, "tanh")
def tanh(x: jax.Array) -> jax.Array:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _tanh_gelu(x):
    return jax.nn.gelu(x, approximate=True)


def activated(normalization: nnx.Module, function: Activation, x: jax.Array) -> jax.Array:
    """function(normalization(x)); batch normalization with ReLU is one operation, with one derivative."""
    if function is relu and type(normalization) is BatchNorm:
        return normalization(x, rectify=True)
    return function(normalization(x))


@activations.register
def gelu(*, approximate: bool = False) -> Activation:
    """x P(X <= x) with X ~ N(0, 1), the Gaussian error linear unit (Hendrycks and Gimpel 2016).

    Args:
        approximate: by a tanh.
    """
    return _tanh_gelu if approximate else _gelu
