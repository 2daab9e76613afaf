"""What schemes declare, beside what is found by trying: by probes, by draws, and over many values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import steppers
from lmjax.steppers import StepInfo
from tests.steppers.schemes import HAMILTONIAN, REVERSIBLE, SCHEMES, WRAPPERS

PLAIN = [scheme.stepper for scheme in (*SCHEMES, REVERSIBLE, HAMILTONIAN)]
PLAIN = [*dict.fromkeys(PLAIN), steppers.verlet(), steppers.fractal(4), steppers.poly(3, drop=0.2)]
WRAPPED = [steppers.registry.maker(wrapper)(stepper) for wrapper in WRAPPERS for stepper in PLAIN]
WRAPPED += [steppers.way(3, scale=0.7), steppers.get("shake_shake(noise(shake_shake(heun)))")]


def every(found):
    return pytest.mark.parametrize("stepper", found, ids=lambda s: s.name)


def start(stepper):
    """A state of one number a part, and the history that belongs to it."""
    u = tuple(jnp.ones(1) for _ in range(stepper.parts))
    u = u if stepper.parts > 1 else u[0]
    return u, stepper.init(u)


@every([*PLAIN, *WRAPPED])
def test_branches_read_and_repeat_as_declared(stepper):
    u, history = start(stepper)
    seen = [[] for _ in range(stepper.evaluations)]

    def probe(i):
        def f(x):
            seen[i].append(x)
            return x / 2

        return f

    coef = None if stepper.coef is None else stepper.coef(jax.random.key(0), 1)
    with jax.ensure_compile_time_eval():
        stepper.step(tuple(map(probe, range(stepper.evaluations))), u, history, coef, StepInfo(None, 0, 1))
    # `jax.lax.custom_root` looks at an equation twice.
    looks = 2 if "implicit" in stepper.name else 1
    assert {len(states) for states in seen} == {looks * stepper.repeats}
    parts = u if stepper.parts > 1 else (u,)
    found = [next((j for j, part in enumerate(parts) if states[0] is part), None) for states in seen]
    if stepper.repeats == 1:
        assert list(stepper.reads) + [None] * (stepper.evaluations - len(stepper.reads)) == found


@every(PLAIN)  # a wrapper keeps what is known (test_stochastic.py)
def test_history_has_states_and_increments_as_declared(stepper):
    known, history = stepper.known, start(stepper)[1]
    declared = jax.tree.map(lambda earlier, group: jax.tree.map(lambda _: earlier, group), known.earlier, history)
    for earlier, x in zip(jax.tree.leaves(declared), jax.tree.leaves(history), strict=True):
        assert x == (1 if earlier else 0)  # at rest
    arrays = sum(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(history))  # and not a counter
    assert known.steps_back <= arrays
    assert (known.steps_back > 0) == (arrays > 0)


@every([s for s in PLAIN if s.coef is not None])
def test_without_a_key_coefficients_are_the_mean_of_those_drawn(stepper):
    count = 2**12
    drawn = jax.vmap(lambda key: stepper.coef(key, 1))(jax.random.split(jax.random.key(0), count))
    for x, mean in zip(jax.tree.leaves(drawn), jax.tree.leaves(stepper.coef(None, 1)), strict=True):
        assert mean.dtype == jnp.float32
        assert mean.shape == x.shape[1:]
        np.testing.assert_allclose(x.mean(0), mean, atol=5 * float(x.std()) / count**0.5 + 1e-7)


@every([s for s in PLAIN if s.known.zero_stable])
def test_interval_of_zero_stability_is_that_of_the_polynomial(stepper):
    values = np.arange(-4000, 4001) / 1000
    low, high = stepper.known.zero_stable
    np.testing.assert_array_equal(steppers.zero_stability(stepper, values) >= -1e-6, (low <= values) & (values <= high))


def test_sign_is_that_of_the_pair():
    """The energy x^2 - sign y^2 of x' = y, y' = sign x stays, and not the other one."""
    for stepper in (s for s in [*PLAIN, *WRAPPED] if s.parts == 2):
        state, half = ((1.0, 0.0), ()), stepper.evaluations // 2
        for _ in range(100):
            state = stepper.step((lambda u: 0.01 * u,) * 2 * half, *state, None, StepInfo(None, 0, 1))
        (x, y), _ = state
        assert x**2 - stepper.known.sign * y**2 == pytest.approx(1, abs=0.02)
        assert abs(x**2 + stepper.known.sign * y**2 - 1) > 0.5
