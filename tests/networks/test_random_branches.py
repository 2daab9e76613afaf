"""A branch with random state of its own, as nnx.Dropout: every call draws anew, however the steps are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import steppers
from lmjax.networks import Block, Stage
from lmjax.networks.options import Options


class Dropped(nnx.Module):
    """A convolution whose inputs are dropped at random, with a count of its own beside."""

    def __init__(self, cin, cout, *, options, rngs, stride=1):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.convolution = nnx.Conv(cin, cout, (1, 1), rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, u):
        self.calls[...] += 1
        return self.convolution(self.dropout(u))


def options(stepper, sharing="none", memory="stored"):
    return Options(
        stepper=stepper, branch=Dropped, shortcut=None, sharing=sharing, memory=memory, boundary="plain"
    )  # fmt: skip


U = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))


@pytest.mark.parametrize("sharing", ["none", "all"])
def test_block_draws_anew(sharing):
    block = Block(options(steppers.midpoint(), sharing), 4, rngs=nnx.Rngs(0))
    call = nnx.jit(lambda block: block(U, block.stepper.init(U))[0])
    first, second = call(block), call(block)
    assert float(jnp.abs(first - second).max()) > 0.01
    assert [int(branch.calls[...]) for branch in block.branches] == [2] * len(block.branches)
    block.eval()
    np.testing.assert_array_equal(call(block), call(block))


@pytest.mark.parametrize("memory", ["stored", "remat", "reversible"])
def test_stage_draws_anew(memory):
    stage = Stage(options(steppers.leapfrog(), memory=memory), 4, 4, 3, rngs=nnx.Rngs(0))

    def loss(stage):
        return (stage(U)[0] ** 2).mean()

    gradient = nnx.jit(nnx.grad(loss))
    first, second = gradient(stage), gradient(stage)
    assert any(float(jnp.abs(x - y).max()) > 1e-4 for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True))
    assert np.asarray(stage.steps.item.branches[0].calls[...]).tolist() == [2, 2]
    # The dropped inputs of the backward pass are those of the forward pass.
    stored = Stage(options(steppers.leapfrog()), 4, 4, 3, rngs=nnx.Rngs(0))
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(gradient(stored)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
