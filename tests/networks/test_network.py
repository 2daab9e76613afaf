"""What the networks compute."""

import copy
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from lmjax import InputError, networks, steppers
from lmjax.networks import Block, Options, Projection, Stage, basic
from tests.networks.reference import Reference
from tests.parameters import few

IMAGES = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))


def small(stepper=None, name="resnet20", **options):
    return networks.create(name, stepper=stepper or steppers.lm(), width=0.25, rngs=nnx.Rngs(0), **options)


def parts(model):
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


def outputs(model):
    """The logits, by one compiled program: operation by operation, each would be compiled by itself."""
    graph, params, statistics = parts(model)
    return jax.jit(lambda params, statistics, images: nnx.merge(graph, params, statistics)(images))(
        params, statistics, IMAGES
    )


def scrambled(tree, low, high):
    """Values that no initializer makes, so that nothing hides behind a 0 or a 1."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        structure,
        [x + jax.random.uniform(k, x.shape, minval=low, maxval=high) for k, x in zip(keys, leaves, strict=True)],
    )


@pytest.mark.versions
@pytest.mark.parametrize("training", [True, False])
def test_forward_pass_against_numpy(training):
    graph, params, statistics = parts(small())
    params, statistics = scrambled(params, -0.1, 0.1), scrambled(statistics, 0.0, 0.5)
    model = nnx.merge(graph, params, statistics)
    model.train() if training else model.eval()
    with jax.default_matmul_precision("highest"):
        logits = outputs(model)
    as_numpy = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, statistics))
    expected = Reference(as_numpy[0], None if training else as_numpy[1])(np.asarray(IMAGES, np.float64))
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.versions
@pytest.mark.parametrize("training", [True, False])
def test_lm_with_k_zero_is_euler_bit_for_bit(training):
    lm, euler = small(steppers.lm(low=0.0, high=0.0)), small(steppers.euler())
    for model in (lm, euler):
        model.train() if training else model.eval()
    # Stage by stage: in one program, XLA may fuse the two differently, and sum a batch's statistics in another order.
    expected = euler(IMAGES)
    chex.assert_trees_all_equal(lm(IMAGES), expected)
    assert jnp.abs(small(steppers.lm())(IMAGES) - expected).max() > 1e-3


def loss_gradient_statistics(model):
    graph, params, statistics = parts(model)

    def loss(params):
        model = nnx.merge(graph, params, statistics)
        logits = model(IMAGES)
        value = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(6)).mean()
        return value, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    (value, statistics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, gradient, statistics


UNROLLED = [{"unroll": False, "memory": "remat"}]


@functools.cache
def unrolled_and_stored():
    return loss_gradient_statistics(small())


@pytest.mark.parametrize(
    "options",
    few([{"unroll": False}, {"unroll": 2}, {"memory": "remat"}, {"unroll": False, "memory": "remat"}], UNROLLED),
    ids=str,
)
def test_unrolled_equals_scanned_equals_remat(options):
    found = loss_gradient_statistics(small(**options))
    expected = unrolled_and_stored()
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-5)
    gradient, statistics = found[1:]
    assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(gradient))
    assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(statistics))


def test_the_abstraction_costs_nothing():
    """The program of a stage made of steppers is, equation for equation, that of the same stage written by hand."""
    stage = Stage(Options("lm", branch=basic(), shortcut=Projection), 4, 8, 4, stride=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(stage)
    state = nnx.to_pure_dict(state)
    entry, shortcut = nnx.graphdef(stage.entry.branches[0]), nnx.graphdef(stage.entry.shortcuts[0])
    branch = nnx.graphdef(stage.steps.item.branches[0])

    def written_with_steppers(state, u):
        stage = nnx.merge(graph, state)
        u, previous = stage(u)
        return u, previous, nnx.to_pure_dict(nnx.state(stage, nnx.BatchStat))

    def statistics(module):
        return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def written_by_hand(state, u):
        p = nnx.merge(shortcut, state["entry"]["shortcuts"][0])
        v = p(u)
        f = nnx.merge(entry, state["entry"]["branches"][0])
        u, previous = v + f(u), v

        def step(carry, variables):
            u, previous = carry
            f, k = nnx.merge(branch, variables["branches"][0]), variables["coefficients"][0]
            rest, increment = 1 - k, f(u)
            return (rest * u + k * previous + increment, u), {"branches": {0: statistics(f)}}

        (u, previous), stacked = lax.scan(step, (u, previous), state["steps"]["item"], unroll=True)
        first = {"branches": {0: statistics(f)}, "shortcuts": {0: statistics(p)}}
        return u, previous, {"entry": first, "steps": {"item": stacked}}

    u = jnp.ones((2, 8, 8, 4))
    ours, by_hand = (jax.make_jaxpr(f)(state, u) for f in (written_with_steppers, written_by_hand))
    assert str(ours) == str(by_hand)
    assert str(ours).count("conv_general_dilated") >= 5

    def gradient(f):
        return jax.grad(lambda state: f(state, u)[0].sum())

    ours, by_hand = (jax.make_jaxpr(gradient(f))(state) for f in (written_with_steppers, written_by_hand))
    assert str(ours) == str(by_hand)


ONE_OF_A_KIND = ("backward_euler", "lm", "midpoint", "reversible")


@pytest.mark.versions
@pytest.mark.parametrize(
    "name",
    few(steppers.names(), ONE_OF_A_KIND),
)
def test_every_stepper_makes_a_network(name):
    model = small(steppers.get(name), name="resnet14")
    value, gradient, _ = loss_gradient_statistics(model)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    # What no path leads to would have no gradient: every branch and every coefficient takes part. (Weights on
    # memories that are still zero at the start of a stage are the exception.)
    silent = [p for p, x in jax.tree_util.tree_leaves_with_path(gradient) if not jnp.abs(x).max() > 0]
    assert not [p for p in silent if "coefficients" not in jax.tree_util.keystr(p)]


@pytest.mark.parametrize("given", [{"branch": basic()}, {"stepper": "euler"}])
def test_a_block_names_what_its_options_leave_out(given):
    needed = "stepper" if "branch" in given else "branch"
    with pytest.raises(InputError, match=rf"a step needs {needed}: give it in the options, as in Options\({needed}="):
        Block(Options(**given), 4, rngs=nnx.Rngs(0))


def test_repeated_evaluations_update_the_statistics_once():
    block = Block(Options("backward_euler(3)", branch=basic()), 4, rngs=nnx.Rngs(0))
    u = jax.random.normal(jax.random.key(0), (5, 6, 6, 4))
    branch = nnx.clone(block.branches[0])
    v = u
    for _ in range(2):
        v = u + branch(v)
    block(u, ())
    norm = block.branches[0].act1.norm
    np.testing.assert_allclose(norm.mean[...], 0.1 * v.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * v.var((0, 1, 2)), rtol=1e-5)


def test_evaluation_changes_nothing():
    model = small()
    model.eval()
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model)))
    first, second = model(IMAGES), model(IMAGES)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model)), before)
    chex.assert_trees_all_equal(first, second)
    # One image alone gives what it gives in a batch.
    np.testing.assert_allclose(model(IMAGES[:1]), first[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stepper", few([steppers.lm(), steppers.adams_bashforth(3)], [steppers.lm()]), ids=str)
def test_projected_history(stepper):
    model = small(stepper, boundary="step")
    value, gradient, _ = loss_gradient_statistics(model)
    assert jnp.isfinite(value)
    assert all(
        len(gradient["stages"][i]["entry"]["history"]) == len(jax.tree.leaves(stepper.init(jnp.zeros(()))))
        for i in (1, 2)
    )
    # The history crosses the boundary: the second stage's projection of it has a gradient.
    assert jnp.abs(gradient["stages"][1]["entry"]["history"][0]["conv"]["kernel"]).max() > 0
    if stepper.coef:
        assert {k: v.shape for k, v in networks.coefficients(model).items()} == {
            "stage1": (2,), "stage2": (3,), "stage3": (3,),
        }  # fmt: skip


def test_coefficients_by_stage():
    found = networks.coefficients(small())
    assert {k: v.shape for k, v in found.items()} == {"stage1": (2,), "stage2": (2,), "stage3": (2,)}
    assert all(((v >= -0.1) & (v <= 0)).all() for v in found.values())
    found = networks.coefficients(small(steppers.linear_multistep((1, 0, 0), (1, 0, 0), trainable=True)))
    assert {k: v.shape for k, v in found.items() if k.startswith("stage1")} == {"stage1.0": (2, 3), "stage1.1": (2, 3)}
    assert networks.coefficients(small(steppers.euler())) == {}
    assert networks.coefficients(small(steppers.euler(), name="resnet8")) == {}


def test_paired_networks_start_from_the_same_weights():
    lm, euler, projected = small(), small(steppers.euler()), small(boundary="step")
    _, params, _ = parts(euler)

    def same(other, own):
        return all(
            same(other[key], value) if isinstance(value, dict) else (other[key] == value).all()
            for key, value in own.items()
        )

    assert same(parts(lm)[1], params)
    assert same(parts(projected)[1], parts(lm)[1])


def test_initial_weights_are_he_fan_out():
    model = networks.create("resnet20", rngs=nnx.Rngs(3))
    kernel = model.stages[2].steps.item.branches[0].conv1.kernel[...]
    assert kernel.shape == (2, 3, 3, 64, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert jnp.abs(kernel).max() > 4 * kernel.std()  # a normal distribution, not a truncated one


@pytest.mark.versions
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32():
    model = small(dtype=jnp.bfloat16)
    graph, params, statistics = parts(model)
    assert {x.dtype for x in jax.tree.leaves((params, statistics))} == {jnp.dtype("float32")}

    def loss(params):
        model = nnx.merge(graph, params, statistics)
        logits = model(IMAGES)
        return logits.sum(), (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (logits, updated)), gradient = jax.eval_shape(step, params)
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((updated, gradient))} == {jnp.dtype("float32")}
    program = step.lower(params).as_text()
    results = [line.rpartition("->")[2] for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(results) > 30
    assert all("bf16" in line for line in results)


def test_a_deep_copy_is_the_same_program():
    model = small()
    assert nnx.graphdef(copy.deepcopy(model)) == nnx.graphdef(model)


def test_random_numbers_must_be_rngs():
    with pytest.raises(InputError, match=r"rngs must be an nnx\.Rngs, such as nnx\.Rngs\(0\), got 0"):
        networks.create("resnet20", rngs=0)


def test_in_your_own_loop():
    model = small(name="resnet14")
    optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(IMAGES), jnp.arange(6)).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    values = [float(step(model, optimizer)) for _ in range(30)]
    assert values[-1] < 0.3 * values[0]


@pytest.mark.versions
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnt20"}, "unknown network 'resnt20': did you mean 'resnet20'"),
        ({"name": "resnet21"}, "its depth must be 6n \\+ 2"),
        ({"name": "resnet2"}, "its depth must be 6n \\+ 2"),
        ({"name": "resnet20", "classes": 0}, "classes and cin must be at least 1 and width positive"),
        (
            {"name": "resnet20", "width": 0.3, "stepper": steppers.reversible()},
            "splits the channels into 2 equal parts, and 5",
        ),
        ({"name": "resnet8", "stepper": steppers.rk4()}, "rk4 would take no step at all"),
        ({"name": "resnet20", "stepper": 3}, "stepper must be a Stepper, such as steppers.lm\\(\\), got 3"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(InputError, match=message):
        networks.create(options.pop("name"), rngs=nnx.Rngs(0), **options)
