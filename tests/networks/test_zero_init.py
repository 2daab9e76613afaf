"""zero_init: a network starts as its shortcuts, otherwise as without, and learns."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmjax import InputError, networks, steppers
from lmjax.config import ModelConfig
from tests.parameters import few

# Of each kind a network, and which parameter of its branches is zero.
KINDS = {
    "basic": ({"name": "resnet14", "stepper": steppers.lm(), "width": 0.25}, "conv2.kernel"),
    "bottleneck": ({"name": "resnet14", "branch": "bottleneck", "width": 0.5}, "conv3.kernel"),
    "post": ({"name": "resnet14", "placement": "post", "width": 0.25}, "norm2.scale"),
    "group": ({"name": "resnet14", "placement": "post", "normalization": "group(4)", "width": 0.25}, "norm2.scale"),
    "coupled": ({"name": "revnet38", "width": 0.25, "memory": "reversible"}, "conv2.kernel"),
    "Runge-Kutta": (
        {"name": "resnet8", "stepper": steppers.heun(), "boundary": "step", "sharing": "convolutions", "width": 0.25},
        "conv2.kernel",
    ),
}
DEFAULT = ("basic", "post")
IMAGES = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))


@functools.cache
def create(kind, zero_init=True):
    return networks.create(**KINDS[kind][0], zero_init=zero_init, rngs=nnx.Rngs(0))


def parts(model):
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


def layers(params):
    """Every parameter by name, those of a stack step by step."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = ".".join(str(entry.key) for entry in path)
        found |= {f"{name}[{n}]": part for n, part in enumerate(x)} if ".steps.item." in name else {name: x}
    return found


def zeroed(kind, params):
    last = KINDS[kind][1]
    return {name for name in layers(params) if re.search(rf"\.branches\.\d+\.{last}(\[|$)", name)}


@pytest.mark.versions
@pytest.mark.parametrize("kind", few(KINDS, DEFAULT))
def test_it_zeroes_the_last_layer_of_every_branch_and_nothing_else(kind):
    params, without = (layers(parts(create(kind, zero))[1]) for zero in (True, False))
    assert params.keys() == without.keys()
    model = create(kind)
    branches = [len(stage.entry.branches) if stage.entry else 0 for stage in model.stages]
    branches += [stage.steps.depth * len(stage.steps.item.branches) for stage in model.stages if stage.steps.depth]
    shared = 1 if kind == "Runge-Kutta" else 0  # both branches of a block have one convolution
    zero = zeroed(kind, parts(model)[1])
    assert len(zero) == sum(branches) - shared
    for name, x in params.items():
        if name in zero:
            assert jnp.abs(x).max() == 0 < jnp.abs(without[name]).max(), name
        else:
            chex.assert_trees_all_equal(x, without[name])


def shortcuts_alone(model, images):
    u = model.stem(images)
    for stage in model.stages:
        shortcuts = stage.entry.shortcuts if stage.entry else []
        if len(shortcuts) > 0:
            halves = jnp.split(u, len(shortcuts), axis=-1)
            u = jnp.concatenate([P(x) for P, x in zip(shortcuts, halves, strict=True)], axis=-1)
        u = jax.nn.relu(u) if model.activation is None else u
    u = u if model.activation is None else model.activation(u)
    return model.head(u.mean((1, 2)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", few(KINDS, DEFAULT))
def test_the_network_starts_as_its_shortcuts(kind, training):
    for zero_init in (True, False):
        graph, params, statistics = parts(create(kind, zero_init))

        @jax.jit
        def both(params, statistics, graph=graph):
            model = nnx.merge(graph, params, statistics)
            model.train() if training else model.eval()
            return shortcuts_alone(nnx.clone(model), IMAGES), model(IMAGES)

        expected, found = both(params, statistics)
        assert jnp.abs(expected).max() > 0.1
        if zero_init:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert jnp.abs(found - expected).max() > 0.01


@pytest.mark.parametrize("kind", few(KINDS, DEFAULT))
def test_everything_learns(kind):
    """The gradient reaches what is zero at the first step, and everything at the second."""
    graph, params, statistics = parts(create(kind))
    start = layers(params)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = nnx.merge(graph, params, statistics)(IMAGES)
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(6)).mean()

        return jax.grad(loss)(params)

    for step in range(2):
        slope = gradient(params)
        if step == 0:
            assert all(jnp.abs(layers(slope)[name]).max() > 1e-6 for name in zeroed(kind, params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope)
    moved = {name: float(jnp.abs(x - start[name]).max()) for name, x in layers(params).items()}
    assert all(np.isfinite(list(moved.values())))
    assert not [name for name, distance in moved.items() if distance == 0]


def test_a_config_asks_for_it():
    build = functools.partial(ModelConfig("resnet8", width=0.25, zero_init=True).build, classes=10, cin=3)
    assert jnp.abs(build(rngs=nnx.Rngs(0)).stages[0].entry.branches[0].conv2.kernel[...]).max() == 0


@pytest.mark.versions
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fractalnet20"}, "is a scheme of its own, and takes no zero_init: leave it out"),
        (
            {"name": "resnet20", "branch": "symmetric"},
            "zero_init: a symmetric branch that starts at zero never learns: leave it out",
        ),
        (
            {"name": "resnet20", "branch": "symmetric", "stepper": steppers.hamiltonian(), "memory": "reversible"},
            "zero_init: a symmetric branch",
        ),
    ],
)
def test_where_it_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        networks.create(**options, zero_init=True, rngs=nnx.Rngs(0))
