"""LM-ResNet against the formula of its authors, in float64: logits and all gradients, to 1e-12.

The formula is written out in tests/networks/reference.py, and differentiated by JAX and, where it is installed, by
PyTorch.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import networks
from tests.networks.reference import Reference
from tests.networks.small import statistics_of

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
LABELS = np.arange(6) % 5


@pytest.fixture
def ours(x64):
    """The parameters and statistics; of the network in training, its loss, logits and gradient."""
    options = {"stepper": "lm", "width": 0.25, "classes": 5, "dtype": jnp.float64}
    graph, params, statistics = nnx.split(networks.create("resnet20", **options, rngs=nnx.Rngs(0)), nnx.Param, ...)
    draw = np.random.default_rng(1).uniform
    # So that nothing hides behind a 0 or a 1.
    params = jax.tree.map(lambda x: jnp.asarray(x + draw(-0.1, 0.1, x.shape)), nnx.to_pure_dict(params))
    statistics = jax.tree.map(lambda x: jnp.asarray(x + draw(0.1, 0.5, x.shape)), nnx.to_pure_dict(statistics))

    def loss(params):
        logits = nnx.merge(graph, params, statistics)(jnp.asarray(IMAGES))
        return cross_entropy(logits), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    @jax.jit
    def evaluated(images):
        model = nnx.merge(graph, params, statistics)
        model.eval()
        return model(images), statistics_of(model)

    found, after = evaluated(IMAGES)
    chex.assert_trees_all_equal(after, statistics)  # evaluation changes nothing
    assert_equal(evaluated(IMAGES[:1])[0], found[:1])  # and takes an image alone
    return params, statistics, logits, gradient, found


def cross_entropy(logits):
    return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[jnp.arange(6), LABELS])


def assert_equal(found, expected):
    """Within 1e-12 of the largest number of each array."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


def jax_pad(x, p):
    return jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))


@pytest.mark.versions
def test_the_formula_differentiated_by_jax(ours):
    params, statistics, logits, gradient, evaluated = ours

    def loss(params):
        logits = Reference(params, None, jax_pad)(jnp.asarray(IMAGES))
        return cross_entropy(logits), logits

    (_, expected), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert_equal((logits, gradient), (expected, slopes))
    assert min(np.abs(x).max() for x in jax.tree.leaves(gradient["stages"][1]["steps"]["item"]["coefficients"])) > 1e-3
    assert_equal(evaluated, Reference(*jax.tree.map(np.asarray, (params, statistics)))(IMAGES))


@pytest.mark.slow
def test_the_formula_differentiated_by_pytorch(ours):
    torch = pytest.importorskip("torch")
    params, statistics, logits, gradient, evaluated = jax.tree.map(np.array, ours)

    def pad(x, p):
        return torch.nn.functional.pad(x, (0, 0, p, p, p, p))

    images = torch.tensor(IMAGES)
    variables = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), params)
    expected = Reference(variables, None, pad)(images)
    torch.nn.functional.cross_entropy(expected, torch.tensor(LABELS)).backward()
    assert_equal((logits, gradient), (expected.detach().numpy(), jax.tree.map(lambda x: x.grad.numpy(), variables)))
    fixed = jax.tree.map(torch.tensor, (params, statistics))
    assert_equal(evaluated, Reference(*fixed, pad)(images).numpy())
