"""`odeint` as a solver: saved times, gradients, memory, and the messages. Its orders are in steppers/test_order.py."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lmjax import InputError, odeint, steppers
from lmjax.steppers import Properties, Stepper, combine
from tests.parameters import few
from tests.steppers.schemes import START

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.versions]
W = np.array([[0.3, -1.0], [0.8, -0.4]])
STEPS = 24


def field(t, u, w):
    return jnp.cos(3 * t) * jnp.tanh(u @ w) + t


def solved(scheme, u0=START, w=W, t0=0.0, t1=1.0, **options):
    """A coupled scheme is given a pair of fields and of states."""
    coupled = steppers.get(scheme).parts == 2
    fields, u0 = ((field, field), (u0, 2 * u0)) if coupled else (field, jnp.asarray(u0))
    return odeint(scheme, fields, u0, t0=t0, t1=t1, args=w, **{"steps": STEPS} | options)


@pytest.mark.parametrize("scheme", ["rk4", "adams_bashforth(3)", "reversible"])
def test_saved_times(scheme):
    def at(save_at, **options):
        found = solved(scheme, save_at=save_at, **options)
        return np.stack(jax.tree.leaves(found), -1)

    every = at("steps")
    assert every.shape[0] == STEPS + 1
    np.testing.assert_array_equal(np.ravel(every[-1]), np.ravel(np.stack(jax.tree.leaves(solved(scheme)), -1)))
    # On the grid: strides that meet the first steps of the scheme or not, one time, no order in the distances.
    for numbers in ([0, 8, 16, 24], [4, 8, 20], [9, 16, 23], [2], [0], [1, 2, 3], [5, 6, 13]):
        np.testing.assert_allclose(at(np.array(numbers) / STEPS), every[numbers], rtol=1e-12)
    # A time that is traced, or off the grid, is interpolated, which on the grid changes nothing.
    times = np.linspace(0, 1, STEPS + 1)
    np.testing.assert_allclose(jax.jit(at_traced, static_argnums=0)(scheme, times)[0], every[..., 0], rtol=1e-10)
    back = at(1 - times, t0=1.0, t1=0.0)
    np.testing.assert_array_equal(back, at("steps", t0=1.0, t1=0.0))


def at_traced(scheme, times):
    return jax.tree.leaves(solved(scheme, save_at=times))


def test_times_within_rounding_of_one_step():
    near = 0.1 + 0.2  # and not 0.3
    assert solved("rk4", steps=10, save_at=[0.3, near, 0.7]).shape == (3, 2)


def test_fields_and_coefficients_of_other_classes():
    """A field that cannot be hashed, as a module of Equinox; one in a tuple; coefficients in a list."""

    @dataclasses.dataclass
    class Field:
        w: np.ndarray

        def __call__(self, t, u):
            return field(t, u, self.w)

    for scheme, options in (("adams_bashforth(2)", {}), ("learned_multistep(2)", {"coef": [jnp.eye(2)[0]] * 2})):
        expected = solved(scheme, **options)
        for fields in (Field(W), (Field(W),)):
            found = odeint(scheme, fields, jnp.asarray(START), t1=1.0, steps=STEPS, **options)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("start", ["way(2)", "scaled(euler)"])
def test_a_multistep_scheme_may_start_with_any_one_step_method(start):
    """`way(2)` integrates u' / 2 = F, so that its branches are given 2 h F."""
    found, expected = (solved("adams_bashforth(2)", start=each) for each in (start, "euler"))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_times_off_the_grid_have_the_order_of_the_scheme():
    exact = np.asarray(solved("rk4", steps=3000, save_at=[0.111, 0.345, 0.777]))
    for scheme, order in (("rk4", 4), ("adams_bashforth(2)", 2), ("adams_bashforth(4)", 4)):
        errors = [abs(solved(scheme, steps=n, save_at=[0.111, 0.345, 0.777]) - exact).max() for n in (20, 160)]
        assert np.log2(errors[0] / errors[1]) / 3 > order - 0.25
    pair = [solved("reversible", steps=n, save_at=[0.345])[1] for n in (40, 80, 160)]
    assert 1.8 < abs(pair[0] - pair[1]).max() / abs(pair[1] - pair[2]).max() < 2.2
    # Their derivative by time is the field.
    jacobian = jax.jacfwd(lambda time: solved("rk4", save_at=time[None])[0])(jnp.array(0.345))
    np.testing.assert_allclose(jacobian, field(0.345, exact[1], W), rtol=1e-3)
    # Traced times in a list, too.
    found = jax.jit(lambda time: solved("rk4", save_at=[0.111, time]))(0.345)
    np.testing.assert_allclose(found, solved("rk4", save_at=[0.111, 0.345]), rtol=1e-5)


