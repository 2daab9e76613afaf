"""Making steppers: the same call gives the same object, and what is wrong is named."""

import copy
import re

import jax.numpy as jnp
import pytest

from lmjax import InputError, steppers
from lmjax.steppers import Tableau

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("name", steppers.names())
def test_the_same_call_gives_the_same_object(name):
    assert steppers.get(name) is steppers.get(name)
    assert steppers.get(name) is steppers.get(name.replace("_", "-"))
    assert name.startswith(("linear_multistep", "fractal", "poly")) or steppers.get(name).name == name


def test_arguments_make_different_ones():
    assert steppers.lm() is steppers.lm()
    assert steppers.lm(low=-0.2) is not steppers.lm()
    assert repr(steppers.lm()) == "Stepper(lm)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: steppers.get("lmm"), "unknown stepper 'lmm': did you mean 'lm'"),
        (lambda: steppers.get("zzz"), "unknown stepper 'zzz': known: adams_bashforth2"),
        (lambda: steppers.poly(0), "degree must be at least 1"),
        (lambda: steppers.fractal(0), "columns must be at least 1, got 0"),
        (lambda: steppers.backward_euler(0), "iterations must be at least 1"),
        (lambda: steppers.backward_euler(3, -1.0), "tolerance must be positive"),
        (lambda: steppers.lm(0.1, 0.0), "low must not exceed high"),
        (lambda: steppers.linear_multistep((), (1,)), "at least one weight"),
        (lambda: steppers.linear_multistep((1,), (1, -1)), "sum to zero"),
        (lambda: steppers.adams_bashforth(7), "unknown order of Adams-Bashforth '7'"),
        (lambda: Tableau("t", ((), (0.5, 0.5)), (0, 1), (0, 1), 1), "has 1 coefficients in row 1"),
        (lambda: Tableau("t", ((), (0.5,)), (0, 1), (0, 1), 1), "row 1 of a sums to 0.5, but its node c[1] is 1"),
        (lambda: Tableau("t", ((), (1,)), (0, 1), (0, 1), 2), "claims order 2, but sum b c = 1 instead of 0.5"),
        (lambda: Tableau("t", ((),), (0.9,), (0,), 1), "sum b = 0.9 instead of 1"),
        (lambda: Tableau("t", ((),), (1, 0), (0,), 1), "one entry a stage, got 1, 2 and 1"),
        (lambda: Tableau("t", ((),), (1,), (0,), 5), "order must be 1, 2, 3 or 4"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()


def test_order_conditions_are_those_of_the_tableau():
    # Kutta's third-order method passes as order 3 and not as order 4.
    a, b, c = ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6), (0, 1 / 2, 1)
    assert steppers.runge_kutta(Tableau("kutta3", a, b, c, 3)).order == 3
    with pytest.raises(InputError, match="claims order 4"):
        Tableau("kutta3", a, b, c, 4)


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [
        ((1,), (1,), 1),
        ((1,), (3 / 2, -1 / 2), 2),
        ((1,), (23 / 12, -16 / 12, 5 / 12), 3),
        ((0, 1), (1,), 2),
        ((1.05, -0.05), (1,), 1),
        ((-4, 5), (4, 2), 3),  # of order 3 and not zero-stable: accuracy alone is not convergence
        ((0.5,), (1,), 0),
    ],
)
def test_order_of_linear_multistep_schemes(a, b, order):
    assert steppers.linear_multistep(a, b).order == order


def test_sequences_of_any_kind():
    assert steppers.linear_multistep([1], [1.5, -0.5]) is steppers.linear_multistep((1,), (1.5, -0.5))
    assert Tableau("t", [[], [0.5]], [0, 1], [0, 0.5], 2) == Tableau("t", ((), (0.5,)), (0, 1), (0, 0.5), 2)


@pytest.mark.parametrize("name", steppers.names())
def test_branches_are_counted(name):
    stepper = steppers.get(name)
    u = (jnp.ones(()),) * 2 if stepper.parts == 2 else jnp.ones(())
    for count in (0, stepper.stages + 1):
        with pytest.raises(InputError, match=f"takes a tuple of {stepper.stages} branches, .* got {count} of them"):
            stepper.step((lambda u: u,) * count, u, stepper.init(u), None)
    with pytest.raises(InputError, match="takes a tuple of"):
        stepper.step(jnp.sin, u, stepper.init(u), None)


def test_copies_are_the_same_scheme():
    assert copy.deepcopy(steppers.lm()) is steppers.lm()


def test_register_adds_a_name():
    for version in ("first", "second"):  # again, as when a cell of a notebook is run twice
        stepper = steppers.Stepper(version, lambda fs, u, memory, coef: (u, memory))
        steppers.register("mine-test", lambda stepper=stepper: stepper)
        assert steppers.get("mine_test").name == version
    with pytest.raises(InputError, match="lmjax has a stepper named 'lm'"):
        steppers.register("lm", lambda: stepper)


def test_memory_at_the_start():
    u = jnp.ones(2)
    states, increments = steppers.linear_multistep((1, 0, 0), (1, 0)).init(u)
    assert len(states) == 2
    assert all((x == u).all() for x in states)
    assert len(increments) == 1
    assert (increments[0] == 0).all()
