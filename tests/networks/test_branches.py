"""Residual branches and shortcuts: written out, in other networks, and with random state of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.linalg import expm

from lmjax import InputError, networks
from lmjax.config import ModelConfig
from lmjax.networks import Block, Options, PoolAndPad, Stage, Symmetric
from lmjax.networks.vit import SPLITTINGS, split
from tests.networks.small import IMAGES, logits, small


def test_a_convnext_branch_written_out():
    branch = networks.convnext.inverted(3, scale=0.5)(4, 4, rngs=nnx.Rngs(0))
    u = np.asarray(IMAGES[..., :1] * jnp.arange(1.0, 5) + IMAGES[..., 1:2])
    kernel = np.asarray(branch.depthwise.kernel[...])
    padded = np.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 8, j : j + 8] * kernel[i, j, 0] for i in range(3) for j in range(3))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = jax.nn.gelu(x @ branch.perceptron.widen.kernel[...], approximate=False) @ branch.perceptron.narrow.kernel[...]
    np.testing.assert_allclose(branch(u), 0.5 * x, rtol=1e-3, atol=1e-5)


@pytest.mark.versions
def test_a_basic_branch_with_groups_of_channels_and_silu_written_out():
    branch = networks.basic()(4, 4, options=Options(normalization="group(2)", activation="silu"), rngs=nnx.Rngs(0))
    u = x = np.asarray(jax.random.normal(jax.random.key(0), (2, 5, 5, 4)))
    for act, conv in ((branch.act1, branch.conv1), (branch.act2, branch.conv2)):
        groups = x.reshape(2, 25, 2, 2)
        mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
        x = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(u.shape) * act.norm.scale[...] + act.norm.bias[...]
        x = np.asarray(conv(x / (1 + np.exp(-x))))
    np.testing.assert_allclose(branch(u), x, rtol=1e-4, atol=1e-5)


def test_symmetric_branch_is_a_gradient():
    """With the normalization fixed, its Jacobian is symmetric: that of -grad of sum(relu(..)^2) / 2, and so on."""
    branch = Symmetric(2, 2, rngs=nnx.Rngs(0))
    branch.act.norm.scale[...] = jnp.ones(2)
    branch.eval()
    u = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    jacobian = jax.jacobian(branch)(u).reshape(u.size, u.size)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-5)
    assert np.linalg.eigvalsh(jacobian).max() < 1e-5  # and it pulls back
    assert np.abs(jacobian).max() > 0.1


def test_averaging_and_padding():
    found = PoolAndPad(1, 4, stride=2)(jnp.arange(16.0).reshape(1, 4, 4, 1))
    expected = np.pad([[[2.5], [4.5]], [[10.5], [12.5]]], ((0, 0), (0, 0), (1, 2)))
    np.testing.assert_allclose(found, expected[None])
    odd = PoolAndPad(1, 1, stride=2)(jnp.arange(9.0).reshape(1, 3, 3, 1))
    np.testing.assert_allclose(odd[0, ..., 0], [[2, 3.5], [6.5, 8]])  # as a convolution, it makes two pixels of three


def test_a_convnext_branch_in_a_resnet():
    model = small(branch="convnext(3)")
    assert isinstance(model.stages[0].entry.branches[0], networks.convnext.Inverted)
    assert not isinstance(model.stages[1].entry.branches[0], networks.convnext.Inverted)  # there the shape changes
    assert logits(model).shape == (4, 10)


def test_attention_between_the_pixels_of_a_resnet():
    assert logits(small(branch="transformer(2)")).shape == (4, 10)


# Transformers as splitting methods


@pytest.mark.parametrize(("splitting", "order"), [("lie", 1), ("strang", 2), ("parallel", 1)])
def test_order_of_a_splitting(splitting, order, x64):
    """u' = (A + M) u with matrices that do not commute, each part solved exactly."""
    fields = {"attention": np.array([[0.0, 1.0], [-1.0, 0.0]]), "mlp": np.array([[-0.5, 1.0], [0.0, 0.25]])}
    exact = expm(sum(fields.values())) @ np.ones(2)
    errors = []
    for steps in (16, 32):
        flows = [expm(share / steps * fields[kind]) - np.eye(2) for kind, share in SPLITTINGS[splitting]]
        parts, u = [lambda u, flow=flow: flow @ u for flow in flows], jnp.ones(2, jnp.float64)
        for _ in range(steps):
            u = u + split(splitting, parts, u)
        errors.append(np.linalg.norm(u - exact))
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_a_transformer_block_written_out(splitting):
    block = networks.vit.transformer(2, splitting)(8, 8, rngs=nnx.Rngs(0))
    u = jax.random.normal(jax.random.key(2), (2, 5, 8))
    parts = [lambda u, part=part, share=part.share: part(u) / share for part in block.parts]
    if splitting == "lie":  # the Transformer
        a, m = parts
        expected = u + a(u)
        expected = expected + m(expected)
    elif splitting == "strang":  # the Macaron net
        first, a, second = parts
        expected = u + first(u) / 2
        expected = expected + a(expected)
        expected = expected + second(expected) / 2
    else:
        a, m = parts
        expected = u + a(u) + m(u)
    np.testing.assert_allclose(u + block(u), expected, rtol=1e-5, atol=1e-6)


