"""Promotion of dtypes and shapes where it is meant, whatever strict mode JAX is in."""

import contextlib
from collections.abc import Generator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@contextlib.contextmanager
def lenient() -> Generator[None, None, None]:
    """JAX's standard rules: for sums that mix dtypes or ranks on purpose. Decorates a function, too.

    Under jax_numpy_dtype_promotion="strict" and jax_numpy_rank_promotion="raise" they give the same numbers as without.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@lenient()
def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """The dtype, or the one of its kind that has float32's precision if that is more."""
    return jnp.promote_types(dtype, jnp.float32)
