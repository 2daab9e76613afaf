"""Gradients of every family of networks: in float64 against finite differences, in float32 against float64.

The networks train: batch normalization takes its statistics from the batch, and what is random is drawn from one key.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import networks, steppers
from lmjax.networks import FractalNet, Network, Options, PoolAndPad, Symmetric, bottleneck, group_batch_norm
from lmjax.networks.normalization import gelu, silu
from tests.networks.small import parts, silent
from tests.parameters import few
from tests.steppers.schemes import WRAPPERS

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3))
LABELS = np.arange(6) % 3


def chain(stepper, *, group=None, **options):
    """Three steps of one scheme at one resolution: the first by itself, two in a loop."""
    fields = [field.name for field in dataclasses.fields(networks.Architecture)]
    architecture = {field: options.pop(field) for field in fields if field in options and field != "activation"}
    a = networks.Architecture(**{"depths": (3,), "channels": (4,), "stem": 4, **architecture})

    def make(dtype, rngs):
        network = Network(a, Options(stepper, classes=3, dtype=dtype, unroll=False, **options), rngs=rngs)
        group_batch_norm(network, group)
        return network

    return make


stages = functools.partial(chain, depths=(2, 2), channels=(4, 8))


def fractalnet(dtype, rngs):
    return FractalNet(2, channels=(4, 6), dropout=(0.0, 0.3), global_paths=0, classes=3, dtype=dtype, rngs=rngs)


def of(name, **options):
    """What distinguishes the network of that name, but for its size."""
    a = networks.get(name)
    kinds = {field: getattr(a, field) for field in ("branch", "shortcut", "first", "post", "boundary")}
    return stages(a.stepper.name, **kinds | options)


def named(name, **options):
    return lambda dtype, rngs: networks.create(name, classes=3, dtype=dtype, unroll=False, rngs=rngs, **options)


SCHEMES = [
    "lm", "backward_euler", "euler", "dense", "poly(2)", "stochastic_depth(lm)", "noise(lm, 0.01)",
    "lm(per_channel=True)", "leapfrog", "verlet", "momentum", "adams_bashforth(3)", "learned_multistep(3)", "midpoint",
    "linear_multistep((0.3, 0.6, 0.1), (1.8,))", "heun", "rk4", "way", "fractal", "reversible", "hamiltonian",
    "scaled(lm)", "scaled(backward_euler(50, 1e-13), 0.1, 0.1)", "way(2, drop=0.25, scale=0.7)",
    "shake_shake(lm, backward='keep')",
]  # fmt: skip
FAMILIES = {scheme: chain(scheme) for scheme in SCHEMES} | {
    "rebuilt, random": chain("stochastic_depth(noise(leapfrog, 0.01), 0.5)", memory="reversible"),
    "rebuilt, symmetric branch": chain("hamiltonian", memory="reversible", branch=Symmetric),
    "groups of images": chain("lm", group=2),
    "layer normalization, rebuilt": chain("momentum", memory="reversible", normalization="layer"),
    "ResNet for ImageNet": of("resnet18"),
    "RevNet": of("revnet38", memory="reversible"),
    "FractalNet": fractalnet,
    "ConvNeXt": named("convnext((2, 2), (4, 8), patch=1)", stepper="lm", branch="convnext(3, scale=0.5)"),
    "ViT": named("vit(width=8, depth=2, heads=2, patch=4, image=8, splitting=strang)", stepper="lm"),
    "Runge-Kutta at the boundary": stages("midpoint", boundary="step", sharing="convolutions"),
    "history across the boundary": stages("lm", boundary="step"),
    "post-activated": stages("lm", post=True),
    "post-activated, padding shortcut": stages("lm", post=True, shortcut=PoolAndPad),
    "recomputed": chain("lm", memory="remat"),
    "shared convolutions": chain("heun", sharing="convolutions"),
    "bottleneck": chain("lm", branch=bottleneck()),
    "rebuilt momentum": chain("momentum", memory="reversible"),
    "rebuilt leapfrog": chain("leapfrog", memory="reversible"),
    "rebuilt verlet": chain("verlet", memory="reversible"),
    "rebuilt, shared": chain("reversible", memory="reversible", sharing="all"),
    "shared everything": chain("poly(2)", sharing="all"),
    "two stages": stages("lm"),
    "root mean square, SiLU, post-activated": stages("lm", normalization="rms", placement="post", activation=silu),
    "groups of channels, GELU": stages("poly(2)", normalization="group(2)", sharing="convolutions", activation=gelu()),
    "ResNeXt": stages("lm", branch=bottleneck(1, 2)),
    "RevNet with bottlenecks": of("revnet164", channels=(8, 16), stem=8),
    "RevNet, stored": of("revnet38"),
}


DEFAULT = ("lm", "rebuilt, random", "groups of images", "RevNet", "ConvNeXt", "ViT")


def test_no_scheme_is_left_out():
    parts_of = set(steppers.registry.names()) - set(steppers.names()) - {"linear_multistep"}  # which needs arguments
    assert parts_of == set(WRAPPERS)
    words = set(re.findall(r"[a-z]\w+", " ".join(SCHEMES)))
    assert words >= {*steppers.names(), *WRAPPERS}


def loss_and_gradient(make, dtype):
    """(params, statistics) -> (loss, new statistics), gradient, all in one dtype."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(dtype, nnx.Rngs(0))))
    images = jnp.asarray(IMAGES, dtype)

    def loss(params, statistics):
        model = nnx.merge(graph, params, statistics)
        logits = model(images, jax.random.key(7))
        picked = jnp.take_along_axis(logits, LABELS[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def in_both_precisions(make):
    """The function, its arguments and its results, of float32 and of float64, from the same parameters."""
    _, *arguments = parts(make(jnp.float32, nnx.Rngs(0)))
    found = []
    for dtype in (jnp.float32, jnp.float64):
        f, given = loss_and_gradient(make, dtype), jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), arguments)
        found.append((f, given, f(*given)))
        assert {x.dtype for x in jax.tree.leaves(found[-1][2])} == {jnp.dtype(dtype)}, "and nothing in between"
    return found


