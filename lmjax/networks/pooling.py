"""Max-pooling, whose gradient is cheap on a GPU, too."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """The maximum of each window of size x size pixels, [N, H, W, C] -> [N, H', W', C].

    Its gradient goes to the first maximum of a window. On a GPU that is written out, since XLA makes a float32 map and
    four maps of indices of it.
    """

    def elsewhere(x):
        return nnx.max_pool(x, (size, size), (stride, stride), ((padding, padding), (padding, padding)))

    def gpu(x):
        return _max_pool(x, size, stride, padding)

    return lax.platform_dependent(x, cuda=gpu, rocm=gpu, default=elsewhere)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, size, stride, padding):
    return _first_maximum(x, size, stride, padding)[0]


@_max_pool.defjvp
def _derivative_of_max_pool(size, stride, padding, primals, tangents):
    (x,), (dx,) = primals, tangents
    _, place = _first_maximum(x, size, stride, padding)
    windows = enumerate(_windows(dx, 0, size, stride, padding))
    return _max_pool(x, size, stride, padding), sum(jnp.where(place == i, one, 0) for i, one in windows)


def _first_maximum(x, size, stride, padding):
    """The maximum of each window, and the place of the first one in it, a small integer."""
    y, *others = _windows(x, -jnp.inf, size, stride, padding)
    place = jnp.zeros(y.shape, jnp.uint8 if size < 16 else jnp.int32)
    for i, one in enumerate(others, start=1):
        place, y = jnp.where(one > y, jnp.asarray(i, place.dtype), place), jnp.maximum(y, one)
    return y, place


def _windows(x: jax.Array, fill: float, size: int, stride: int, padding: int) -> Iterator[jax.Array]:
    """The pixels at each place of all windows, place by place."""
    edge = (padding, padding, 0)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), edge, edge, (0, 0, 0)))
    last = [n - size + 1 for n in x.shape[1:3]]
    for i, j in itertools.product(range(size), repeat=2):
        yield x[:, i : i + last[0] : stride, j : j + last[1] : stride]
