"""Max-pooling on a GPU: the same values and derivatives as JAX's own, among equal numbers and at the edges, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax.networks.pooling import max_pool


@pytest.mark.versions
@pytest.mark.parametrize(
    ("size", "stride", "padding", "pixels"), [(3, 2, 1, 8), (3, 2, 1, 7), (2, 2, 0, 6), (3, 1, 0, 5)]
)
def test_both_forms_agree(x64, monkeypatch, size, stride, padding, pixels):
    x = jax.random.normal(jax.random.key(0), (2, pixels, pixels, 3), jnp.float64)
    x = jnp.where(x > 1, jnp.round(x), jnp.round(2 * x) / 2)  # many are equal

    def found(platform):
        monkeypatch.setattr(lax, "platform_dependent", lambda x, **forms: forms[platform](x))

        def loss(x):
            y = max_pool(x, size, stride, padding)
            return jnp.sum(jnp.sin(y * jnp.arange(1.0, 1 + y.size).reshape(y.shape))), y

        gradient = jax.grad(loss, has_aux=True)
        (first, y), (second, _) = jax.jvp(gradient, (x,), (jax.random.normal(jax.random.key(1), x.shape, x.dtype),))
        return y, first, second

    for ours, plain in zip(found("cuda"), found("default"), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_dtype_and_what_is_not_a_number(monkeypatch):
    monkeypatch.setattr(lax, "platform_dependent", lambda x, **forms: forms["cuda"](x))
    x = jnp.full((1, 4, 4, 1), -jnp.inf, jnp.bfloat16).at[0, 3, 3].set(jnp.nan)
    y = max_pool(x, 3, 2, 1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0, :, :, 0].astype(jnp.float32), [[-np.inf, -np.inf], [-np.inf, np.nan]])
