"""Normalizations and activations by name; batch normalization over groups of images, and of what has a large mean."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from lmjax import InputError, networks
from lmjax.config import ModelConfig
from lmjax.devices import data_mesh, replicated
from lmjax.networks import BatchNorm, group_batch_norm
from lmjax.networks.normalization import GroupNorm, LayerNorm, RMSNorm
from lmjax.networks.options import activations
from tests.networks.small import IMAGES, loss_and_gradient, outline, silent, small
from tests.parameters import few, slow

X = jax.random.normal(jax.random.key(0), (12, 5, 4, 3)) * 2 + 1


def layer(group, **options):
    norm = BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0), **options)
    norm.group = group
    norm.scale[...], norm.bias[...] = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 3.0, 1.0])
    return norm


@pytest.mark.versions
@pytest.mark.parametrize("group", [1, 3, 4, 12, None])
def test_against_numpy(group):
    """Each group by itself; None is the whole batch."""
    norm = layer(group)
    found = norm(X)
    x = np.asarray(X, np.float64).reshape(-1, group or 12, 5, 4, 3)
    mean, var = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(found, expected.reshape(X.shape), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean.mean(0).ravel(), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var.mean(0).ravel(), rtol=1e-4)


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
def test_every_batch_normalization_of_a_network(name):
    model = outline(name=name, width=0.25)
    group_batch_norm(model, 8)
    groups = [module.group for _, module in nnx.iter_graph(model) if isinstance(module, nnx.BatchNorm)]
    assert groups
    assert set(groups) == {8}


def far(ratio, dtype, seed=0):
    """Channels whose mean is `ratio` standard deviations, in both directions, and a constant one."""
    x = np.random.default_rng(seed).normal(size=(32, 8, 8, 3)) * [1.0, 1.0, 0.0] + ratio * np.array([1.0, -1.0, 1.0])
    return jnp.asarray(x, dtype)


def exact(x, group):
    """x normalized in float64."""
    grouped = np.asarray(x, np.float64).reshape(-1, group or len(x), *x.shape[1:])
    mean, var = (f(grouped, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


def fresh(group, dtype=jnp.float32):
    norm = BatchNorm(3, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=nnx.Rngs(0))
    norm.group = group
    return norm


@pytest.mark.versions
@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_mean_is_too_large_for_a_variance(dtype, group):
    """From the first step on, when the running mean is still zero: never negative, and everything finite."""
    graph, state = nnx.split(fresh(group, dtype))

    @jax.jit
    def gradient(state, x):
        weights = jnp.cos(jnp.arange(x.size)).reshape(x.shape)

        def loss(state, x):
            norm = nnx.merge(graph, state)
            y = norm(x)
            return jnp.sum(y.astype(jnp.float32) * weights), (y, nnx.state(norm))

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(state, x)

    for ratio in (0, 1, 1e2, 1e3, 1e4, 1e6):
        after = state
        for seed in range(5):
            gradients, (y, after) = gradient(after, far(ratio, dtype, seed))
            assert y.dtype == dtype
            assert all(jnp.isfinite(value).all() for value in jax.tree.leaves((gradients, y, after)))
            assert jnp.abs(y).max() < 30, "what is indistinguishable from a constant is not blown up"
            assert after["var"][...].min() >= 0


@pytest.mark.versions
@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize(
    ("ratio", "first", "later"),
    # Measured at the first step: 7e-7, 3e-5, 3e-3 and 0.3, and ten times that with an older XLA, which sums one number
    # after another; once the running mean follows: 1e-6, 1e-6, 4e-6 and 3e-5.
    [(1, 1e-5, 1e-5), (10, 1e-3, 1e-5), (100, 0.1, 1e-4), (1000, np.inf, 1e-3)],
)
def test_accuracy_for_large_means(ratio, first, later, group):
    """Against float64. A shift by the running mean is what makes it accurate."""
    norm, errors = fresh(group), []
    normalize = nnx.jit(lambda norm, x: norm(x))
    for seed in range(100):
        x = far(ratio, jnp.float32, seed)
        y = normalize(norm, x)
        if seed in (0, 99):
            errors.append(np.abs(y - exact(x, group))[..., :2].max())
    assert errors[0] < first
    assert errors[1] < later


@pytest.mark.versions
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_evaluation_is_in_float32(dtype):
    """A running mean rounded to bfloat16 would be off by a fifth of a standard deviation here."""
    norm, x = fresh(None, dtype), far(100, dtype)
    norm.mean[...], norm.var[...] = jnp.array([100.3, -99.7, 100.0]), jnp.array([1.0, 2.0, 3.0])
    norm.eval()
    expected = (np.asarray(x, np.float64) - norm.mean[...]) / np.sqrt(np.asarray(norm.var[...]) + 1e-5)
    np.testing.assert_allclose(norm(x).astype(jnp.float32), expected, atol=1e-4 if dtype == jnp.float32 else 0.02)


def test_float64_stays_float64(x64):
    for group in (None, 8):
        norm, x = fresh(group, None), far(100, jnp.float64)
        np.testing.assert_allclose(norm(x), exact(x, group), atol=1e-9)


@pytest.mark.versions
@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("platform", ["cuda", "default"])
def test_rectified(x64, monkeypatch, group, platform):
    """A ReLU that is one with the normalization, in all modes; a scale may be negative or zero, and so may a bias."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *arguments, **forms: forms[platform](*arguments))
    scales, biases = jnp.array([1.0, -2.0, 0.0, 0.0, -0.5]), jnp.array([0.1, 0.3, 1.0, -1.0, 0.0])
    x = jax.random.normal(jax.random.key(1), (8, 3, 2, 5), jnp.float64)
    x = x.at[..., 4].set(2)  # y = 0, where the derivative is 0, too

    def value(x, scale, bias, *, apart):
        module = BatchNorm(5, rngs=nnx.Rngs(0))
        module.group, module.scale, module.bias = group, nnx.Param(scale), nnx.Param(bias)
        return jax.nn.relu(module(x)) if apart else module(x, rectify=True)

    def found(apart):
        def loss(*arguments):
            return jnp.sum(jnp.sin(value(*arguments, apart=apart) * jnp.arange(1.0, 6.0)))

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        arguments = (x, scales.astype(jnp.float64), biases.astype(jnp.float64))
        _, along = jax.jvp(gradient, arguments, jax.tree.map(jnp.cos, arguments))
        return value(*arguments, apart=apart), gradient(*arguments), along

    for ours, plain in zip(jax.tree.leaves(found(False)), jax.tree.leaves(found(True)), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.versions
def test_relu(x64):
    """As JAX's, which has no slope at 0, in all modes and orders; and the same in what follows it."""
    x = jnp.array([-2.0, -0.0, 0.0, 0.5, 3.0])
    ours, plain = (
        [found, jax.grad(loss)(x), jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),))[1]]
        for relu in (activations.get("relu"), jax.nn.relu)
        for found, loss in [(relu(x), lambda x, relu=relu: jnp.sum(jnp.sin(relu(x) + x) * relu(x)))]
    )
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_mean_and_variance_wait_for_the_other_devices_once():
    graph, state = nnx.split(fresh(None))
    mesh = data_mesh()
    state, images = jax.device_put((state, X[:8]), (replicated(mesh), NamedSharding(mesh, PartitionSpec("data"))))
    program = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, images).compile().as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", program)) == 1


