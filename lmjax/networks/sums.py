"""Two sums at once, whose gradient is two broadcasts at once, and the other way round.

On a GPU XLA makes one kernel of two sums only if they are one operation, which saves two launches for every batch
normalization. On a TPU it adds up plain sums within the convolution before them, and a sum of pairs apart from it: by
its own estimate, a step would take half as long again. So each has its form. Of other files `stack.py` alone knows of
them, whose loops store the sums. Both are linear, and are told to JAX as that: all modes of differentiation work.
"""

import operator

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

_sums = jax.extend.core.Primitive("two_sums")
_broadcasts = jax.extend.core.Primitive("two_broadcasts")
_sums.multiple_results = _broadcasts.multiple_results = True


def two_sums(x: jax.Array, y: jax.Array, axes: tuple[int, ...]) -> list[jax.Array]:
    """The sums of two arrays of one shape and dtype over axes, which stay with the length 1."""
    return _sums.bind(x, y, axes=axes)


def two_broadcasts(x: jax.Array, y: jax.Array, shape: tuple[int, ...]) -> list[jax.Array]:
    """Two arrays of one shape and dtype, broadcast along their axes of length 1."""
    return _broadcasts.bind(x, y, shape=shape)


def _apart(x, y, *, axes):
    return [jnp.sum(each, axes, keepdims=True) for each in (x, y)]


def _together(x, y, *, axes):
    zero = jnp.zeros((), x.dtype)
    found = lax.reduce((x, y), (zero, zero), lambda a, b: tuple(map(operator.add, a, b)), axes)
    return [jnp.expand_dims(each, axes) for each in found]


def _broadcast(x, y, *, shape):
    return [jnp.broadcast_to(each, shape) for each in (x, y)]


def _axes(x, shape):
    return tuple(i for i, (short, long) in enumerate(zip(x.aval.shape, shape, strict=True)) if short != long)


def _in_front(arrays, batched):
    """The arrays with the axis of `jax.vmap` as their first one."""
    size = next(x.shape[axis] for x, axis in zip(arrays, batched, strict=True) if axis is not None)
    return [batching.bdim_at_front(x, axis, size) for x, axis in zip(arrays, batched, strict=True)]


def _batched_sums(arrays, batched, *, axes):
    x, y = _in_front(arrays, batched)
    return two_sums(x, y, tuple(axis + 1 for axis in axes)), [0, 0]


def _batched_broadcasts(arrays, batched, *, shape):
    x, y = _in_front(arrays, batched)
    return two_broadcasts(x, y, (len(x), *shape)), [0, 0]


_sums.def_impl(jax.jit(_apart, static_argnames="axes"))
_broadcasts.def_impl(jax.jit(_broadcast, static_argnames="shape"))
mlir.register_lowering(_sums, mlir.lower_fun(_apart, multiple_results=True))
mlir.register_lowering(_sums, mlir.lower_fun(_together, multiple_results=True), platform="gpu")
mlir.register_lowering(_broadcasts, mlir.lower_fun(_broadcast, multiple_results=True))


@_sums.def_abstract_eval
def _shapes_of_sums(x, y, *, axes):
    return [
        jax.core.ShapedArray(tuple(1 if i in axes else n for i, n in enumerate(each.shape)), each.dtype)
        for each in (x, y)
    ]


@_broadcasts.def_abstract_eval
def _shapes_of_broadcasts(x, y, *, shape):
    return [jax.core.ShapedArray(shape, each.dtype) for each in (x, y)]


def _transposed_sums(g, x, y, *, axes):
    first, second = map(ad.instantiate_zeros, g)
    return two_broadcasts(first, second, x.aval.shape)


def _transposed_broadcasts(g, x, y, *, shape):
    first, second = map(ad.instantiate_zeros, g)
    return two_sums(first, second, _axes(x, shape))


ad.deflinear2(_sums, _transposed_sums)
ad.deflinear2(_broadcasts, _transposed_broadcasts)
batching.primitive_batchers[_sums] = _batched_sums
batching.primitive_batchers[_broadcasts] = _batched_broadcasts
