"""What every scheme must do whatever its mathematics: pytrees, dtypes, gradients, one trace, inverses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lmjax import odeint, steppers
from tests.steppers.schemes import SCHEMES, START, pendulum

ids = [scheme.id for scheme in SCHEMES]
flat = [scheme for scheme in SCHEMES if np.ndim(jax.tree.leaves(scheme.coef)[0] if scheme.coef is not None else 0) == 0]


def decay(u):
    return jax.tree.map(lambda x: -jnp.sin(x), u)


@pytest.mark.parametrize("scheme", [*flat, SCHEMES[11]], ids=lambda s: s.id)
def test_any_pytree(scheme):
    tree = {"a": jnp.linspace(0.1, 1, 4).reshape(2, 2), "b": (jnp.ones(3), 0.5), "c": jnp.float32(0.2)}
    result = odeint(scheme.stepper, decay, tree, t1=0.5, steps=8, coef=scheme.coef)
    chex.assert_trees_all_equal_structs(result, tree)
    # Leaf by leaf it is the same computation as on one array.
    alone = odeint(scheme.stepper, decay, tree["a"], t1=0.5, steps=8, coef=scheme.coef)
    if scheme.stepper.name != "backward_euler_implicit":  # its stopping rule looks at the whole state
        np.testing.assert_allclose(result["a"], alone, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_dtype_is_kept(scheme, dtype):
    u = jnp.asarray(START, dtype)
    coef = None if scheme.coef is None else jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scheme.coef)
    result = odeint(scheme.stepper, decay, u, t1=0.5, steps=4, coef=coef)
    assert result.dtype == u.dtype
    exact = odeint(scheme.stepper, decay, u.astype("complex128"), t1=0.5, steps=4, coef=scheme.coef)
    tolerance = {"bfloat16": 0.05, "float16": 0.01}.get(dtype, 1e-5)
    np.testing.assert_allclose(np.asarray(result, "complex128"), exact, atol=tolerance)


def test_sums_are_formed_in_float32_and_rounded_once():
    one, small = jnp.ones((), jnp.bfloat16), jnp.full((), 2.0**-9, jnp.bfloat16)
    # Rounded after every term, 1 + 2^-9 + 2^-9 + ... would stay 1 in bfloat16 forever.
    total = steppers.combine((1, one), *[(1, small)] * 4)
    assert total.dtype == jnp.bfloat16
    assert float(total) == 1.0078125


def test_states_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape, .* got states of \(\), \(3,\)"):
        steppers.combine((1, jnp.ones(())), (1, jnp.ones(3)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_gradients_in_half_precision(scheme, dtype):
    coef = None if scheme.coef is None else jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scheme.coef)

    def end(u):
        return odeint(scheme.stepper, decay, u, t1=0.5, steps=4, coef=coef).astype(jnp.float32).sum()

    half = jax.grad(end)(jnp.asarray(START, dtype))
    assert half.dtype == dtype
    single = jax.grad(end)(jnp.asarray(START, jnp.float32))
    np.testing.assert_allclose(np.asarray(half, np.float32), single, rtol=0.05)


def test_integer_states_are_refused():
    with pytest.raises(TypeError, match="floating-point or complex, and one of its leaves is int32"):
        odeint(steppers.euler(), decay, jnp.arange(3), t1=1.0, steps=1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_gradients_against_finite_differences(scheme):
    def end(u0, rate, coef):
        return odeint(scheme.stepper, lambda u: rate * pendulum(u), u0, t1=0.5, steps=4, coef=coef)

    coef = None if scheme.coef is None else jax.tree.map(jnp.asarray, scheme.coef)
    check_grads(end, (jnp.asarray(START), jnp.float64(1.3), coef), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_implicit_gradient_is_that_of_the_solution_however_the_iteration_went():
    def end(rate, stepper):
        (u, _) = stepper.step((lambda u: rate * pendulum(u),), jnp.asarray(START), (), None)
        return u.sum()

    rate = 0.5  # Picard converges slowly here, so that a wrong derivative of the iteration would show
    implicit = jax.grad(end)(rate, steppers.backward_euler(200, 1e-13))
    unrolled = jax.grad(end)(rate, steppers.backward_euler(200))
    np.testing.assert_allclose(implicit, unrolled, rtol=1e-10)
    few = jax.grad(end)(rate, steppers.backward_euler(3))
    assert abs(few - unrolled) > 1e-3


@pytest.mark.usefixtures("x64")
def test_implicit_gradient_inside_compiled_loops_and_under_vmap():
    stepper = steppers.backward_euler(60, 1e-12)

    def end(rate):
        return odeint(stepper, lambda u: rate * pendulum(u), jnp.asarray(START), t1=1.0, steps=5).sum()

    rates = jnp.array([0.5, 1.0])
    batched = jax.jit(jax.vmap(jax.grad(end)))(rates)
    np.testing.assert_allclose(batched, [jax.grad(end)(r) for r in rates], rtol=1e-8)


@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_one_trace_for_many_calls(scheme):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def end(u, t1):
        return odeint(scheme.stepper, pendulum, u, t1=t1, steps=3, coef=scheme.coef)

    values = [end(jnp.asarray(START, jnp.float32) * i, 0.1 * i) for i in range(3)]
    assert not np.allclose(values[1], values[2])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("stepper", [steppers.leapfrog(), steppers.reversible()], ids=lambda s: s.name)
def test_inverse_undoes_step(stepper):
    def f(u):
        return 0.3 * jnp.cos(u)

    u = tuple(jnp.asarray(START) * i for i in (1, 2)) if stepper.parts == 2 else jnp.asarray(START)
    fs = (f,) * stepper.stages
    first = state = (u, stepper.init(u))
    for _ in range(30):
        state = stepper.step(fs, *state, None)
    assert not np.allclose(jax.tree.leaves(state[0])[0], jax.tree.leaves(u)[0])
    for _ in range(30):
        state = stepper.inverse(fs, *state, None)
    chex.assert_trees_all_close(state, first, atol=1e-13)


def test_lm_has_no_inverse():
    # Undoing a step divides by k, about -0.05: in 64 steps the rounding error would grow by 1e65 or more.
    assert steppers.lm().inverse is None


def test_each_evaluation_has_its_own_branch():
    def f(u):
        return 2 * u

    def g(u):
        return u + 1

    u = jnp.float32(3.0)
    (value, _) = steppers.poly(2).step((f, g), u, (), None)
    assert value == 3 + 6 + 7  # I + F + GF, PolyNet's mpoly-2
    (value, _) = steppers.heun().step((f, g), u, (), None)
    assert value == 3 + 0.5 * 6 + 0.5 * (3 + 6 + 1)
    (value, _) = steppers.fractal(2).step((f, g, g), u, (), None)
    half = 3 + 0.5 * 4
    assert value == 0.5 * (3 + 6) + 0.5 * (half + 0.5 * (half + 1))


def test_fractal_counts_its_branches():
    calls = []

    def branch(i):
        return lambda u: calls.append(i) or u

    stepper = steppers.fractal(4)
    stepper.step(tuple(map(branch, range(stepper.stages))), jnp.ones(()), (), None)
    assert calls == list(range(15))


def test_coefficients_start_as_published():
    k = jax.vmap(lambda key: steppers.lm().coef(key, 8))(jax.random.split(jax.random.key(0), 1000))
    assert k.shape == (1000,)
    assert -0.1 <= k.min() < -0.095
    assert -0.005 < k.max() <= 0
    assert steppers.lm(per_channel=True).coef(jax.random.key(0), 8).shape == (8,)
