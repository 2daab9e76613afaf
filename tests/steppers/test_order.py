"""Every scheme has the order of accuracy that it claims, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax import InputError, odeint, steppers
from lmjax.steppers import Properties, combine
from tests.steppers.schemes import HAMILTONIAN, REVERSIBLE, SCHEMES, START, linear, pendulum, solution

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
        assert scheme.stepper.known.order == scheme.order
    assert observed_order(scheme, field, solution(field, 1.0)) == pytest.approx(scheme.order, abs=0.1)


def undamped(u):
    """q' = p, p' = -sin q, which conserves p^2 / 2 - cos q."""
    return jnp.stack([u[1], -jnp.sin(u[0])])


@pytest.mark.parametrize(("scheme", "sign"), [(REVERSIBLE, 1), (HAMILTONIAN, -1)], ids=lambda x: getattr(x, "id", None))
def test_coupled_scheme_integrates_the_pair(scheme, sign):
    fields = (lambda p: p, lambda q: -sign * jnp.sin(q))  # `hamiltonian` subtracts the second one
    start = (jnp.float64(START[0]), jnp.float64(START[1]))
    observed = observed_order(scheme, fields, solution(undamped, 1.0), start=start)
    assert observed == pytest.approx(1, abs=0.1)


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


def by_verlet(field, start, second, h, steps):
    """Verlet for u'' = F from two exact values: the last value."""
    f = (lambda u: h**2 * field(u),)
    carry = lax.scan(lambda c, _: (steppers.verlet().step(f, *c, None), None), (second, start), length=steps - 1)[0]
    return carry[0]


def test_verlet_is_of_order_two_on_equations_of_second_order():
    exact = solution(undamped, 2.0)[0]
    errors = [
        abs(by_verlet(lambda q: -jnp.sin(q), jnp.float64(START[0]), solution(undamped, 2 / n)[0], 2 / n, n) - exact)
        for n in (100, 200)
    ]
    assert errors[0] < 1e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_verlet_is_no_method_for_equations_of_first_order():
    assert steppers.verlet().known.damping(None) == 0
    with pytest.raises(InputError, match="verlet integrates u'' = F"):
        odeint(steppers.verlet(), linear, START, t1=1.0, steps=10)


def test_odeint_tells_a_scheme_which_step_it_is():
    """Scaled by s falling from 1 to 0, the steps add up to half the time."""
    scheme = steppers.scaled(steppers.euler(), 1.0, 0.0)
    half = odeint(scheme, lambda u: jnp.ones_like(u), jnp.zeros(()), t1=1.0, steps=11)
    assert half == pytest.approx(0.5, rel=1e-12)
    seen = []

    def step(fs, u, history, coef, info):
        seen.append(info)
        return fs[0](u) + u, history

    probe = steppers.Stepper("probe", step, informed=True, known=Properties(steps_back=1))
    odeint(probe, linear, START, t1=1.0, steps=7)
    assert [info.key for info in seen] == [None, None]  # the start, then the steps after it, traced once
    assert [info.count for info in seen] == [7, 7]
    assert seen[0].index == 0
    known = Properties(steps_back=2)
    numbering = steppers.Stepper("numbering", lambda fs, u, m, c, info: (u + info.index, m), informed=True, known=known)
    assert odeint(numbering, jnp.zeros_like, jnp.zeros(()), t1=1.0, steps=7) == 2 + 3 + 4 + 5 + 6


def test_odeint_is_deterministic_with_stochastic_schemes():
    f = (pendulum, pendulum)
    for name, coef in (("lm", -0.3), ("rk4", None), ("adams_bashforth(3)", None)):
        expected = odeint(steppers.get(name), pendulum, START, t1=1.0, steps=20, coef=coef)
        for wrapper in ("stochastic_depth", "noise"):
            wrapped = steppers.get(f"{wrapper}({name})")
            result = odeint(wrapped, pendulum, START, t1=1.0, steps=20, coef=coef)
            np.testing.assert_allclose(result, expected, rtol=1e-14)
    shaken = odeint(steppers.get("shake_shake(euler)"), f, START, t1=1.0, steps=20)
    np.testing.assert_allclose(shaken, odeint(steppers.euler(), pendulum, START, t1=1.0, steps=20), rtol=1e-14)
    for path in ("poly(2{})", "way(2{})"):
        dropped, whole = (
            odeint(steppers.get(path.format(drop)), f, START, t1=1.0, steps=20) for drop in (", drop=0.5", "")
        )
        np.testing.assert_array_equal(dropped, whole)


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
    assert full.known.order == 0
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
    by_lm, _ = steppers.lm().step((f,), u, previous, -1.0)
    by_verlet, _ = steppers.verlet().step((f,), u, previous, None)
    np.testing.assert_allclose(by_lm, by_verlet, rtol=1e-15)
    g = 0.9  # Momentum ResNet (Sander et al. 2021) is LM with k = -g and (1 - g) f
    v = u - previous
    by_hand = u + g * v + (1 - g) * f(u)
    by_lm, _ = steppers.lm().step((lambda u: (1 - g) * f(u),), u, previous, -g)
    by_momentum, velocity = steppers.momentum(g).step((f,), u, v, None)
    np.testing.assert_allclose(by_lm, by_hand, rtol=1e-14)
    np.testing.assert_allclose(by_momentum, by_hand, rtol=1e-14)
    np.testing.assert_allclose(velocity, by_hand - u, rtol=1e-14, atol=1e-15)
    by_way, _ = steppers.way(3).step((f, jnp.cos, jnp.sin), u, (), None)
    np.testing.assert_allclose(by_way, u + f(u) + jnp.cos(u) + jnp.sin(u), rtol=1e-14)
    by_way, _ = steppers.way(1).step((f,), u, (), None)
    np.testing.assert_array_equal(by_way, steppers.euler().step((f,), u, (), None)[0])


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
    ("call", "coef", "margin"),
    [
        ("euler", None, 1),
        ("rk4", None, 1),
        ("lm", 0.3, 0.7),
        ("lm", -0.3, 0.7),
        ("lm", 0.0, 1),
        ("lm", 1.0, 0),
        ("lm", 1.25, -0.25),
        ("lm", -1.25, -0.25),
        ("momentum(0.75)", None, 0.25),
        ("leapfrog", None, 0),
        ("adams_bashforth(1)", None, 1),
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


@pytest.mark.parametrize("k", [-1.2, -0.8, 0.8, 1.2])
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
        ({"stepper": "euler", "steps": True}, "steps must be a whole number, at least 1, got True"),
        ({"stepper": "lm", "steps": 1, "coef": jnp.float32(-1)}, r"integrates u'' = F\(u\), not"),
        ({"stepper": "lm(per_channel=True)", "steps": 1, "coef": np.array([0, -1.0])}, r"integrates u'' = F\(u\), not"),
        ({"stepper": steppers.leapfrog(), "steps": 1, "start": steppers.leapfrog()}, "start must be a one-step scheme"),
        ({"stepper": steppers.reversible(), "steps": 1}, "takes a tuple of 2 fields"),
        ({"stepper": steppers.euler(), "steps": 1, "field": (linear, linear)}, "takes 1 fields"),
    ],
)
def test_odeint_says_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        odeint(**{"field": linear, "u0": START, "t1": 1.0} | arguments)


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
@pytest.mark.parametrize("scheme", ["rk4", "leapfrog", "backward_euler"])
def test_a_field_must_give_what_the_state_is(scheme, field, got):
    """Else a real state would lose an imaginary part, and another shape be broadcast, without a word."""
    with pytest.raises(InputError, match=rf"the state at \['a'\] is float32\[2\], and the field gives {got}"):
        odeint(scheme, lambda u: {"a": field(u["a"])}, {"a": jnp.ones(2, jnp.float32)}, t1=1.0, steps=10)
    with pytest.raises(InputError, match=r"the field of a state .*'a'.* gives .*'b'"):
        odeint(scheme, lambda u: {"b": u["a"]}, {"a": jnp.ones(2, jnp.float32)}, t1=1.0, steps=10)


def test_numbers_of_python_fit_every_state():
    assert abs(odeint("rk4", lambda u: 1.0, 1.0, t1=1.0, steps=np.int64(10)) - 2) < 1e-12
    u = odeint("rk4", lambda u: 1j * u, 1 + 0j, t1=1.0, steps=10)
    np.testing.assert_allclose(u, np.exp(1j), rtol=1e-5)


def test_states_of_a_sum_must_fit():
    with pytest.raises(ValueError, match="one shape"):
        combine((1, jnp.ones(3)), (1, jnp.ones(1)))
    with pytest.raises(ValueError, match="complex"):
        combine((1, jnp.ones(3)), (1, 1j * jnp.ones(3)))
    with pytest.raises(ValueError, match="complex"):
        combine((1, jnp.ones(3)), (1j, jnp.ones(3)))
    assert combine((1, 1j * jnp.ones(3)), (1j, jnp.ones(3)))[0] == 2j
