"""ConvNeXt: the published sizes, any scheme, any memory."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, networks
from tests.parameters import few

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
SMALL = "convnext((2, 3), (6, 8), patch=1)"


KINDS = {  # with increments that can be seen beside the state in float32
    "convnext": {"name": SMALL, "branch": "convnext(3, scale=0.5)"},
    "vit": {"name": "vit(width=8, depth=3, heads=2, patch=4, image=8)"},
}


def create(name=SMALL, **options):
    return networks.create(name, rngs=nnx.Rngs(0), **options)


def loss_and_gradient(model):
    graph, params = nnx.split(model)

    def loss(params):
        logits = nnx.merge(graph, params)(IMAGES)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0])

    return jax.jit(jax.value_and_grad(loss))(nnx.to_pure_dict(params))


@pytest.mark.versions
@pytest.mark.parametrize(
    ("name", "depths", "channels", "parameters"),
    [
        ("convnext_tiny", (3, 3, 9, 3), (96, 192, 384, 768), 28_589_128),  # 28.6 million in Liu et al. 2022
        ("convnext_atto", (2, 2, 6, 2), (40, 80, 160, 320), 3_695_520),  # 3.70 million in timm's table
    ],
)
def test_parameters(name, depths, channels, parameters):
    """Counted from the layout of the paper: 7 x 7, layer normalization, two linear maps, and a scale a block."""
    count = (4 * 4 * 3 + 3) * channels[0]  # first patches: kernel, bias, normalization
    count += sum(n * (49 * c + c + 2 * c + 8 * c * c + 5 * c + c) for n, c in zip(depths, channels, strict=True))
    count += sum(2 * a + 4 * a * b + b for a, b in itertools.pairwise(channels))
    count += 2 * channels[-1] + 1000 * channels[-1] + 1000
    assert count == parameters
    model = nnx.eval_shape(lambda: create(name, classes=1000))
    assert networks.parameter_count(model) == parameters


def test_a_branch_written_out():
    branch = networks.convnext.inverted(3, scale=0.5)(4, 4, rngs=nnx.Rngs(0))
    u = np.asarray(IMAGES[..., :1] * jnp.arange(1.0, 5) + IMAGES[..., 1:2])
    kernel = np.asarray(branch.depthwise.kernel[...])
    padded = np.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 8, j : j + 8] * kernel[i, j, 0] for i in range(3) for j in range(3))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = jax.nn.gelu(x @ branch.perceptron.widen.kernel[...], approximate=False) @ branch.perceptron.narrow.kernel[...]
    np.testing.assert_allclose(branch(u), 0.5 * x, rtol=1e-3, atol=1e-5)


@pytest.mark.versions
def test_every_parameter_takes_part():
    _, gradient = loss_and_gradient(create(**KINDS["convnext"], stepper="lm"))
    silent = [p for p, x in jax.tree_util.tree_leaves_with_path(gradient) if not jnp.abs(x).max() > 0]
    assert silent == []
    assert gradient["stages"][0]["steps"]["item"]["coefficients"][0].shape == (1,)


@pytest.mark.parametrize("kind", few(KINDS, ["convnext"]))
def test_lm_without_k_is_euler(kind):
    euler, lm = (create(**KINDS[kind], stepper=stepper) for stepper in ("euler", "lm(0, 0)"))
    lm_params = nnx.to_flat_state(nnx.state(lm))
    taken = {path: variable for path, variable in lm_params if "coefficients" not in path}
    nnx.update(euler, nnx.from_flat_state(taken.items()))
    assert (jax.jit(lambda x: euler(x))(IMAGES) == jax.jit(lambda x: lm(x))(IMAGES)).all()


@pytest.mark.parametrize(
    ("kind", "stepper", "memory"),
    few(
        [
            (kind, *how)
            for kind in KINDS
            for how in [("lm", "remat"), ("momentum", "reversible"), ("reversible", "reversible")]
        ],
        [("vit", "lm", "remat"), ("convnext", "momentum", "reversible")],
    ),
)
def test_what_is_rebuilt_is_what_was_stored(kind, stepper, memory):
    stored, other = (
        loss_and_gradient(create(**KINDS[kind], stepper=stepper, memory=each, unroll=False))
        for each in ("stored", memory)
    )
    for x, y in zip(jax.tree.leaves(stored), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)


def test_its_history_crosses_the_boundary():
    plain, step = (nnx.eval_shape(lambda b=b: create(stepper="lm", boundary=b)) for b in ("plain", "step"))
    patches = 2 * 6 + 2 * 2 * 6 * 8 + 8  # a layer normalization, and a convolution
    assert networks.parameter_count(step) - networks.parameter_count(plain) == patches + 1


def test_zero_init():
    model = create(**KINDS["convnext"], zero_init=True)
    u = model.stem(IMAGES)
    u = model.stages[1].entry.shortcuts[0](u)
    np.testing.assert_allclose(model(IMAGES), model.classify(u), rtol=1e-5, atol=1e-6)


def test_its_branch_in_a_resnet():
    model = create("resnet14", branch="convnext(3)", width=0.25)
    assert isinstance(model.stages[0].entry.branches[0], networks.convnext.Inverted)
    assert not isinstance(model.stages[1].entry.branches[0], networks.convnext.Inverted)  # there the shape changes
    assert model(IMAGES).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convnext", {}, "network 'convnext': missing a required argument: 'depths'; convnext takes (depths, channels"),
        ("convnext_tinny", {}, "unknown network 'convnext_tinny': did you mean 'convnext_tiny'"),
        ("convnext((1, 1), (2,))", {}, "must have an entry a stage"),
        (SMALL, {"branch": "convnext(4)"}, "convnext: kernel must be odd, so that it has a middle, got 4"),
        (SMALL, {"branch": "convnect"}, "unknown branch 'convnect': did you mean 'convnext'"),
        (SMALL, {"placement": "post"}, "a convnext branch keeps the shape, and has its activation inside"),
        (SMALL, {"stepper": "poly(2)", "sharing": "convolutions"}, "a convnext branch has none to share"),
    ],
)
def test_what_is_wrong_is_named(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        create(name, **options)
