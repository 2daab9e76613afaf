"""Training without stored activations: the same gradients, in memory that does not grow with depth."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmjax import InputError, steppers
from lmjax.reversible import reversible_scan
from lmjax.steppers import StepInfo, Stepper
from tests.parameters import few

STEPS = 4
INVERTIBLE = [
    "reversible",
    "hamiltonian",
    "leapfrog",
    "verlet",
    "momentum(0.5)",
    "scaled(leapfrog, 1.0, 0.5)",
    "stochastic_depth(reversible, 0.5)",
    "noise(leapfrog, 0.1)",
    "shake_shake(momentum)",
    "shake_shake(stochastic_depth(noise(hamiltonian, 0.1), per_sample=True), per_sample=False)",
]


def info(index):
    return StepInfo(jax.random.fold_in(jax.random.key(7), index), index, STEPS)


def start(stepper, dtype=jnp.float32):
    u = jax.random.normal(jax.random.key(1), (3, 4), dtype)
    return (u, u * 0.5) if stepper.parts == 2 else u


def branch(i):
    return lambda weights, given, u: (jnp.tanh(u @ weights[i]), jnp.sum(u))


def rebuilt(stepper, weights, u, **options):
    branches = [branch(i) for i in range(stepper.evaluations)]
    return reversible_scan(stepper, branches, (u, stepper.init(u)), weights, jnp.arange(STEPS), info=info, **options)


def stored(stepper, weights, u):
    state, outputs = (u, stepper.init(u)), []
    for n in range(STEPS):
        seen = {}

        def f(i, n=n, seen=seen):
            def evaluate(u):
                increment, seen[i] = branch(i)(weights[n], n, u)
                return increment

            return evaluate

        state = stepper.step(tuple(f(i) for i in range(stepper.evaluations)), *state, None, info(n))
        outputs.append([seen[i] for i in range(stepper.evaluations)])
    return state, tuple(jnp.stack(column) for column in zip(*outputs, strict=True))


@pytest.mark.versions
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "unroll"),
    [(name, 1) for name in INVERTIBLE] + few([(name, STEPS) for name in INVERTIBLE], [("leapfrog", STEPS)]),
)
def test_values_outputs_and_gradients_are_those_of_storing(name, unroll):
    stepper = steppers.get(name)
    weights = jax.random.normal(jax.random.key(0), (STEPS, stepper.evaluations, 4, 4), jnp.float64) * 0.3
    u = start(stepper, jnp.float64)

    def loss(run, weights, u):
        state, outputs = run(stepper, weights, u)
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(state)), outputs

    def value_outputs_gradients(run):
        return jax.jit(jax.value_and_grad(lambda *x: loss(run, *x), (0, 1), has_aux=True))(weights, u)

    found = value_outputs_gradients(lambda *x: rebuilt(*x, unroll=unroll))
    chex.assert_trees_all_close(found, value_outputs_gradients(stored), rtol=1e-11, atol=1e-11)


def test_trainable_coefficients_get_their_gradient():
    """A scheme of one's own with an inverse and a coefficient: leapfrog with a trainable step size."""

    def step(fs, u, previous, c):
        return steppers.combine((1, previous), (c, fs[0](u))), u

    def inverse(fs, u, previous, c):
        return previous, steppers.combine((1, u), (-c, fs[0](previous)))

    stepper = Stepper("sized", step, init=lambda u: u, inverse=inverse, coef=lambda key, channels: jnp.ones(()))
    weights = {"w": jax.random.normal(jax.random.key(0), (STEPS, 1, 4, 4)) * 0.3, "c": jnp.linspace(0.5, 1.5, STEPS)}
    u = start(stepper)

    def by_rebuilding(weights):
        f = [lambda v, given, u: (jnp.tanh(u @ v["w"][0]), None)]
        (u1, _), _ = reversible_scan(stepper, f, (u, u), weights, coef=lambda v: v["c"])
        return jnp.sum(u1**2)

    def by_storing(weights):
        def one(state, v):
            return stepper.step((lambda u: jnp.tanh(u @ v["w"][0]),), *state, v["c"]), None

        return jnp.sum(lax.scan(one, (u, u), weights)[0][0] ** 2)

    found, expected = jax.grad(by_rebuilding)(weights), jax.grad(by_storing)(weights)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found["c"]).min() > 0


def test_each_branch_is_evaluated_once_more_and_no_oftener():
    """Of a step's tanh: one forward, one in the backward pass; a gradient that stores needs one in all."""
    stepper = steppers.reversible()
    weights, u = jnp.ones((STEPS, 2, 4, 4)), start(stepper)

    def loss(weights):
        return sum(map(jnp.sum, rebuilt(stepper, weights, u)[0][0]))

    program = str(jax.make_jaxpr(jax.grad(loss))(weights))
    assert program.count(" tanh ") == 2 * stepper.evaluations  # in the bodies of two loops


@pytest.mark.parametrize("name", ["euler", "lm", "rk4", "noise(lm, 0.1)"])
def test_schemes_without_an_inverse_are_refused(name):
    stepper = steppers.get(name)
    with pytest.raises(InputError, match="cannot be undone"):
        rebuilt(stepper, jnp.ones((STEPS, stepper.evaluations, 4, 4)), start(stepper))


def test_an_inverse_must_evaluate_each_branch_once():
    def step(fs, u, history, coef):
        return steppers.combine((1, u), (1, fs[0](u))), history

    def twice(fs, u, history, coef):
        return steppers.combine((1, u), (-1, fs[0](fs[0](u)))), history

    def never(fs, u, history, coef):
        return u, history

    for inverse, message in ((twice, "more than once"), (never, "does not evaluate every branch")):
        stepper = Stepper("odd", step, inverse=inverse)
        with pytest.raises(InputError, match=message):
            jax.grad(lambda w, stepper=stepper: rebuilt(stepper, w, start(stepper))[0][0].sum())(
                jnp.ones((STEPS, 1, 4, 4))
            )