def test_a_published_vit_takes_another_splitting():
    model = ModelConfig("vit-tiny(splitting=strang)").outline(classes=10, cin=3)
    assert [part.share for part in model.stages[0].steps.item.branches[0].parts] == [0.5, 1.0, 0.5]


def test_a_vit_in_bfloat16_has_logits_in_float32():
    model = small(name="vit(width=8, depth=3, heads=2, patch=4, image=8)", dtype="bfloat16")
    features, found = jax.eval_shape(lambda x: (model.features(x), model(x)), IMAGES)
    assert (features.dtype, found.dtype) == (jnp.bfloat16, jnp.float32)


# Random state of its own: every call draws anew, however the steps are computed


class Dropped(nnx.Module):
    """A convolution whose inputs are dropped at random, with a count of its own beside."""

    def __init__(self, cin, cout, *, options, rngs, stride=1):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.convolution = nnx.Conv(cin, cout, (1, 1), rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, u):
        self.calls[...] += 1
        return self.convolution(self.dropout(u))


U = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))


@pytest.mark.parametrize("sharing", ["none", "all"])
def test_a_block_of_random_branches_draws_anew(sharing):
    block = Block(Options("midpoint", branch=Dropped, sharing=sharing), 4, rngs=nnx.Rngs(0))
    call = nnx.jit(lambda block: block(U, block.stepper.init(U))[0])
    first, second = call(block), call(block)
    assert float(jnp.abs(first - second).max()) > 0.01
    assert [int(branch.calls[...]) for branch in block.branches] == [2] * len(block.branches)
    block.eval()
    np.testing.assert_array_equal(call(block), call(block))


def test_a_branch_that_makes_variables_when_it_is_called_is_named():
    class Seen(nnx.Module):
        def __init__(self, cin, cout, *, options, rngs, stride=1):
            pass

        def __call__(self, u):
            self.seen = nnx.Variable(u)
            return u

    block = Block(Options("midpoint", branch=Seen), 4, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"a branch makes or removes variables when it is called: \['seen'\]"):
        block(U, block.stepper.init(U))


def test_a_branch_that_writes_a_trainable_variable_is_an_error():
    class Counted(nnx.Module):
        def __init__(self, cin, cout, *, options, rngs, stride=1):
            self.calls = nnx.Param(jnp.zeros(()))

        def __call__(self, u):
            self.calls[...] += 1
            return u

    block = Block(Options("midpoint", branch=Counted), 4, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"a branch writes an nnx\.Param when it is called"):
        block(U, block.stepper.init(U))


@pytest.mark.parametrize("memory", ["stored", "remat", "reversible"])
def test_a_stage_of_random_branches_draws_anew(memory):
    """And in the backward pass the same as in the forward pass."""

    def stage(memory):
        return Stage(Options("leapfrog", branch=Dropped, memory=memory), 4, 4, 3, rngs=nnx.Rngs(0))

    gradient = nnx.jit(nnx.grad(lambda stage: (stage(U)[0] ** 2).mean()))
    here = stage(memory)
    first, second, expected = (jax.tree.leaves(gradient(s)) for s in (here, here, stage("stored")))
    assert any(float(jnp.abs(x - y).max()) > 1e-4 for x, y in zip(first, second, strict=True))
    assert np.asarray(here.steps.item.branches[0].calls[...]).tolist() == [2, 2]
    for x, y in zip(first, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
