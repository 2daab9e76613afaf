"""Batch normalisation, over the whole batch or over groups of it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from lmjax.errors import InputError


class BatchNorm(nnx.BatchNorm):
    """Flax's batch normalisation, which can take its statistics over groups of so many images.

    By default the mean and the variance of a channel are those of the whole batch, whatever devices it is spread
    over, which costs two sums over all devices forward and two backward. With `group` = g, image n is normalised with
    the statistics of the images g floor(n/g), ..., g floor(n/g) + g - 1 alone (the "ghost batches" of Hoffer, Hubara
    and Soudry 2017; with g the batch of a device, what data-parallel training without synchronisation computes). No
    device then waits for another while g divides the images it has; the result does not depend on their number. The
    running statistics are updated with the mean over the groups. An evaluation uses those, and has no groups.

    Attributes:
        group: how many images; None for the whole batch.
    """

    group: int | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, ..., channels], normalised in training with the statistics of x, in evaluation with the running ones.

        Raises:
            InputError: if N is no multiple of the group.
        """
        if self.group is None or self.use_running_average:
            return super().__call__(x)
        if x.shape[0] % self.group:
            raise InputError(f"batch normalisation: {x.shape[0]} images do not divide into groups of {self.group}")
        # Statistics in float32 and the variance from one pass over x, as Flax has them.
        grouped = x.astype(jnp.float32).reshape(-1, self.group, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        mean = jnp.mean(grouped, axes, keepdims=True)
        var = jnp.maximum(0.0, jnp.mean(grouped * grouped, axes, keepdims=True) - mean * mean)
        for running, new in ((self.mean, mean), (self.var, var)):
            new = lax.stop_gradient(new.mean(0).ravel())
            running[...] = self.momentum * running[...] + (1 - self.momentum) * new
        scale = 1.0 if self.scale is None else self.scale[...]
        bias = 0.0 if self.bias is None else self.bias[...]
        normalised = (grouped - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalised.reshape(x.shape).astype(x.dtype if self.dtype is None else self.dtype)


def group_batch_norm(network: nnx.Module, group: int | None) -> None:
    """Sets the group of every batch normalisation in a network."""
    for _, module in nnx.iter_graph(network):
        if isinstance(module, BatchNorm):
            module.group = group
