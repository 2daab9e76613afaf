"""Every scheme has the order of accuracy that it claims, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import InputError, odeint, steppers
from tests.steppers.schemes import REVERSIBLE, SCHEMES, START, linear, pendulum, solution

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.versions]
ids = [scheme.id for scheme in SCHEMES]


def observed_order(scheme, field, exact, start=START, t1=1.0, **options):
    errors = [
        np.linalg.norm(
            np.ravel(odeint(scheme.stepper, field, start, t1=t1, steps=n, coef=scheme.coef, **options))
            - np.ravel(exact)
        )
        for n in (scheme.steps, 2 * scheme.steps)
    ]
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
@pytest.mark.parametrize("field", [linear, pendulum])
def test_observed_order_is_the_claimed_one(scheme, field):
    if scheme.coef is None:  # with chosen coefficients a scheme may be of another order than at its defaults
        assert scheme.stepper.order == scheme.order
    assert observed_order(scheme, field, solution(field, 1.0)) == pytest.approx(scheme.order, abs=0.1)


def test_coupled_scheme_integrates_the_pair():
    q, p = solution(lambda u: jnp.stack([u[1], -jnp.sin(u[0])]), 1.0)
    fields = (lambda p: p, lambda q: -jnp.sin(q))
    observed = observed_order(REVERSIBLE, fields, [q, p], start=(jnp.float64(START[0]), jnp.float64(START[1])))
    assert observed == pytest.approx(1, abs=0.1)


def test_leapfrog_from_a_start_at_rest_is_of_order_one():
    scheme = next(s for s in SCHEMES if s.stepper is steppers.leapfrog())
    assert observed_order(scheme, linear, solution(linear, 1.0), start=START) == pytest.approx(2, abs=0.1)
    errors = [
        np.linalg.norm(
            odeint(scheme.stepper, linear, START, t1=1.0, steps=n, **{"start": None}) - solution(linear, 1.0)
        )
        for n in (400, 800)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("degree", [2, 3])
def test_poly_is_a_method_only_for_fields_that_vanish_at_zero(degree):
    def field(u):
        return linear(u) + 1

    errors = [
        np.linalg.norm(odeint(steppers.poly(degree), field, START, t1=1.0, steps=n) - solution(field, 1.0))
        for n in (200, 400)
    ]
    assert errors[1] > 0.3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(0, abs=0.1)


def test_poly_is_the_truncated_neumann_series_of_backward_euler():
    h, matrix = 0.2, np.asarray(linear(jnp.eye(2)))  # row vectors: u -> u @ matrix
    (u, _) = steppers.poly(3).step((lambda u: h * linear(u),) * 3, jnp.asarray(START), (), None)
    series = sum(np.linalg.matrix_power(h * matrix, n) for n in range(4))
    np.testing.assert_allclose(u, START @ series, rtol=1e-14)


def test_fractal_is_consistent_only_with_half_steps():
    full = steppers.fractal(2, half_steps=False)
    assert full.order == 0
    errors = [np.linalg.norm(odeint(full, linear, START, t1=1.0, steps=n) - solution(linear, 1.0)) for n in (200, 400)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(0, abs=0.1)
    # It runs half as fast again: the mean of a path of two steps and a path of one.
    faster = odeint(full, linear, START, t1=1.0, steps=4000)
    np.testing.assert_allclose(faster, solution(linear, 1.5), atol=1e-3)


@pytest.mark.parametrize("k", [-0.5, -0.1, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("h", [0.01, 0.05])
def test_lm_obeys_its_modified_equation(k, h):
    """On u' = -u, u = exp(r t) with r the slow root of (1 + k) r + (1 - k) (h/2) r^2 = -1 (Lu et al. 2018)."""
    r = np.roots([(1 - k) * h / 2, 1 + k, 1.0]).real.max()
    lm, u, previous = steppers.lm(), np.float64(1.0), np.float64(np.exp(-r * h))  # started on the slow solution
    steps = round(1 / h)
    for _ in range(steps):
        u, previous = (np.float64(x) for x in lm.step((lambda u: -h * u,), u, previous, k))
    measured = np.log(u) / (h * steps)
    # The equation is exact to O(h^2). Plain u' = -u / (1 + k) is off by O(h).
    assert measured == pytest.approx(r, rel=3 * h**2 / (1 + k) ** 2)
    if k != 1.0:
        assert abs(measured - r) < abs(measured + 1 / (1 + k)) / 5


def test_named_schemes_are_members_of_their_families():
    def f(u):
        return 0.1 * pendulum(u)

    u, previous = jnp.asarray(START), jnp.asarray(START[::-1].copy())
    by_lm, _ = steppers.lm().step((f,), u, previous, 1.0)
    by_leapfrog, _ = steppers.leapfrog().step((f,), u, previous, None)
    np.testing.assert_allclose(by_lm, by_leapfrog, rtol=1e-15)
    by_lm, _ = steppers.lm().step((f,), u, previous, -0.3)
    by_weights, _ = steppers.linear_multistep((1.3, -0.3), (1,)).step((f,), u, ((previous,), ()), None)
    np.testing.assert_allclose(by_lm, by_weights, rtol=1e-15)
    by_code = (1 + 0.3) * u + (1 - (1 + 0.3)) * previous + f(u)  # the authors' code, with 1 - k for k
    np.testing.assert_allclose(by_lm, by_code, rtol=1e-15)
    g = 0.9  # Momentum ResNet (Sander et al. 2021) is LM with k = -g and (1 - g) f
    v = u - previous
    momentum = u + g * v + (1 - g) * f(u)
    by_lm, _ = steppers.lm().step((lambda u: (1 - g) * f(u),), u, previous, -g)
    np.testing.assert_allclose(by_lm, momentum, rtol=1e-14)


def test_backward_euler_solves_its_equation():
    def f(u):
        return 0.3 * pendulum(u)

    u = jnp.asarray(START)
    v, _ = steppers.backward_euler(100, 1e-14).step((f,), u, (), None)
    np.testing.assert_allclose(v, u + f(v), atol=1e-14)


def test_end_time_may_be_negative_and_traced():
    there = odeint(steppers.rk4(), pendulum, START, t1=1.0, steps=200)
    back = odeint(steppers.rk4(), pendulum, there, t1=jnp.float64(-1.0), steps=200)
    np.testing.assert_allclose(back, START, atol=1e-10)


def test_fewer_steps_than_the_scheme_remembers():
    exact = solution(pendulum, 0.01)
    np.testing.assert_allclose(
        odeint(steppers.adams_bashforth(4), pendulum, START, t1=0.01, steps=1), exact, atol=1e-10
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepper": steppers.euler(), "steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"stepper": steppers.euler(), "steps": 2.5}, r"steps must be a whole number, at least 1, got 2\.5"),
        ({"stepper": steppers.lm(), "steps": 1}, "give coef"),
        ({"stepper": steppers.euler(), "steps": 1, "coef": -0.1}, r"euler has no coefficients, got coef=-0\.1"),
        ({"stepper": "euler", "steps": 1}, "must be a Stepper, such as .*, got 'euler'"),
        ({"stepper": steppers.leapfrog(), "steps": 1, "start": steppers.leapfrog()}, "start must be a one-step scheme"),
        ({"stepper": steppers.reversible(), "steps": 1}, "takes a tuple of 2 fields"),
        ({"stepper": steppers.euler(), "steps": 1, "field": (linear, linear)}, "takes 1 fields"),
    ],
)
def test_odeint_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        odeint(**{"field": linear, "u0": START, "t1": 1.0} | arguments)
