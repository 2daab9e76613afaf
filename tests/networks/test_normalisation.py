"""Batch normalisation over groups of images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, networks
from lmjax.networks import BatchNorm, group_batch_norm

X = jax.random.normal(jax.random.key(0), (12, 5, 4, 3)) * 2 + 1


def layer(group, **options):
    norm = BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0), **options)
    norm.group = group
    norm.scale[...], norm.bias[...] = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 3.0, 1.0])
    return norm


@pytest.mark.versions
@pytest.mark.parametrize("group", [1, 3, 4])
def test_against_numpy(group):
    norm = layer(group)
    found = norm(X)
    x = np.asarray(X, np.float64).reshape(-1, group, 5, 4, 3)
    mean, var = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(found, expected.reshape(X.shape), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean.mean(0).ravel(), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var.mean(0).ravel(), rtol=1e-4)


@pytest.mark.versions
def test_one_group_is_the_whole_batch():
    grouped, whole = layer(12), layer(None)
    chex.assert_trees_all_close(grouped(X), whole(X), atol=1e-6)
    chex.assert_trees_all_close(grouped.mean[...], whole.mean[...], atol=1e-6)
    chex.assert_trees_all_close(grouped.var[...], whole.var[...], atol=1e-6)


def test_a_group_does_not_see_the_others():
    other = X.at[4:].multiply(7)
    assert (layer(4)(X)[:4] == layer(4)(other)[:4]).all()
    assert not (layer(None)(X)[:4] == layer(None)(other)[:4]).all()


def test_evaluation_has_no_groups_and_half_precision_keeps_float32_statistics():
    norm = layer(4, dtype=jnp.bfloat16)
    assert norm(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert norm.mean[...].dtype == jnp.float32
    norm.eval()
    mean = norm.mean[...].copy()
    norm(X[:5].astype(jnp.bfloat16))  # five images are no multiple of four
    assert (norm.mean[...] == mean).all()


def test_what_does_not_divide():
    with pytest.raises(InputError, match="12 images do not divide into groups of 5"):
        layer(5)(X)


@pytest.mark.parametrize("name", ["resnet14", "fractalnet20"])
def test_every_normalisation_of_a_network(name):
    model = nnx.eval_shape(lambda: networks.create(name, stepper=None, width=0.25, rngs=nnx.Rngs(0)))
    group_batch_norm(model, 8)
    groups = [module.group for _, module in nnx.iter_graph(model) if isinstance(module, nnx.BatchNorm)]
    assert groups
    assert set(groups) == {8}
