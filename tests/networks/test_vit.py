"""Vision transformers: the published sizes, and their blocks as splitting methods."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.linalg import expm

from lmjax import InputError, networks
from lmjax.config import ModelConfig
from lmjax.networks.vit import SPLITTINGS, split
from tests.parameters import few

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def create(splitting="lie", **options):
    name = f"vit(width=8, depth=3, heads=2, patch=4, image=8, splitting={splitting})"
    return networks.create(name, rngs=nnx.Rngs(0), **options)


@pytest.mark.versions
@pytest.mark.parametrize(("name", "parameters"), [("vit_tiny", 5_717_416), ("vit_small", 22_050_664)])
def test_parameters(name, parameters):
    """Those of Touvron et al. 2021 and timm."""
    model = nnx.eval_shape(lambda: networks.create(name, classes=1000, rngs=nnx.Rngs(0)))
    assert networks.parameter_count(model) == parameters


@pytest.mark.parametrize(("splitting", "order"), [("lie", 1), ("strang", 2), ("parallel", 1)])
def test_order(splitting, order, x64):
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
def test_a_block_written_out(splitting):
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


@pytest.mark.versions
@pytest.mark.parametrize("splitting", few(SPLITTINGS, ["strang"]))
def test_every_parameter_takes_part(splitting):
    model = create(splitting, stepper="lm")
    graph, params = nnx.split(model)
    assert networks.coefficients(model)["stage1"].shape == (2,)

    def loss(params):
        logits = nnx.merge(graph, params)(IMAGES)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0])

    gradient = jax.jit(jax.grad(loss))(nnx.to_pure_dict(params))
    silent = [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(gradient)
        if not jnp.abs(x).max() > 1e-7 and "['key']['bias']" not in jax.tree_util.keystr(path)
    ]  # a softmax does not see what is the same for all keys
    assert silent == []


def test_a_published_name_takes_another_splitting():
    model = ModelConfig("vit-tiny(splitting=strang)").outline(classes=10, cin=3)
    assert [part.share for part in model.stages[0].steps.item.branches[0].parts] == [0.5, 1.0, 0.5]


def test_bfloat16():
    model = create(dtype="bfloat16")
    assert model.features(IMAGES).dtype == jnp.bfloat16
    assert model(IMAGES).dtype == jnp.float32


def test_zero_init():
    model = create("strang", zero_init=True)
    np.testing.assert_allclose(model(IMAGES), model.classify(model.stem(IMAGES)), rtol=1e-6)


def test_attention_between_the_pixels_of_a_resnet():
    model = networks.create("resnet14", branch="transformer(2)", width=0.25, rngs=nnx.Rngs(0))
    assert model(IMAGES).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit(patch=3)", {}, "network vit: sizes must be at least 1, and patch divide image, got 3 and 224"),
        ("vit(splitting=string)", {}, "unknown network 'string'"),
        ("vit(heads=5)", {}, "transformer: 192 channels do not divide into 5 heads"),
        ("vit_tiny", {"branch": "basic"}, "it has branches of its own: leave out branch"),
        ("vit_tiny", {"placement": "post"}, "a transformer branch keeps the shape"),
    ],
)
def test_what_is_wrong_is_named(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        networks.create(name, rngs=nnx.Rngs(0), **options)


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match="made for 8 x 8 pixels, got 6 x 6: give image=6"):
        create()(IMAGES[:, :6, :6])
