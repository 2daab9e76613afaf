"""What every scheme must do whatever its mathematics: pytrees, dtypes, gradients, one trace, inverses."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from lmjax import InputError, odeint, steppers
from lmjax.steppers import StepInfo
from tests.parameters import few
from tests.steppers.schemes import SCHEMES, START, WRAPPERS, pendulum

ids = [scheme.id for scheme in SCHEMES]
for_any_shape = [scheme for scheme in SCHEMES if scheme.stepper.name != "lm_per_channel"]


def decay(t, u):
    return jax.tree.map(lambda x: -jnp.sin(x), u)


@pytest.mark.parametrize("scheme", for_any_shape, ids=lambda s: s.id)
def test_any_pytree(scheme):
    tree = {"a": jnp.linspace(0.1, 1, 4).reshape(2, 2), "b": (jnp.ones(3), 0.5), "c": jnp.float32(0.2)}
    result = odeint(scheme.stepper, decay, tree, t1=0.5, steps=8, coef=scheme.coef)
    chex.assert_trees_all_equal_structs(result, tree)
    # Leaf by leaf it is the same computation as on one array.
    alone = odeint(scheme.stepper, decay, tree["a"], t1=0.5, steps=8, coef=scheme.coef)
    if scheme.stepper.name != "backward_euler_implicit":  # its stopping rule looks at the whole state
        np.testing.assert_allclose(result["a"], alone, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "dtype", few(["bfloat16", "float16", "float32", "float64", "complex64"], ["bfloat16", "complex64"])
)
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_dtype_is_kept_and_one_trace_is_enough(scheme, dtype):
    """Of the state and of its gradient, near those of twice the precision."""
    coef = None if scheme.coef is None else jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scheme.coef)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=2)  # once in each precision
    def end_and_gradient(u, t1):
        end, back = jax.vjp(lambda u: odeint(scheme.stepper, decay, u, t1=t1, steps=4, coef=coef), u)
        return end, *back(jnp.ones_like(end))

    tolerance = {"bfloat16": 0.05, "float16": 0.01}.get(dtype, 1e-5)
    for t1 in (0.5, 0.25):
        found = end_and_gradient(jnp.asarray(START, dtype), t1)
        expected = end_and_gradient(jnp.asarray(START, "complex128"), t1)
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == dtype
            np.testing.assert_allclose(np.asarray(x, "complex128"), y, atol=tolerance, rtol=tolerance)


def test_sums_are_formed_in_float32_and_rounded_once():
    one, small = jnp.ones((), jnp.bfloat16), jnp.full((), 2.0**-9, jnp.bfloat16)
    # Rounded after every term, 1 + 2^-9 + 2^-9 + ... would stay 1 in bfloat16 forever.
    total = steppers.combine((1, one), *[(1, small)] * 4)
    assert total.dtype == jnp.bfloat16
    assert float(total) == 1.0078125


def test_states_of_a_sum_must_fit():
    for terms, message in (
        (((1, jnp.ones(())), (1, jnp.ones(3))), r"must have one shape, .* got \(\) x \(\), \(\) x \(3,\)"),
        (((1, jnp.ones(3)), (1, jnp.ones(1))), "one shape"),
        (((1, jnp.ones(3)), (jnp.ones(4), jnp.ones(3))), "which coefficients must fit"),
        (((1, jnp.ones(3)), (jnp.ones((2, 3)), jnp.ones(3))), "which coefficients must fit"),
        (((1, jnp.ones(2)), (1, (1.0, 5.0))), r"must have one structure; got PyTreeDef\(\*\), PyTreeDef\(\(\*, \*\)\)"),
        (((1, jnp.ones(3)), (1, 1j * jnp.ones(3))), "complex"),
        (((1, jnp.ones(3)), (1j, jnp.ones(3))), "complex"),
    ):
        with pytest.raises(InputError, match=message):
            steppers.combine(*terms)
    assert steppers.combine((1, 1j * jnp.ones(3)), (1j, jnp.ones(3)))[0] == 2j


def test_a_batch_of_two_is_no_pair():
    with pytest.raises(InputError, match="reversible takes a tuple of 2 states, as tuple"):
        steppers.reversible().step((jnp.sin, jnp.cos), jnp.ones((2, 3)), (), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((steppers.lm(), None), "coef does not fit lm: None"),
        (("lm", -0.1), "the scheme must be a Stepper, such as steppers.lm(), got 'lm'"),
    ],
)
def test_zero_stability_of_nothing(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        steppers.zero_stability(*arguments)


def test_zero_stability_of_a_list():
    np.testing.assert_allclose(steppers.zero_stability(steppers.lm(), [-0.1, -0.5]), [0.9, 0.5], atol=1e-6)


def test_integer_states_are_refused():
    with pytest.raises(InputError, match="floating-point or complex, and one of its leaves is int32"):
        steppers.combine((1, jnp.arange(3)), (1, jnp.arange(3)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_gradients_against_finite_differences(scheme):
    def end(u0, rate, coef):
        return odeint(scheme.stepper, lambda t, u: rate * pendulum(u), u0, t1=0.5, steps=4, coef=coef)

    coef = None if scheme.coef is None else jax.tree.map(jnp.asarray, scheme.coef)
    check_grads(end, (jnp.asarray(START), jnp.float64(1.3), coef), order=1, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_implicit_gradient_is_that_of_the_solution_however_the_iteration_went():
    def end(rate, stepper):
        (u, _) = stepper.step((lambda u: rate * pendulum(u),), jnp.asarray(START), (), None)
        return u.sum()

    rate = 0.5  # Picard converges slowly here, so that a wrong derivative of the iteration would show
    implicit = jax.grad(end)(rate, steppers.backward_euler(60, 1e-13))
    unrolled = jax.grad(end)(rate, steppers.backward_euler(60))
    np.testing.assert_allclose(implicit, unrolled, rtol=1e-10)
    few = jax.grad(end)(rate, steppers.backward_euler(3))
    assert abs(few - unrolled) > 1e-3
    batched = jax.jit(jax.vmap(jax.grad(lambda rate: end(rate, steppers.backward_euler(60, 1e-13)))))
    np.testing.assert_allclose(batched(jnp.array([0.3, rate]))[1], implicit, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_second_derivatives_of_the_implicit_solution():
    def end(rate):
        (u, _) = steppers.backward_euler(60, 1e-13).step((lambda u: rate * pendulum(u),), jnp.asarray(START), (), None)
        return u.sum()

    rate, h = 0.3, 1e-4
    second = (end(rate + h) - 2 * end(rate) + end(rate - h)) / h**2
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(outer(inner(end))(rate), second, rtol=1e-5)


INVERTIBLE = ("leapfrog", "verlet", "momentum(0.8)", "reversible", "hamiltonian")
AROUND = (
    "{}",
    "scaled({}, 1.0, 0.5)",
    "stochastic_depth({}, 0.6, per_sample=True)",
    "shake_shake({})",
    "noise(stochastic_depth(shake_shake({}, per_sample=False), 0.6), 0.1, distribution='uniform')",
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", INVERTIBLE)
def test_inverse_undoes_step(name, around):
    """With the infos of the steps again, whose keys repeat what was random."""
    stepper = steppers.get(around.format(name))
    fs = tuple(lambda u, i=i: 0.3 * jnp.cos(u + i) for i in range(stepper.evaluations))
    u = tuple(jnp.asarray(START) * i for i in (1, 2)) if stepper.parts == 2 else jnp.asarray(START)

    infos = [StepInfo(jax.random.fold_in(jax.random.key(7), n), n, 8) for n in range(8)]
    first = state = (u, stepper.init(u))
    for info in infos:
        state = stepper.step(fs, *state, None, info)
    assert not np.allclose(jax.tree.leaves(state[0])[0], jax.tree.leaves(u)[0])
    for info in reversed(infos):
        state = stepper.inverse(fs, *state, None, info)
    chex.assert_trees_all_close(state, first, atol=1e-12)
    assert {x for x in steppers.names() if steppers.get(x).inverse} == {x.split("(")[0] for x in INVERTIBLE}


def test_verlet_is_exactly_reversible():
    """On numbers whose sums are exact it undoes its steps to the last bit."""

    def f(u):
        return jnp.round(4 * jnp.sin(u)) / 64

    u, verlet = jnp.array([0.5, -1.25, 3.0]), steppers.verlet()
    first = (u, u + 0.125)
    last = lax.scan(lambda s, _: (verlet.step((f,), *s, None), None), first, length=200)[0]
    again = lax.scan(lambda s, _: (verlet.inverse((f,), *s, None), None), last, length=200)[0]
    assert not np.allclose(last[0], u)
    chex.assert_trees_all_equal(again, first)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("steps", "growth"), [(18, 7), (110, 1e5)])
def test_undoing_momentum_multiplies_the_error_of_the_velocity(steps, growth):
    momentum, u, error = steppers.momentum(0.9), jnp.asarray(START), 1e-6

    @jax.jit
    def back(v):
        step = lambda s, _: (momentum.inverse((jnp.ones_like,), *s, None), None)  # noqa: E731
        return lax.scan(step, (u, v), length=steps)[0][1]

    found = (back(jnp.full(2, 0.1 + error)) - back(jnp.full(2, 0.1))) / error
    np.testing.assert_allclose(found, 0.9**-steps, rtol=1e-3)
    np.testing.assert_allclose(found, growth, rtol=0.1)


def test_lm_has_no_inverse():
    # Undoing a step divides by k, about -0.05: in 64 steps the rounding error would grow by 1e65 or more.
    assert steppers.lm().inverse is None
    for wrapper in WRAPPERS:
        assert steppers.get(f"{wrapper}(lm)").inverse is None


def test_each_evaluation_has_its_own_branch():
    def f(u):
        return 2 * u

    def g(u):
        return u + 1

    u = jnp.float32(3.0)
    (value, _) = steppers.poly(2).step((f, g), u, (), None)
    assert value == 3 + 6 + 7  # I + F + GF, PolyNet's mpoly-2
    (value, _) = steppers.way(2).step((f, g), u, (), None)
    assert value == 3 + 6 + 4  # I + F + G, its 2-way
    (value, _) = steppers.heun().step((f, g), u, (), None)
    assert value == 3 + 0.5 * 6 + 0.5 * (3 + 6 + 1)
    (value, _) = steppers.fractal(2).step((f, g, g), u, (), None)
    half = 3 + 0.5 * 4
    assert value == 0.5 * (3 + 6) + 0.5 * (half + 0.5 * (half + 1))


def test_coefficients_start_as_published():
    k = jax.vmap(lambda key: steppers.lm().coef(key, 8))(jax.random.split(jax.random.key(0), 1000))
    assert k.shape == (1000,)
    assert -0.1 <= k.min() < -0.095
    assert -0.005 < k.max() <= 0
    assert steppers.lm(per_channel=True).coef(jax.random.key(0), 8).shape == (8,)
    k = jax.vmap(lambda key: steppers.dense(4).coef(key, 8))(jax.random.split(jax.random.key(0), 1000))
    assert k.shape == (1000, 4)
    assert -0.1 <= k.min() < -0.099
    assert -0.001 < k.max() <= 0
    a, b = steppers.learned_multistep(3).coef(jax.random.key(0), 8)
    np.testing.assert_array_equal(a, [1, 0, 0])  # Euler
    np.testing.assert_array_equal(b, [1, 0, 0])
