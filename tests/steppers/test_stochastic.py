"""The stochastic wrappers: the moments of what they draw, over many keys, and what must not be random."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from lmjax import InputError, steppers
from lmjax.steppers import StepInfo, noise, scaled, shake_shake, stochastic_depth
from tests.steppers.schemes import WRAPPERS

COUNT = 20_000  # keys; a moment may miss its value by five standard errors
KEY = jax.random.key(20)
ZERO = jnp.zeros(())


def one(u):
    """A branch that is always 1, so that the state shows what it is multiplied by."""
    return jax.tree.map(jnp.ones_like, u)


def nothing(u):
    return jax.tree.map(jnp.zeros_like, u)


def over_keys(stepper, fs, u=ZERO, history=(), coef=None, *, index=4, count=5):
    """The state after one step (by default the last of five), for each of many keys."""

    @jax.vmap  # without jit: what draws the numbers is compiled once for all tests
    def step(key):
        return stepper.step(fs, u, history, coef, StepInfo(key, index, count))[0]

    return jax.tree.map(np.asarray, step(jax.random.split(KEY, COUNT)))


def evaluated(stepper, fs, u=ZERO, history=(), coef=None, *, index=4, count=5):
    return stepper.step(fs, u, history, coef, StepInfo(None, index, count))[0]


def has_mean(x, value):
    x = np.asarray(x, np.float64)
    return (np.abs(x.mean(0) - value) <= 5 * x.std(0) / np.sqrt(len(x)) + 1e-6).all()


def has_variance(x, value):
    x = np.asarray(x, np.float64)
    return has_mean((x - x.mean(0)) ** 2, value)


def is_uniform(x):
    return (
        (x >= 0).all()
        and (x <= 1).all()
        and has_mean(x, 1 / 2)
        and has_variance(x, 1 / 12)
        and kstest(x, "uniform").pvalue > 1e-5
    )


def are_independent(x, y):
    """Uncorrelated, as far as so many of them tell."""
    return abs(np.corrcoef(x, y)[0, 1]) < 5 / np.sqrt(len(x))


# Stochastic depth


@pytest.mark.versions
@pytest.mark.parametrize("survival", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("rescale", ["training", "evaluation"])
def test_gates_are_bernoulli(survival, rescale):
    """Divided by the survival in training, they keep the expectation."""
    gates = over_keys(stochastic_depth(steppers.euler(), survival, rescale=rescale), (one,))
    size = 1 / survival if rescale == "training" else 1
    assert (np.isclose(gates, 0) | np.isclose(gates, size, rtol=1e-6)).all()
    assert has_mean(gates / size, survival)


@pytest.mark.parametrize(
    ("name", "whole"), [("rk4", 1.0), ("fractal(3)", 1.0), ("way(3)", 3.0), ("poly(3)", 3.0), ("reversible", 1.0)]
)
def test_one_gate_a_step_for_all_branches_and_both_halves(name, whole):
    stepper = stochastic_depth(steppers.get(name), 0.5, rescale="evaluation")
    u = (ZERO, ZERO) if stepper.parts == 2 else ZERO
    for increments in jax.tree.leaves(over_keys(stepper, (one,) * stepper.evaluations, u)):
        assert (np.isclose(increments, 0) | np.isclose(increments, whole, rtol=1e-6)).all()
        assert has_mean(increments / whole, 0.5)
        if stepper.parts == 2:
            np.testing.assert_array_equal(increments, over_keys(stepper, (one, one), u)[0])


RULES = {
    "first_kept": lambda n, steps: 1 - n / (steps - 1) * (1 - 0.4),
    "first_dropped": lambda n, steps: 1 - (n + 1) / steps * (1 - 0.4),
}


@pytest.mark.parametrize("rule", RULES)
def test_survival_falls_linearly_with_depth(rule):
    steps = 5
    expected = np.array([RULES[rule](n, steps) for n in range(steps)])
    assert expected[-1] == pytest.approx(0.4)
    assert (expected[0] == 1) == (rule == "first_kept")
    raw, divided = (
        stochastic_depth(steppers.euler(), 0.4, rescale=how, rule=rule) for how in ("evaluation", "training")
    )
    np.testing.assert_allclose(
        [evaluated(raw, (one,), index=n, count=steps) for n in range(steps)], expected, rtol=1e-6
    )
    np.testing.assert_array_equal([evaluated(divided, (one,), index=n, count=steps) for n in range(steps)], 1)

    def all_steps(stepper):  # with the number of the step traced, as in a scan
        def step(n, key):
            return stepper.step((one,), ZERO, (), None, StepInfo(key, n, steps))[0]

        keys = jax.random.split(KEY, (COUNT, steps))
        return jax.vmap(jax.vmap(step), in_axes=(None, 0))(jnp.arange(steps), keys)

    assert has_mean(all_steps(raw), expected)
    assert has_mean(all_steps(divided), 1)


@pytest.mark.versions
def test_lm_drops_the_branch_and_keeps_both_skips():
    u, previous, k = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), -0.3
    lm = stochastic_depth(steppers.lm(), 0.5)
    after = over_keys(lm, (jnp.cos,), u, previous, k)
    skips = (1 - k) * u + k * previous
    dropped = np.isclose(after, skips, atol=1e-6).all(1)
    kept = np.isclose(after, skips + jnp.cos(u) / 0.5, atol=1e-6).all(1)
    assert (dropped ^ kept).all()
    assert has_mean(kept, 0.5)
    history = lm.step((jnp.cos,), u, previous, k, StepInfo(KEY, 4, 5))[1]
    np.testing.assert_array_equal(history, u)  # as without


@pytest.mark.parametrize("name", ["stochastic_depth(euler, 0.5, {})", "shake_shake(euler, {})"])
def test_per_sample_and_per_batch(name):
    """A number a sample for its pixels, channels and leaves; or one for all."""
    batch = {"a": jnp.zeros((COUNT, 2, 3)), "b": jnp.zeros(COUNT)}

    def drawn(per_sample):
        stepper = steppers.get(name.format(f"per_sample={per_sample}"))
        fs = (one, nothing)[: stepper.evaluations]
        state, _ = stepper.step(fs, batch, (), None, StepInfo(KEY, 4, 5))
        assert (state["a"] == state["a"][:, :1, :1]).all()
        np.testing.assert_array_equal(state["a"][:, 0, 0], state["b"])
        return np.asarray(state["b"])

    samples = drawn(True)
    if name.startswith("shake"):
        assert is_uniform(samples)
    else:
        assert has_mean(samples > 0, 0.5)
    for lag in (1, 2, 1000):
        assert are_independent(samples[lag:], samples[:-lag])
    assert len(np.unique(drawn(False))) == 1


# Shake-shake


@pytest.mark.versions
@pytest.mark.parametrize("forward", ["shake", "even"])
@pytest.mark.parametrize("backward", ["shake", "keep", "even"])
def test_shake_shake_draws_uniform_numbers_in_either_pass_or_keeps_or_evens_them_out(forward, backward):
    stepper = shake_shake(steppers.euler(), per_sample=False, forward=forward, backward=backward)

    @jax.vmap
    def both(key):
        def step(x1, x2):
            return stepper.step((lambda u: x1, lambda u: x2), ZERO, (), None, StepInfo(key, 0, 1))[0]

        eta, back = jax.vjp(step, jnp.ones(()), jnp.zeros(()))
        return eta, *back(jnp.ones(()))

    eta, slope, other = map(np.asarray, both(jax.random.split(KEY, COUNT)))
    np.testing.assert_allclose(slope + other, 1, rtol=1e-6)
    assert is_uniform(eta) if forward == "shake" else (eta == 0.5).all()
    if backward == "shake":
        assert is_uniform(slope)
        assert forward == "even" or are_independent(eta, slope)
    else:
        np.testing.assert_allclose(slope, eta if backward == "keep" else 0.5, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"forward": "even"}, {"backward": "keep"}], ids=str)
def test_shake_shake_is_the_mean_in_evaluation(options):
    stepper, u = shake_shake(steppers.heun(), **options), jnp.array([0.3, 2.0])
    fs = (jnp.sin, jnp.cos, jnp.tanh, jnp.exp)

    def step(u):
        return evaluated(stepper, fs, u)

    def heun(u):
        pairs = (lambda u: (jnp.sin(u) + jnp.cos(u)) / 2, lambda u: (jnp.tanh(u) + jnp.exp(u)) / 2)
        return steppers.heun().step(pairs, u, (), None)[0]

    np.testing.assert_allclose(step(u), heun(u), rtol=1e-6)
    np.testing.assert_allclose(*(jax.grad(lambda u: f(u).sum())(u) for f in (step, heun)), rtol=1e-6)  # noqa: B023


def test_every_pair_of_branches_is_shaken_by_itself():
    shaken = shake_shake(steppers.way(2), per_sample=False)
    sums = over_keys(shaken, (one, nothing, one, nothing))
    assert has_mean(sums, 1)
    assert has_variance(sums, 2 / 12)  # 4/12 if they shared their eta
    with pytest.raises(InputError, match=r"shake_shake\(way2\) takes a tuple of 4 branches, .* got 2 of them"):
        evaluated(shaken, (one, one))


# Noise


@pytest.mark.versions
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_moments_of_noise(distribution):
    sigma, u = 0.2, {"a": jnp.array([1.0, -3.0]), "b": ZERO}
    stepper = noise(steppers.euler(), sigma, distribution=distribution)
    after = over_keys(stepper, (nothing,), u)
    mean, variance = (0, sigma**2) if distribution == "normal" else (sigma / 2, sigma**2 / 12)
    added = np.concatenate([after["a"] - u["a"], after["b"][:, None]], 1)
    assert added.shape == (COUNT, 3)
    assert has_mean(added, mean)
    assert has_variance(added, variance)
    assert kstest(added[:, 2] / sigma, {"normal": "norm"}.get(distribution, distribution)).pvalue > 1e-5
    for i, j in ((0, 1), (0, 2), (1, 2)):  # a number of its own for each number of the state
        assert are_independent(added[:, i], added[:, j])
    chex.assert_trees_all_equal(evaluated(stepper, (nothing,), u), u)


def test_noise_comes_after_the_step_and_not_into_the_history():
    lm, u, previous = noise(steppers.lm(), 0.1), jnp.ones(1000), jnp.zeros(1000)
    after, history = lm.step((jnp.sin,), u, previous, -0.3, StepInfo(KEY, 0, 1))
    assert has_mean(after, 1.3 + np.sin(1))
    assert has_variance(after, 0.01)
    np.testing.assert_array_equal(history, u)
    silent = noise(steppers.euler(), 0.0)
    np.testing.assert_array_equal(silent.step((nothing,), u, (), None, StepInfo(KEY, 0, 1))[0], u)


# Scaled


@pytest.mark.versions
@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_scale_falls_linearly_with_depth(key):
    for stepper, scales in (
        (scaled(steppers.euler()), [1, 0.9, 0.8, 0.7]),
        (scaled(steppers.euler(), 0.5, 2.0), [0.5, 1, 1.5, 2]),
        (scaled(steppers.rk4(), last=0.1), [1, 0.7, 0.4, 0.1]),
    ):
        found = [stepper.step((one,) * stepper.evaluations, ZERO, (), None, StepInfo(key, n, 4))[0] for n in range(4)]
        np.testing.assert_allclose(found, scales, rtol=1e-6)
    only = scaled(steppers.euler(), 0.5, 2.0)
    assert only.step((one,), ZERO, (), None, StepInfo(key, 0, 1))[0] == 0.5


# Paths that are dropped


def kept_paths(name, *, index):
    """Which of three paths were kept, as 0 or 1, for each of many keys; and how often one should be."""
    stepper = steppers.get(f"{name}(3, drop=0.4)")
    assert stepper.informed
    assert stepper.random
    if name == "poly":  # 2 u, 4 u and 8 u
        u, fs = jnp.ones(()), (lambda u: 2 * u,) * 3
    else:
        u, fs = ZERO, tuple(lambda u, c=c: c * one(u) for c in (2, 4, 8))
    sums = over_keys(stepper, fs, u, index=index) - float(u)
    kept = 1 - 0.4 * index / 4
    code = np.rint(sums * kept / 2).astype(int)
    np.testing.assert_allclose(2 * code / kept, sums, rtol=1e-5, atol=1e-5)
    assert has_mean(sums, 14)
    assert float(evaluated(stepper, fs, u, index=index) - u) == 14
    return (code[:, None] >> np.arange(3)) & 1, kept


@pytest.mark.versions
@pytest.mark.parametrize("name", ["poly", "way"])
def test_paths_are_dropped_independently_and_more_often_deeper(name):
    for index, rate in ((0, 0.0), (1, 0.1), (4, 0.4)):
        bits, kept = kept_paths(name, index=index)
        assert kept == pytest.approx(1 - rate)
        assert has_mean(bits, kept)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert are_independent(bits[:, i], bits[:, j])
    whole = steppers.get(f"{name}(3)")
    assert not whole.informed
    assert not whole.random


# All of them

CALLS = (
    "scaled({})",
    "stochastic_depth({}, 0.6)",
    "stochastic_depth({}, 0.6, rescale='evaluation', rule='first_dropped')",
    "stochastic_depth({}, 0.6, per_sample=True)",
    "shake_shake({})",
    "shake_shake({}, per_sample=False, backward='even')",
    "noise({}, 0.1)",
    "noise({}, 0.1, distribution='uniform')",
    "noise(stochastic_depth(scaled({}), 0.6), 0.1)",
)
DROPPING = ("poly(2, drop=0.5)", "way(2, drop=0.5)")
ALL = [*(call.format("lm") for call in CALLS), "stochastic_depth(reversible, 0.6)", *DROPPING]


def prepared(name, dtype=jnp.float32):
    """A stepper with branches, a state, a history and coefficients to take a step with."""
    stepper = steppers.get(name)
    u = jnp.asarray([[0.3, -1.0], [0.7, 1.9]], dtype)
    u = (u, 2 * u) if stepper.parts == 2 else u
    fs = tuple(lambda u, i=i: jnp.sin(u + i) for i in range(stepper.evaluations))
    return stepper, fs, u, stepper.init(u), -0.3 if stepper.coef else None


@pytest.mark.parametrize(
    ("name", "branches", "mean", "variance"),
    [  # and what they were if both drew the same
        ("noise(noise(euler, 0.1), 0.1)", (nothing,), 0, 2 * 0.1**2),  # 4 * 0.1**2
        ("stochastic_depth(stochastic_depth(euler, 0.5), 0.4)", (one,), 1, 1 / 0.2 - 1),  # a mean of 2
        ("stochastic_depth(way(1, drop=0.5), 0.5)", (one,), 1, 1 / 0.25 - 1),  # a mean of 2
        ("shake_shake(way(2), per_sample=False)", (one, nothing, one, nothing), 1, 2 / 12),  # 4 / 12
        ("stochastic_depth(shake_shake(euler, per_sample=False), 0.5)", (one, nothing), 1 / 2, 2 / 3 - 1 / 4),
        ("shake_shake(stochastic_depth(euler, 0.5), per_sample=False)", (one, nothing), 1 / 2, 2 / 3 - 1 / 4),
    ],
)
def test_what_is_nested_draws_independently(name, branches, mean, variance):
    drawn = over_keys(steppers.get(name), branches)
    assert has_mean(drawn, mean)
    assert has_variance(drawn, variance)


@pytest.mark.parametrize("call", CALLS)
def test_the_first_step_of_a_stage_is_euler_wrapped_alike(call):
    """Around a scheme with history: what is done in its steps is done in the first one of a stage, too."""
    lm, euler = steppers.get(call.format("lm")), steppers.get(call.format("euler"))
    starter, others = steppers.over_stage(lm, 4)
    assert others is lm
    assert starter is steppers.over_stage(lm, 9)[0]  # so that nothing is compiled twice
    for field in ("name", "evaluations", "repeats", "reads", "parts", "informed", "random"):
        assert getattr(starter, field) == getattr(euler, field)
    assert vars(starter.known) == vars(euler.known)
    _, fs, u, _, _ = prepared(call.format("euler"))
    for info in (StepInfo(KEY, 1, 3), StepInfo(None, 1, 3)):
        found, expected = (s.step(fs, u, (), None, info)[0] for s in (starter, euler))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["lm", "rk4", "reversible", "momentum"])
def test_a_wrapper_keeps_what_it_does_not_change(wrapper, name):
    inner, wrapped = steppers.get(name), steppers.get(f"{wrapper}({name})")
    for field in ("init", "coef", "repeats", "parts"):
        assert getattr(wrapped, field) is getattr(inner, field)
    assert vars(wrapped.known) | {"nodes": None} == vars(inner.known) | {"nodes": None}
    assert (wrapped.inverse is None) == (inner.inverse is None)
    assert wrapped.evaluations == inner.evaluations * (2 if wrapper == "shake_shake" else 1)
    assert wrapped.name == f"{wrapper}({inner.name})"
    assert wrapped.informed
    assert wrapped.random == steppers.get(f"scaled({wrapper}({name}))").random == (wrapper != "scaled")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_scheme_over_a_stage(wrapper):
    whole = steppers.get(f"{wrapper}(dense)")
    (starter, over), expected = steppers.over_stage(whole, 4), steppers.get(f"{wrapper}(dense(4))")
    assert over.name == expected.name
    assert vars(over.known) == vars(expected.known)
    assert starter.name == f"{wrapper}(euler)"
    _, fs, u, _, _ = prepared(f"{wrapper}(euler)")
    k = jnp.array([-0.1, -0.02, -0.05, -0.03])
    for info in (StepInfo(KEY, 1, 3), StepInfo(None, 1, 3)):
        found, wanted = (s.step(fs, u, s.init(u), k, info)[0] for s in (over, expected))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_half_precision_and_the_same_key_repeats(name):
    stepper, fs, u, history, coef = prepared(name, jnp.bfloat16)
    _, _, wide, *rest = prepared(name)
    coef = coef and jnp.float32(coef)
    for info in (StepInfo(KEY, 4, 5), StepInfo(None, 4, 5)):
        after = stepper.step(fs, u, history, coef, info)
        assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}
        expected = stepper.step(fs, wide, *rest, info)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x: x.astype(jnp.float32), after), expected, rtol=0.02, atol=0.03
        )
        chex.assert_trees_all_equal(stepper.step(fs, u, history, coef, info), after)
    many = jax.tree.leaves(over_keys(stepper, fs, u, history, coef))[0]
    assert (np.asarray(many, np.float32).std(0).max() > 0) == stepper.random


@pytest.mark.parametrize("name", ALL)
def test_the_expectation_of_training_is_evaluation(name):
    """Of the state, and of its gradients through the state, the history and the branches."""
    stepper, fs, u, history, coef = prepared(name)

    def end(rate, u, history, info):
        fs = tuple(lambda u, i=i: rate * jnp.sin(u + i) for i in range(stepper.evaluations))
        return sum(x.sum() for x in jax.tree.leaves(stepper.step(fs, u, history, coef, info)[0]))

    gradient = jax.grad(end, argnums=(0, 1, 2))
    found = jax.vmap(lambda key: gradient(0.7, u, history, StepInfo(key, 4, 5)))(jax.random.split(KEY, COUNT))
    expected = gradient(0.7, u, history, StepInfo(None, 4, 5))
    assert all((np.asarray(x) != 0).any() for x in jax.tree.leaves(found))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    if "uniform" not in name:
        ends = jax.tree.leaves(over_keys(stepper, fs, u, history, coef))  # the second half is no linear function
        assert has_mean(ends[0], jax.tree.leaves(evaluated(stepper, fs, u, history, coef))[0])
    if stepper.parts == 1 and not name.startswith("poly"):  # where a step is linear in what is drawn
        for of, mean in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert has_mean(of, mean)


def test_by_default_gates_are_for_the_batch_and_etas_for_the_sample():
    batch = jnp.zeros((100, 2))
    for stepper, count in ((stochastic_depth(steppers.euler()), 1), (shake_shake(steppers.euler()), 100)):
        drawn, _ = stepper.step((one, nothing)[: stepper.evaluations], batch, (), None, StepInfo(KEY, 4, 5))
        assert len(np.unique(drawn)) == count


@pytest.mark.versions
@pytest.mark.parametrize("name", ALL)
def test_a_step_must_know_which_one_it_is(name):
    stepper, fs, u, history, coef = prepared(name)
    message = f"{stepper.name} depends on the step: give info=StepInfo(key, index, count)"
    with pytest.raises(InputError, match=re.escape(message)):
        stepper.step(fs, u, history, coef)
    if stepper.inverse is not None:
        with pytest.raises(InputError, match=re.escape(message)):
            stepper.inverse(fs, u, history, coef)


def test_info_of_a_step():
    info = StepInfo(KEY, 2, 5)
    assert (info.depth, StepInfo(KEY, 0, 1).depth) == (0.5, 0)
    own, rest = info.split()
    assert (rest.index, rest.count) == (2, 5)
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in (KEY, own, rest.key)}) == 3
    assert StepInfo(None, 2, 5).split() == (None, StepInfo(None, 2, 5))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("index", [2, jnp.int32(2)], ids=["first of a stage", "in a loop"])
def test_stochastic_depth_divides_in_the_precision_of_the_state(index):
    kept = over_keys(steppers.stochastic_depth(steppers.euler(), 0.7), (one,), jnp.zeros(()), index=index, count=4)
    assert kept.dtype == jnp.float64
    np.testing.assert_allclose(kept.max(), 1 / (1 - 2 / 3 * (1 - 0.7)), rtol=1e-12)