def loss(u0, w, t0, t1, scheme, memory, save_at=None, closed=1.0):
    """With something that the field closes over besides."""
    scheme = steppers.get(scheme)
    F = lambda t, u, w: closed * field(t, u, w)  # noqa: E731
    F, u0 = ((F, F), (u0, 2 * u0)) if scheme.parts == 2 else (F, u0)
    found = odeint(scheme, F, u0, t0=t0, t1=t1, steps=STEPS, args=w, memory=memory, save_at=save_at)
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(found))


SAVED = [None, "steps", np.array([0.25, 0.5, 1.0]), np.array([0.1, 0.7])]


@pytest.mark.parametrize(
    ("scheme", "memory", "save_at"),
    [("rk4", "remat", SAVED[2]), ("reversible", "reversible", SAVED[0])]
    + few([("adams_bashforth(3)", "remat", SAVED[0])], [])
    + [("leapfrog", "reversible", saved) for saved in SAVED]
    + few([(s, "reversible", a) for s in ("hamiltonian", "momentum(0.8)") for a in SAVED], [])
    + few([("heun", "remat", saved) for saved in SAVED], []),
)  # fmt: skip
def test_gradients_are_those_of_storing(scheme, memory, save_at):
    """By the state, the arguments, the times, and what a field closes over; alone, compiled, and of a batch."""

    def gradient(memory):
        def value(u0, w, t0, t1, closed):
            return loss(u0, w, t0, t1, scheme, memory, save_at, closed)

        return jax.jit(jax.value_and_grad(value, tuple(range(5))))

    arguments = jnp.asarray(START), jnp.asarray(W), 0.0, 1.0, 1.2
    found, expected = gradient(memory)(*arguments), gradient("stored")(*arguments)
    chex.assert_trees_all_close(found, expected, rtol=1e-9)
    if save_at is None:
        batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x), 0.5 * jnp.asarray(x)]), arguments)
        batched = jax.vmap(gradient(memory))(*batch)
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], batched), expected, rtol=1e-9)


@pytest.mark.parametrize("memory", few(["stored", "remat"], ["stored"]))
def test_derivatives_of_either_mode_and_of_second_order(memory):
    times = jnp.array([0.21, 0.67])  # at a step the second derivative of the interpolation jumps

    @jax.jit
    def end(u0, w, t1, times):
        return solved("adams_bashforth(2)", u0, w, t1=t1, steps=5, save_at=times, memory=memory)

    check_grads(end, (jnp.asarray(START), jnp.asarray(W), 1.0, times), order=2, atol=1e-4, rtol=1e-4)


def test_memory_of_the_gradient():
    """Per step nothing if it is rebuilt; if it is recomputed, as for the square root of the steps."""

    def bytes_of(memory, steps):
        def end(u0, w):
            F = lambda t, u, w: jnp.tanh(jnp.tanh(u @ w) @ w)  # noqa: E731
            return odeint("leapfrog", F, u0, t1=1.0, steps=steps, args=w, memory=memory).sum()

        u0, w = jnp.ones((64, 8)), jnp.ones((8, 8))
        return jax.jit(jax.grad(end, (0, 1))).lower(u0, w).compile().memory_analysis().temp_size_in_bytes

    assert abs(bytes_of("reversible", 900) - bytes_of("reversible", 100)) < 64 * 8 * 8
    assert bytes_of("remat", 900) < 4 * bytes_of("remat", 100)
    assert bytes_of("remat", 900) < bytes_of("stored", 900) / 8


def test_half_precision_with_time():
    u = odeint("rk4", lambda t, u: -t * u, jnp.ones(3, jnp.bfloat16), t0=1, t1=2, steps=20, save_at=[1.07, 2.0])
    assert u.dtype == jnp.bfloat16
    np.testing.assert_allclose(u[-1].astype(float), np.exp(-1.5), rtol=0.03)


def test_a_scheme_says_when_it_evaluates_its_branches():
    def step(fs, u, history, coef):
        half = combine((1, u), (0.5, fs[0](u)))
        return combine((1, u), (1, fs[1](half))), history

    with pytest.raises(
        InputError, match="does not say at which times it evaluates its 2 branches: give its Properties"
    ):
        odeint(Stepper("mine", step, evaluations=2), field, START, t1=1.0, steps=3, args=W)
    mine = Stepper("mine", step, evaluations=2, known=Properties(nodes=(0, 0.5)))
    found = odeint(mine, field, jnp.asarray(START), t1=1.0, steps=9, args=W)
    np.testing.assert_allclose(found, solved("midpoint", steps=9), rtol=1e-14)
    twice = steppers.shake_shake(steppers.midpoint())
    np.testing.assert_allclose(solved_by(twice), solved("midpoint"), rtol=1e-14)