NETWORKS = {
    "pre": {"stepper": "lm"},
    "post": {"stepper": "lm", "placement": "post"},
    "convnext": {"name": "convnext((2, 2), (4, 8), patch=1)", "branch": "convnext(3, scale=0.5)"},
    "vit": {"name": "vit(width=8, depth=2, heads=2, patch=4, image=8)"},
    "rebuilt": {"stepper": "momentum", "memory": "reversible", "unroll": False},
}
NORMALIZATIONS = {"batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm, "group(2)": GroupNorm}


@pytest.mark.parametrize(
    ("kind", "normalization"),
    few(
        [(kind, normalization) for kind in NETWORKS for normalization in NORMALIZATIONS],
        [("post", "batch"), ("rebuilt", "group(2)"), ("convnext", "rms"), ("vit", "batch")],
    ),
)
def test_any_normalization_of_any_network(kind, normalization):
    model = small(**NETWORKS[kind], normalization=normalization, activation="silu")
    found = [m for _, m in nnx.iter_graph(model) if isinstance(m, (nnx.BatchNorm, *NORMALIZATIONS.values()))]
    assert {type(m) for m in found} == {NORMALIZATIONS[normalization]}
    (_, (_, statistics)), gradient = loss_and_gradient(model)
    assert bool(jax.tree.leaves(statistics)) == (normalization == "batch")
    assert not silent(gradient, "['key']['bias']")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_after_a_post_activated_step_comes_the_activation(activation):
    model = small("lm", placement="post", activation=activation)
    u, _ = model.stages[0](model.stem(IMAGES))
    if activation == "tanh":
        assert -1 <= u.min() < 0 < u.max() <= 1
    else:
        assert u.min() == 0
    assert model.activation is None


@pytest.mark.versions
def test_ones_own():
    class Half(nnx.Module):
        def __call__(self, x):
            return x / 2

    networks.normalizations.register(lambda: lambda channels, *, dtype, rngs: Half(), name="half")
    networks.activations.register(lambda power=2: lambda x: jax.nn.relu(x) ** power, name="relu_power")
    model = ModelConfig("resnet8", normalization="half", activation="relu-power( 3 )")
    assert model.activation == "relu_power(3)"
    branch = model.build(classes=10, cin=3, rngs=nnx.Rngs(0)).stages[0].entry.branches[0]
    u = jnp.ones((1, 3, 3, 16))
    x = branch.conv1((u / 2) ** 3)
    np.testing.assert_allclose(branch(u), branch.conv2(jax.nn.relu(x / 2) ** 3), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="zero_init: this normalization has no scale to start at zero"):
        networks.create("resnet8", normalization="half", placement="post", zero_init=True, rngs=nnx.Rngs(0))


@pytest.mark.versions
@pytest.mark.parametrize("group", [slow(None), 2])
def test_derivatives_in_any_mode_and_order(x64, group):
    """Of the form that is written out, against finite differences; of several networks at once as of each."""
    norm = networks.BatchNorm(3, dtype=jnp.float64, rngs=nnx.Rngs(0))
    norm.group = group
    graph, _, statistics = nnx.split(norm, nnx.Param, nnx.BatchStat)
    statistics = nnx.to_pure_dict(statistics)
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(2, 3, (4, 2, 2, 3)), rng.normal(1, 1, 3), rng.normal(0, 1, 3)

    def f(x, scale, bias):
        return jnp.sin(nnx.merge(graph, {"scale": scale, "bias": bias}, statistics)(x))

    check_grads(f, (x, scale, bias), order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5)
    several = jax.vmap(jax.grad(lambda *each: f(*each).sum(), (0, 1, 2)))(
        *(jnp.stack([each, 2 * each]) for each in (x, scale, bias))
    )
    one = jax.grad(lambda *each: f(*each).sum(), (0, 1, 2))(*(jnp.asarray(2 * each) for each in (x, scale, bias)))
    jax.tree.map(lambda many, single: np.testing.assert_allclose(many[1], single, atol=1e-12), several, one)