def flat(tree):
    return np.concatenate([np.zeros(0), *(np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree))])


def assert_close(found, expected):
    """Loss, statistics and gradient, each in the Euclidean norm: 3e-6 at most measured, in any family."""
    (value, gradient), (expected_value, expected_gradient) = found, expected
    for a, b in zip((*value, gradient), (*expected_value, expected_gradient), strict=True):
        assert np.linalg.norm(flat(a) - flat(b)) <= 1e-5 * np.linalg.norm(flat(b))  # 0 where there are no statistics


@pytest.mark.versions
@pytest.mark.parametrize("family", few(FAMILIES, DEFAULT))
def test_gradients_against_finite_differences_and_float32_against_float64(family, x64):
    (_, _, single), (f, (params, statistics), double) = in_both_precisions(FAMILIES[family])
    assert_close(single, double)
    if not re.search("random|stochastic|drop|FractalNet", family):
        # A softmax does not see what is the same for all keys; weights on what is still zero at rest.
        assert not silent(double[1], "coefficients", "['key']['bias']")

    random = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: random.normal(size=x.shape), params)
    length = np.linalg.norm(flat(direction))

    def loss(h):
        moved = jax.tree.map(lambda x, d: x + h * d / length, params, direction)
        return float(f(moved, statistics)[0][0])

    # So small that hardly a ReLU has its kink within; but attention forms its softmax in float32, as JAX does.
    h, tolerance = (1e-3, 1e-3) if family == "ViT" else (1e-5, 1e-6)
    gradient = flat(double[1])
    found, expected = (loss(h) - loss(-h)) / (2 * h), gradient @ flat(direction) / length
    typical = np.linalg.norm(gradient) / np.sqrt(gradient.size)  # of a direction
    assert abs(found - expected) < tolerance * typical  # 4e-9 at most measured


@pytest.mark.slow
def test_the_backward_pass_of_shake_shake_draws_the_same_in_both_precisions(x64):
    """Its gradient is none of the forward pass's, and no difference of it."""
    (_, _, single), (_, _, double) = in_both_precisions(chain("shake_shake(lm)"))
    assert_close(single, double)
