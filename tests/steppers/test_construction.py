"""Making steppers: the same call gives the same object, and what is wrong is named."""

import re

import jax.numpy as jnp
import pytest

from lmjax import InputError, odeint, steppers
from lmjax.steppers import Tableau
from tests.steppers.schemes import WRAPPERS

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("name", steppers.names())
def test_the_same_call_gives_the_same_object(name):
    assert steppers.get(name) is steppers.get(name)
    assert steppers.get(name) is steppers.get(name.replace("_", "-"))
    assert steppers.get(name) is steppers.get(f"{name}()")
    assert steppers.get(name).name.startswith(name)  # with its number, as adams_bashforth2
    for wrapper in WRAPPERS:
        assert steppers.get(f"{wrapper}({name})") is steppers.registry.maker(wrapper)(steppers.get(name))


def kutta(order):
    """Kutta's method, which is of the third order."""
    return Tableau("kutta3", ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6), (0, 1 / 2, 1), order)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("zzz", "unknown stepper 'zzz': known: adams_bashforth, backward_euler"),
        (lambda: steppers.poly(0), "poly: degree must be a whole number from 1 to 1000, got 0"),
        (lambda: steppers.poly(2, drop=1.0), "poly: drop must be at least 0 and less than 1, got 1.0"),
        (lambda: steppers.way(0), "way: count must be a whole number from 1 to 1000, got 0"),
        (lambda: steppers.fractal(0), "columns must be a whole number from 1 to 10, got 0"),
        (lambda: steppers.momentum(0.0), "gamma must be between 0 and 1, got 0.0"),
        (lambda: steppers.dense(0), "dense: steps must be a whole number, at least 1, got 0"),
        (lambda: steppers.learned_multistep(0), "steps must be a whole number from 1 to 1000, got 0"),
        (lambda: steppers.backward_euler(0), "iterations must be a whole number from 1 to 1000, got 0"),
        (lambda: steppers.backward_euler(3, -1.0), "tolerance must be positive"),
        (lambda: steppers.dense(2.5), "dense: steps must be a whole number or None, got 2.5"),
        (lambda: steppers.scaled(steppers.lm(), "a"), "scaled: first must be a finite number, got 'a'"),
        ("linear_multistep(('a',), (1,))", "linear_multistep: a and b are lists of numbers, got a=('a',)"),
        ("lm({[1]: 2})", "give a name such as lm, or a call"),
        ("lm(low=1, low=2)", "give each argument once"),
        ("lm(-1e400, 0)", "lm: low must be a finite number, got -inf"),
        ("lm(per_channel='no')", "lm: per_channel must be True or False, got 'no'"),
        (lambda: steppers.linear_multistep((), (1,)), "at least one weight"),
        (lambda: steppers.linear_multistep((1,), (1, -1)), "sum to zero"),
        (lambda: steppers.adams_bashforth(7), "unknown order of Adams-Bashforth '7'"),
        ("__import__('os')", "unknown stepper '__import__'"),
        ("lm(low=x)", "unknown stepper 'x'"),
        ("noise(lmm)", "unknown stepper 'lmm': did you mean 'lm'"),
        ("lm(lo=3)", "stepper 'lm(lo=3)': got an unexpected keyword argument 'lo'; lm takes (low=-0.1, high=0.0, *, "),
        ("lm(1, 2, 3)", "stepper 'lm(1, 2, 3)': too many positional arguments; lm takes (low"),
        ("lm(**{})", "stepper 'lm(**{})': give each argument once, by its name"),
        ("euler(1)", "stepper 'euler(1)': too many positional arguments; euler takes ()"),
        ("noise(noise)", "stepper 'noise(noise)': missing a required argument: 'stepper'; noise takes (stepper, sigma"),
        ("lm([1])", "lm: low must be a finite number, got [1]"),
        ("lm(0.1)", "lm: low must not exceed high, got 0.1 and 0.0"),
        ("stochastic_depth(lm, 0)", "survival must be above 0 and at most 1 (a drop rate in [0, 1)), got 0"),
        ("stochastic_depth(lm, 1.5)", "survival must be above 0 and at most 1 (a drop rate in [0, 1)), got 1.5"),
        ("stochastic_depth(lm, 'often')", "stochastic_depth: survival must be a finite number, got 'often'"),
        ("stochastic_depth(lm, rescale='both')", "depth: rescale must be 'training' or 'evaluation', got 'both'"),
        ("stochastic_depth(lm, rule='linear')", "depth: rule must be 'first_kept' or 'first_dropped', got 'linear'"),
        ("shake_shake(lm, forward='keep')", "shake_shake: forward must be 'shake' or 'even', got 'keep'"),
        ("shake_shake(lm, backward='odd')", "shake_shake: backward must be 'shake' or 'keep' or 'even', got 'odd'"),
        ("noise(lm, -0.1)", "noise: sigma must be 0 or more, got -0.1"),
        ("noise(lm, distribution='cauchy')", "distribution must be 'normal' or 'uniform', got 'cauchy'"),
        ("way(2, drop=1.5)", "way: drop must be at least 0 and less than 1, got 1.5"),
        ("noise(1)", "noise: stepper must be a stepper such as lm(-0.5, -0.5), got 1"),
        (lambda: steppers.noise(steppers.lm(), float("nan")), "noise: sigma must be a finite number, got nan"),
        (lambda: steppers.stochastic_depth(steppers.lm(), float("nan")), "got nan"),
        (lambda: steppers.stochastic_depth("lm"), "must be a stepper such as lm(-0.5, -0.5), got 'lm'"),
        (lambda: steppers.scaled(steppers.lm), "scaled: stepper must be a stepper such as"),
        (lambda: steppers.shake_shake(0.5), "shake_shake: stepper must be a stepper such as lm(-0.5, -0.5), got 0.5"),
        (lambda: Tableau("t", ((), (0.5, 0.5)), (0, 1), (0, 1), 1), "has 1 coefficients in row 1"),
        (lambda: Tableau("t", ((), (0.5,)), (0, 1), (0, 1), 1), "row 1 of a sums to 0.5, but its node c[1] is 1"),
        (lambda: Tableau("t", ((), (1,)), (0, 1), (0, 1), 2), "claims order 2, but sum b c = 1 instead of 0.5"),
        (lambda: kutta(4), "claims order 4"),
        (lambda: Tableau("t", ((),), (0.9,), (0,), 1), "sum b = 0.9 instead of 1"),
        (lambda: Tableau("t", ((),), (1, 0), (0,), 1), "one entry an evaluation, got 1, 2 and 1"),
        (lambda: Tableau("t", ((),), (1,), (0,), 5), "order must be 1, 2, 3 or 4"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        steppers.get(make) if isinstance(make, str) else make()
    assert "\n" not in str(caught.value)


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
    assert steppers.linear_multistep(a, b).known.order == order


def test_sequences_of_any_kind():
    assert steppers.runge_kutta(kutta(3)).known.order == 3
    assert steppers.linear_multistep([1], [1.5, -0.5]) is steppers.linear_multistep((1,), (1.5, -0.5))
    assert Tableau("t", [[], [0.5]], [0, 1], [0, 0.5], 2) == Tableau("t", ((), (0.5,)), (0, 1), (0, 0.5), 2)


@pytest.mark.parametrize("name", steppers.names())
def test_branches_are_counted(name):
    stepper = steppers.get(name)
    u = (jnp.ones(()),) * 2 if stepper.parts == 2 else jnp.ones(())
    for count in (0, stepper.evaluations + 1):
        with pytest.raises(
            InputError, match=f"takes a tuple of {stepper.evaluations} branches, .* got {count} of them"
        ):
            stepper.step((lambda u: u,) * count, u, (), None)
    with pytest.raises(InputError, match="takes a tuple of"):
        stepper.step(jnp.sin, u, (), None)


def test_dense_must_know_over_how_many_states():
    u = jnp.ones(())
    with pytest.raises(InputError, match=re.escape("use dense(steps)")):
        steppers.dense().step((jnp.sin,), u, (), None)
    with pytest.raises(InputError, match=re.escape("use dense(steps)")):
        steppers.dense().init(u)
    assert steppers.over_stage(steppers.dense(), 4) == (steppers.euler(), steppers.dense(4))
    assert steppers.over_stage(steppers.dense(4), 9) == (steppers.euler(), steppers.dense(4))
    assert (steppers.dense().known.steps_back, steppers.dense(4).known.steps_back) == (None, 3)
    with pytest.raises(InputError, match="use dense"):
        odeint(steppers.dense(), lambda t, u: jnp.sin(u), u, t1=1.0, steps=4)


def test_register_adds_a_name():
    for version in ("first", "second"):  # again, as when a cell of a notebook is run twice
        stepper = steppers.Stepper(version, lambda fs, u, history, coef: (u, history))
        steppers.register(lambda stepper=stepper: stepper, name="mine-test")
        assert steppers.get("mine_test").name == version
    with pytest.raises(InputError, match="lmjax has a stepper named 'stochastic_depth'"):
        steppers.register(lambda: stepper, name="stochastic-depth")
    for no_name in ("my stepper", "2step", "lm(3)", ""):
        with pytest.raises(InputError, match=re.escape(f"stepper {no_name!r}: is no name")):
            steppers.register(lambda: stepper, name=no_name)


def test_registered_names_may_take_arguments():
    @steppers.register(name="with-a-rate")
    def make(rate: float, *, name: str = "mine"):
        return steppers.Stepper(f"{name}{rate:g}", lambda fs, u, history, coef: (u, history))

    assert steppers.get("with_a_rate(-0.5)").name == "mine-0.5"
    assert steppers.get("with-a-rate(2, name='yours')") is make(2, name="yours")
    assert steppers.get("noise(with-a-rate(3))").name == "noise(mine3)"
    assert "with_a_rate" not in steppers.names()  # it is no stepper without its argument
    with pytest.raises(InputError, match=r"missing a required argument: 'rate'; with_a_rate takes \(rate"):
        steppers.get("with_a_rate")


@pytest.mark.parametrize(
    ("call", "stepper"),
    [
        ("lm(-0.5, -0.5)", steppers.lm(-0.5, -0.5)),
        ("lm(-0.5,high=-0.2)", steppers.lm(-0.5, high=-0.2)),
        (" lm( low = -1e-3, high = 1e-3 ) ", steppers.lm(low=-0.001, high=0.001)),
        ("lm(per_channel=True)", steppers.lm(per_channel=True)),
        ("backward_euler(60, None)", steppers.backward_euler(60, None)),
        ("fractal(3, False)", steppers.fractal(3, False)),
        ("poly(3, drop=0.25)", steppers.poly(3, drop=0.25)),
        ("linear-multistep((1.3, -0.3), (1,))", steppers.linear_multistep((1.3, -0.3), (1,))),
        ("noise(lm(-0.5, -0.5), 0.01)", steppers.noise(steppers.lm(-0.5, -0.5), 0.01)),
        ("stochastic-depth(lm, survival=0.8)", steppers.stochastic_depth(steppers.lm(), survival=0.8)),
        ("stochastic_depth(lm, rule=first-dropped)", steppers.stochastic_depth(steppers.lm(), rule="first_dropped")),
        (
            "noise(shake-shake(stepper=momentum(0.8), backward='even'), sigma=0.1)",
            steppers.noise(steppers.shake_shake(stepper=steppers.momentum(0.8), backward="even"), sigma=0.1),
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_call_by_name_is_the_call(call, stepper):
    assert steppers.get(call) is stepper


@pytest.mark.parametrize(
    "text",
    ["1", "lm+1", "lm-1", "lm(", "", "True", "'lm'", "lm.step", "steppers.lm()", "lm()()", "lm;lm", "[lm]", "lambda: 1",
     "lm(*[1])", "lm(-lm)", "lm(1 if 1 else 2)", "lm(2**99)", "lm(f'{1}')", "noise((lm,))", "\0"],
)  # fmt: skip
def test_neither_a_name_nor_a_call(text):
    message = f"stepper {text!r}: give a name such as lm, or a call such as lm(-0.5, -0.5)"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        steppers.get(text)
