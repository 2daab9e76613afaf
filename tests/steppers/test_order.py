"""Every scheme has the order of accuracy that it claims, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax import InputError, odeint, steppers
from lmjax.steppers import Properties
from tests.steppers.schemes import SCHEMES, START, autonomous, linear, pendulum, solution

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.versions]
ids = [scheme.id for scheme in SCHEMES]


def observed_order(stepper, field, exact, steps, *, u0=START, **options):
    """Of each field, one number: the slope of the error between so many steps and twice as many."""
    errors = []
    for n in (steps, 2 * steps):
        found = odeint(stepper, field, u0, t1=1.0, steps=n, **options)
        errors.append(
            [np.linalg.norm(x - y) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)]
        )
    return np.log2(np.divide(*errors))


@pytest.mark.parametrize("scheme", SCHEMES, ids=ids)
def test_observed_order_is_the_claimed_one(scheme):
    if scheme.coef is None:  # with chosen coefficients a scheme may be of another order than at its defaults
        assert scheme.stepper.known.order == scheme.order

    def all_three(t, u):
        return linear(u[0]), pendulum(u[1]), jnp.cos(t) * linear(u[2])

    exact = solution(linear, 1.0), solution(pendulum, 1.0), solution(linear, np.sin(1.0))
    found = observed_order(scheme.stepper, all_three, exact, scheme.steps, u0=(START,) * 3, coef=scheme.coef)
    np.testing.assert_allclose(found, scheme.order, atol=0.1)


def undamped(u):
    """q' = p, p' = -sin q, which conserves p^2 / 2 - cos q."""
    return jnp.stack([u[1], -jnp.sin(u[0])])


@pytest.mark.parametrize(("stepper", "sign"), [(steppers.reversible(), 1), (steppers.hamiltonian(), -1)], ids=str)
def test_coupled_scheme_integrates_the_pair(stepper, sign):
    """x' = cos(3t) F(y), y' = cos(3t) G(x): that of F and G at the time sin(3t) / 3."""
    # `hamiltonian` subtracts the second one.
    fields = (lambda t, p: jnp.cos(3 * t) * p, lambda t, q: -sign * jnp.cos(3 * t) * jnp.sin(q))
    start = tuple(map(jnp.float64, START))
    observed = observed_order(stepper, fields, tuple(solution(undamped, np.sin(3) / 3)), 400, u0=start)
    np.testing.assert_allclose(observed, 1, atol=0.1)


@pytest.mark.parametrize(
    ("call", "field", "order", "options"),
    [
        ("leapfrog", linear, 1, {"start": None}),  # from a start at rest
        # poly is a method only for fields that vanish at zero.
        ("poly(2)", lambda u: linear(u) + 1, 0, {}),
        ("poly(3)", lambda u: linear(u) + 1, 0, {}),
    ],
)
def test_lower_order_where_it_is_said(call, field, order, options):
    found = observed_order(steppers.get(call), autonomous(field), solution(field, 1.0), 400, **options)
    np.testing.assert_allclose(found, order, atol=0.1)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_fractal_of_whole_steps(columns):
    """It is a mean of paths of 1, 2, ... steps, of order 1 in a field of time, too."""
    full = steppers.fractal(columns, half_steps=False)
    exact = solution(linear, 1.0)
    errors = [np.abs(odeint(full, autonomous(linear), START, t1=1.0, steps=n) - exact).max() for n in (200, 400)]
    assert errors[1] < 0.01
    np.testing.assert_allclose(errors[0] / errors[1], 2, atol=0.05)
    mean = odeint(full, lambda t, u: 2 * t, jnp.zeros(()), t1=1.0, steps=400)
    np.testing.assert_allclose(mean, 1, atol=0.01)


def test_hamiltonian_keeps_the_energy_bounded_and_euler_does_not():
    def energy(q, p):
        return p**2 / 2 - jnp.cos(q)

    def changes(stepper, fs, u, of):
        def step(u, _):
            u, _ = stepper.step(fs, u, (), None)
            return u, of(u)

        return np.abs(lax.scan(step, u, length=10_000)[1] - of(u))

    h = 0.1
    pair = tuple(map(jnp.float64, START))
    fs = (lambda p: h * p, lambda q: h * jnp.sin(q))
    bounded = changes(steppers.hamiltonian(), fs, pair, lambda u: energy(*u))
    assert bounded.max() < h / 2
    assert bounded[-1000:].max() == pytest.approx(bounded[:1000].max(), rel=0.02)  # it swings, and does not drift
    grown = changes(steppers.euler(), (lambda u: h * undamped(u),), jnp.asarray(START), lambda u: energy(*u))
    assert grown[999] > 1
    assert grown[-1] > 100 * bounded.max()


def test_verlet_is_no_method_for_equations_of_first_order():
    assert steppers.verlet().known.damping(None) == 0
    with pytest.raises(InputError, match="verlet integrates u'' = F"):
        odeint(steppers.verlet(), autonomous(linear), START, t1=1.0, steps=10)


def test_odeint_tells_a_scheme_which_step_it_is():
    """Scaled by s falling from 1 to 0, the steps add up to half the time."""
    scheme = steppers.scaled(steppers.euler(), 1.0, 0.0)
    half = odeint(scheme, lambda t, u: jnp.ones_like(u), jnp.zeros(()), t1=1.0, steps=11)
    assert half == pytest.approx(0.5, rel=1e-12)
    seen = []

    def step(fs, u, history, coef, info):
        seen.append(info)
        return fs[0](u) + u, history

    probe = steppers.Stepper("probe", step, informed=True, known=Properties(steps_back=1))
    odeint(probe, autonomous(linear), START, t1=1.0, steps=7)
    assert [info.key for info in seen] == [None, None]  # the start, then the steps after it, traced once
    assert [info.count for info in seen] == [7, 7]
    assert seen[0].index == 0
    known = Properties(steps_back=2)
    numbering = steppers.Stepper("numbering", lambda fs, u, m, c, info: (u + info.index, m), informed=True, known=known)
    assert odeint(numbering, autonomous(jnp.zeros_like), jnp.zeros(()), t1=1.0, steps=7) == 2 + 3 + 4 + 5 + 6


@pytest.mark.parametrize(
    ("wrapped", "call"),
    [
        *((f"{wrapper}({call})", call) for wrapper in ("stochastic_depth", "noise") for call in ("lm", "rk4")),
        ("noise(adams_bashforth(3))", "adams_bashforth(3)"),
        ("shake_shake(euler)", "euler"),
        ("poly(2, drop=0.5)", "poly(2)"),
        ("way(2, drop=0.5)", "way(2)"),
    ],
)
def test_odeint_is_deterministic_with_stochastic_schemes(wrapped, call):
    field = autonomous(pendulum)
    found, expected = (
        odeint(name, (field,) * 2 if name.startswith(("shake", "way", "poly")) else field, START, t1=1.0, steps=9,
               coef=-0.3 if "lm" in name else None)
        for name in (wrapped, call)
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_poly_is_the_truncated_neumann_series_of_backward_euler():
    h, matrix = 0.2, np.asarray(linear(jnp.eye(2)))  # row vectors: u -> u @ matrix
    (u, _) = steppers.poly(3).step((lambda u: h * linear(u),) * 3, jnp.asarray(START), (), None)
    series = sum(np.linalg.matrix_power(h * matrix, n) for n in range(4))
    np.testing.assert_allclose(u, START @ series, rtol=1e-14)


def f(u):
    return 0.1 * pendulum(u)


def scaled_f(u):
    return 0.1 * f(u)


def test_named_schemes_are_members_of_their_families():
    """Each step beside the same one written with another scheme, or by hand."""
    u, previous = jnp.asarray(START), jnp.asarray(START[::-1].copy())
    v, three, lm = u - previous, (f, jnp.cos, jnp.sin), steppers.lm()
    by_backward_euler = steppers.backward_euler(100, 1e-14).step((f,), u, (), None)[0]
    for found, expected in (
        (lm.step((f,), u, previous, 1.0), steppers.leapfrog().step((f,), u, previous, None)),
        (lm.step((f,), u, previous, -1.0), steppers.verlet().step((f,), u, previous, None)),
        (lm.step((f,), u, previous, -0.3)[0], 1.3 * u + (1 - 1.3) * previous + f(u)),  # the authors' code: k is 1 - k
        (
            lm.step((f,), u, previous, -0.3)[0],
            steppers.linear_multistep((1.3, -0.3), (1,)).step((f,), u, ((previous,), ()), None)[0],
        ),
        # Momentum ResNet (Sander et al. 2021) is LM with k = -gamma and (1 - gamma) f.
        (steppers.momentum(0.9).step((f,), u, v, None), (u + 0.9 * v + scaled_f(u), 0.9 * v + scaled_f(u))),
        (lm.step((scaled_f,), u, previous, -0.9)[0], u + 0.9 * v + scaled_f(u)),
        (steppers.way(3).step(three, u, (), None)[0], u + f(u) + jnp.cos(u) + jnp.sin(u)),
        (steppers.way(1).step((f,), u, (), None), steppers.euler().step((f,), u, (), None)),
        (by_backward_euler, u + f(by_backward_euler)),
    ):
        chex.assert_trees_all_close(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_momentum_from_rest_is_lm_from_rest(gamma):
    k, lm, momentum = -gamma, steppers.lm(), steppers.momentum(gamma)
    u = jnp.asarray(START)
    this, that = (u, momentum.init(u)), (u, lm.init(u))
    for _ in range(20):
        this = momentum.step((lambda u: 0.1 * pendulum(u),), *this, None)
        that = lm.step((lambda u: (1 - gamma) * 0.1 * pendulum(u),), *that, k)
        np.testing.assert_allclose(this[0], that[0], rtol=1e-12)


def test_dense_is_its_formula():
    """u[n+1] = sum_j k[j] u[n-j] / sum_j k[j] + f(u[n]) over the states there are."""

    def f(u):
        return 0.3 * jnp.cos(u)

    stepper, u = steppers.dense(4), jnp.asarray(START)
    history, states = stepper.init(u), [np.asarray(START), np.asarray(START)]  # one earlier state, at rest
    for n in range(7):
        k = np.array([-0.05, -0.02, -0.09, -0.01]) * (1 + n)  # another sum, the same weights
        k[n % 4] *= 3
        u, history = stepper.step((f,), u, history, jnp.asarray(k))
        there = states[::-1][:4]
        weights = k[: len(there)] / k[: len(there)].sum()
        states.append(sum(w * x for w, x in zip(weights, there, strict=True)) + np.asarray(f(states[-1])))
        np.testing.assert_allclose(u, states[-1], rtol=1e-14)
    assert stepper.coef(jax.random.key(0), 8).shape == (4,)
    first = steppers.dense(1).step((f,), u, steppers.dense(1).init(u), jnp.array([-0.03]))[0]
    np.testing.assert_allclose(first, u + f(u), rtol=1e-14)  # with one state it is Euler


def test_end_time_may_be_negative_and_traced():
    there = odeint(steppers.rk4(), autonomous(pendulum), START, t1=1.0, steps=200)
    back = odeint(steppers.rk4(), autonomous(pendulum), there, t1=jnp.float64(-1.0), steps=200)
    np.testing.assert_allclose(back, START, atol=1e-10)


def test_fewer_steps_than_the_scheme_remembers():
    exact = solution(pendulum, 0.01)
    np.testing.assert_allclose(
        odeint(steppers.adams_bashforth(4), autonomous(pendulum), START, t1=0.01, steps=1), exact, atol=1e-10
    )


@pytest.mark.parametrize(
    ("call", "coef", "margin"),
    [
        ("euler", None, 1),
        ("lm", 0.3, 0.7),
        ("lm", -0.3, 0.7),
        ("lm", 1.0, 0),
        ("lm", -1.25, -0.25),
        ("momentum(0.75)", None, 0.25),
        ("adams_bashforth(4)", None, 1),
        ("linear_multistep((1.3, -0.3), (1,))", None, 0.7),
        ("linear_multistep((-4, 5), (4, 2))", None, -4),  # of order 3, and useless
        ("stochastic_depth(noise(leapfrog))", None, 0),
        ("learned_multistep(3)", (np.array([0.2, 0.3, 0.5]), np.ones(3)), 1 - np.sqrt(0.5)),
    ],
)
def test_zero_stability(call, coef, margin):
    found = steppers.zero_stability(steppers.get(call), coef)
    assert found.shape == ()
    assert found.dtype == np.float64
    assert found == pytest.approx(margin, abs=1e-6)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.stepper.known.characteristic], ids=lambda s: s.id)
def test_characteristic_polynomial_is_that_of_the_steps(scheme):
    """Without a field any states in a row satisfy c[0] u[n+1] + c[1] u[n] + ... = 0."""
    stepper, u = scheme.stepper, jnp.asarray(START)
    coef = None if scheme.coef is None else jax.tree.map(jnp.asarray, scheme.coef)
    history, states = stepper.init(u), []
    for n in range(14):
        f = jnp.cos if n < 4 else jnp.zeros_like  # away from rest, where any consistent scheme stays
        u, history = stepper.step((f,), u, history, coef)
        states.append(np.asarray(u))
    c = np.moveaxis(np.asarray(stepper.known.characteristic(coef), np.float64), -1, 0)
    for n in range(9, 14):
        terms = [x * u for x, u in zip(c, states[n::-1], strict=False)]
        np.testing.assert_allclose(sum(terms), 0, atol=1e-6 * np.abs(states).max())


def test_zero_stability_of_every_step():
    k = np.linspace(-1.4, 1.4, 12)
    for given in (k, jnp.asarray(k, jnp.float32), k.reshape(3, 4)):
        found = steppers.zero_stability(steppers.lm(), given)
        np.testing.assert_allclose(found, 1 - np.abs(given), atol=1e-6)
    per_channel = steppers.zero_stability(steppers.lm(per_channel=True), k.reshape(3, 4))  # steps, channels
    assert per_channel.shape == (3, 4)
    # (z - 1)(z - r)(z + r / 2) for each r, as the weights of three states
    r = np.array([0.0, 0.4, -0.8, 1.0, 1.5])
    a = np.stack([-np.poly([1, x, -x / 2])[1:] for x in r])
    found = steppers.zero_stability(steppers.learned_multistep(3), (a, np.ones_like(a)))
    np.testing.assert_allclose(found, 1 - np.abs(r), atol=1e-6)


@pytest.mark.parametrize("k", [-1.2, 0.8])
def test_a_perturbed_start_grows_where_the_margin_is_negative(k):
    lm = steppers.lm()
    carry = lax.scan(lambda c, _: (lm.step((jnp.zeros_like,), *c, k), None), (1.0, 1.0 - 1e-6), length=100)[0]
    change = abs(carry[0] - carry[1])
    assert change == pytest.approx(1e-6 * (1 - steppers.zero_stability(lm, k)) ** 100, rel=1e-6)
    assert (change > 1e-6) == (steppers.zero_stability(lm, k) < 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepper": steppers.euler(), "steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"stepper": steppers.euler(), "steps": 2.5}, r"steps must be a whole number, at least 1, got 2\.5"),
        ({"stepper": steppers.lm(), "steps": 1}, "give coef"),
        ({"stepper": steppers.euler(), "steps": 1, "coef": -0.1}, r"euler has no coefficients, got coef=-0\.1"),
        ({"stepper": 3, "steps": 1}, "must be a Stepper, such as .*, got 3"),
        ({"stepper": "oiler", "steps": 1}, "unknown stepper 'oiler': did you mean"),
        ({"stepper": "rk4", "steps": 1, "t1": 1j}, "t1 or coef is complex, and the state is float"),
        ({"stepper": "euler", "steps": True}, "steps must be a whole number, at least 1, got True"),
        ({"stepper": "lm", "steps": 1, "coef": jnp.float32(-1)}, r"integrates u'' = F\(u\), not"),
        ({"stepper": "lm(per_channel=True)", "steps": 1, "coef": np.array([0, -1.0])}, r"integrates u'' = F\(u\), not"),
        ({"stepper": steppers.leapfrog(), "steps": 1, "start": steppers.leapfrog()}, "start must be a one-step scheme"),
        ({"stepper": "reversible", "steps": 1, "u0": (START, START)}, "takes a tuple of 2 fields"),
        ({"stepper": steppers.euler(), "steps": 1, "field": (linear, linear)}, "takes 1 fields"),
    ],
)
def test_odeint_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        odeint(**{"field": autonomous(linear), "u0": START, "t1": 1.0} | arguments)


@pytest.mark.parametrize(
    ("field", "got"),
    [
        (lambda u: 1j * u, r"complex64\[2\]"),
        (lambda u: u[:1], r"float32\[1\]"),
        (lambda u: u[None], r"float32\[1,2\]"),
        (lambda u: u.astype(jnp.bfloat16), r"bfloat16\[2\]"),
        (lambda u: jnp.sign(u).astype(int), r"int\d\d\[2\]"),
    ],
)
@pytest.mark.parametrize("scheme", ["rk4", "backward_euler"])
def test_a_field_must_give_what_the_state_is(scheme, field, got):
    """Else a real state would lose an imaginary part, and another shape be broadcast, without a word."""
    with pytest.raises(InputError, match=rf"the state at \['a'\] is float32\[2\], and the field gives {got}"):
        odeint(scheme, lambda t, u: {"a": field(u["a"])}, {"a": jnp.ones(2, jnp.float32)}, t1=1.0, steps=10)
    with pytest.raises(InputError, match=r"the field of a state .*'a'.* gives .*'b'"):
        odeint(scheme, lambda t, u: {"b": u["a"]}, {"a": jnp.ones(2, jnp.float32)}, t1=1.0, steps=10)


def test_numbers_of_python_fit_every_state():
    assert abs(odeint("rk4", lambda t, u: 1.0, 1.0, t1=1.0, steps=np.int64(10)) - 2) < 1e-12
    u = odeint("rk4", lambda t, u: 1j * u, 1 + 0j, t1=1.0, steps=10)
    np.testing.assert_allclose(u, np.exp(1j), rtol=1e-5)