def solved_by(stepper):
    return odeint(stepper, field, jnp.asarray(START), t1=1.0, steps=STEPS, args=W)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_at": [0.5, 0.25]}, r"times of save_at must go from t0 = 0.0 towards t1 = 1.0, got \[0.5  0.25\]"),
        ({"save_at": [0.5, 0.5]}, "times of save_at must go from"),
        ({"save_at": [0.5, 1.5]}, "times of save_at must go from"),
        ({"save_at": [0.5, 1.0], "t1": -1.0}, "times of save_at must go from t0 = 0.0 towards t1 = -1.0"),
        ({"save_at": [0.0], "t1": 0.0}, "times of save_at must go from"),
        ({"save_at": [0.0, np.nan]}, "times of save_at must go from"),
        ({"save_at": 0.5}, r"save_at must be a list of times, got an array of shape \(\)"),
        ({"save_at": []}, r"save_at must be a list of times, got an array of shape \(0,\)"),
        ({"save_at": ["now"]}, "save_at must be a list of times"),
        ({"save_at": "step"}, "save_at must be \"steps\", an array of times, or None, got 'step'"),
        ({"t1": np.ones(3)}, "t0 and t1 must be single times, got .*: for several ones use jax.vmap"),
        ({"t1": np.nan}, "t0 and t1 must be finite numbers, got nan"),
        ({"t1": None}, "t0 and t1 must be finite numbers, got None"),
        ({"t1": [1, [2]]}, r"t0 and t1 must be single times, got \[1, \[2\]\]"),
        ({"t1": 1j, "u0": START + 0j, "save_at": [0.5]}, 'with complex t0 or t1, save_at must be "steps" or None'),
        ({"save_at": [0.1, [2]]}, r"save_at must be a list of times, got \[0.1, \[2\]\]"),
        *(({"u0": u0}, "u0 must be of floating-point or complex numbers") for u0 in (1, True, "a", None)),
        *(({"steps": n}, "steps must be a whole number") for n in (0, True, 2.0, jnp.asarray(4.0), np.array([4]))),
        ({"stepper": "lm", "coef": "a"}, r"coef of lm must have the structure of float32\[\], got 'a'"),
        ({"stepper": "lm", "coef": (1, 2)}, r"coef of lm must have the structure of float32\[\], got \(1, 2\)"),
        ({"stepper": "dense(3)", "coef": 1.0}, r"coef of dense must have the structure of float32\[3\], got 1.0"),
        ({"stepper": "learned_multistep(2)", "coef": (1.0, 1.0)}, r"must have the structure of .*float32\[2\]"),
        ({"stepper": "lm", "coef": np.nan}, "lm integrates no equation with coef=nan"),
        (
            {"stepper": "shake_shake(adams_bashforth(2))", "field": (field, lambda *_: field(*_))},
            "there are several: give start=None",
        ),
        (
            {"stepper": steppers.shake_shake(Stepper("two", lambda fs, u, history, coef: (u, history), evaluations=2))},
            r"shake_shake\(two\) does not say at which times it evaluates its 4 branches",
        ),
        ({"t0": "0"}, "t0 and t1 must be finite numbers, got '0'"),
        ({"stepper": "reversible", "field": (field, field)}, r"state of reversible is a pair \(x, y\), got PyTreeDef"),
        ({"memory": "reversible"}, "rk4 cannot be undone"),
        ({"memory": "sqrt"}, "unknown memory of odeint 'sqrt'"),
        (
            {"args": None},
            r"a field is called as f\(t, u\), which .*field.* does not take .missing a required argument: 'w'",
        ),
        (
            {"field": jnp.sin},
            r"a field is called as f\(t, u, args\), which .*too many positional .*: write lambda t, u, args: F",
        ),
        ({"field": 3}, "a field must be a function of"),
        ({"field": lambda t, u, w: u[None]}, r"the state is float64\[2\], and the field gives float64\[1,2\]"),
        ({"field": (field, *[lambda *_: field(*_)] * 3), "save_at": [0.001]}, "rk4 has several fields, and times off"),
    ],
)
def test_messages(options, message):
    with pytest.raises(InputError, match=message):
        odeint(**{"stepper": "rk4", "field": field, "u0": START, "t1": 1.0, "steps": STEPS, "args": W} | options)
