"""The observed order of schemes is the one they are known for, and the test problems have the solutions they claim."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import InputError, analysis, steppers
from lmjax.analysis.scheme import mean_coefficients
from lmjax.steppers import Stepper
from tests.analysis import main

STEPS = (80, 160)


@pytest.mark.parametrize("problem", [analysis.LINEAR, analysis.NONLINEAR], ids=lambda p: p.name)
def test_exact_solution_solves_the_problem(problem):
    for t in (0.0, 0.7, 2.0):
        slope = np.imag(problem.exact(t + 1e-20j)) / 1e-20  # by a complex step
        q, p = problem.exact(t)
        np.testing.assert_allclose(slope, [p, problem.force(q)], rtol=1e-13)
    assert problem.force(0.0) == 0


def test_errors_of_euler_are_those_of_its_formula():
    """On the oscillation q + ip turns by exp(-it), and Euler makes that (1 - ih)^n."""
    found = analysis.observed_order(steppers.euler(), problem=analysis.LINEAR, steps=(5, 40, 80))
    h = 2 / np.array([5, 40, 80])
    w = complex(*analysis.LINEAR.exact(0.0))
    np.testing.assert_allclose(found.h, h)
    np.testing.assert_allclose(found.errors, np.abs(w * ((1 - 1j * h) ** (2 / h) - np.exp(-2j))), rtol=1e-9)
    assert found.order == pytest.approx(np.polyfit(np.log(h), np.log(found.errors), 1)[0])


@pytest.mark.parametrize(
    ("call", "coef", "order"),
    [
        pytest.param("euler", None, 1, marks=pytest.mark.versions),
        pytest.param("lm", -0.3, 1, marks=pytest.mark.versions),
        ("lm", 1.0, 2),
        ("lm", -1.0, 2),  # for q'' = G(q)
        ("lm(per_channel=True)", np.array([0.4]), 1),
        ("fractal(2, False)", None, 1),
        ("scaled(euler, 0.5, 0.5)", None, 0),
        pytest.param("reversible", None, 1, marks=pytest.mark.versions),
        ("shake_shake(hamiltonian)", None, 1),
        ("noise(verlet)", None, 2),
    ],
)
def test_observed_order(call, coef, order):
    found = analysis.observed_order(steppers.get(call), coef, steps=STEPS)
    assert found.order == pytest.approx(order, abs=0.1)
    assert not jax.config.jax_enable_x64


def test_rounding_takes_no_part():
    exact = Stepper("exact", lambda fs, u, m, c: (_oscillation(fs[0], u), m))
    found = analysis.observed_order(exact, problem=analysis.LINEAR, steps=STEPS)
    assert found.errors.max() < 1e-12
    assert np.isnan(found.order)


def _oscillation(f, u):
    h = -f(jnp.array([1.0, 0.0], u.dtype))[1]  # of (q, p) -> h (p, -q)
    return jnp.array([[jnp.cos(h), jnp.sin(h)], [-jnp.sin(h), jnp.cos(h)]]) @ u


def test_mean_of_the_initial_coefficients():
    (lm, at, channel, several) = analysis.schemes(
        ["lm", "lm(-0.3, -0.3)", "lm(0.2, 0.2, per_channel=True)", "learned-multistep(2)"]
    )
    assert (lm.label, lm.coef.item(), lm.coef.dtype) == ("lm, k = -0.05", -0.05, np.float64)
    assert at.coef == -0.3  # not its neighbor in float32
    assert (channel.label, channel.coef.shape) == ("lm_per_channel, k = 0.2", (1,))
    assert several.label == "learned_multistep(2)"
    np.testing.assert_array_equal(several.coef, [[1, 0], [1, 0]])
    (dense,) = analysis.schemes(["dense(3)"])
    np.testing.assert_array_equal(dense.coef, [-0.05] * 3)
    (given, plain) = analysis.schemes(["lm", "rk4"], k=0.7)
    assert (given.coef, plain.coef) == (0.7, None)


def test_picture_has_a_line_for_each_scheme():
    schemes = {s.label: s for s in analysis.schemes(["euler", "rk4"])}
    problems = (analysis.LINEAR, analysis.NONLINEAR)
    found = {
        p: {name: analysis.observed_order(s.stepper, problem=p, steps=STEPS) for name, s in schemes.items()}
        for p in problems
    }
    figure = analysis.draw_orders(found)
    for axes, problem in zip(figure.axes, problems, strict=True):
        assert (axes.get_title(), axes.get_xscale(), axes.get_yscale()) == (
            f"{problem.name}, {problem.equation}",
            "log",
            "log",
        )
        for line, name in zip(axes.get_lines(), schemes, strict=True):
            np.testing.assert_array_equal(line.get_xydata().T, [2 / np.array(STEPS), found[problem][name].errors])
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [line.split(":")[0] for line in said] == ["euler", "rk4"]
    assert re.fullmatch(r"rk4: 4\.0\d, 4\.0\d", said[1])


OWN = """
import functools
from lmjax import steppers
from lmjax.steppers import Properties, Stepper, combine

@functools.cache
def ralston():
    def step(fs, u, history, coef):
        k1 = fs[0](u)
        k2 = fs[1](combine((1, u), (2 / 3, k1)))
        return combine((1, u), (1 / 4, k1), (3 / 4, k2)), history
    return Stepper("ralston", step, evaluations=2, known=Properties(order=2))

steppers.register(ralston)
"""


def test_command_on_a_scheme_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lmjax.analysis.order.STEPS", STEPS)
    (tmp_path / "own.py").write_text(OWN)
    out = tmp_path / "order.pdf"
    assert main(["order", "ralston", "--config", str(tmp_path / "own.py"), "--out", str(out)]) == 0
    assert re.search(r"^ralston +2 +2\.0\d +(1\.9|2\.0)\d$", capsys.readouterr().out, re.MULTILINE)
    assert out.read_bytes().startswith(b"%PDF")


def test_a_mean_that_is_not_known_is_an_error():
    stepper = Stepper("drawn", lambda fs, u, h, c: (u, h), coef=lambda key, channels: jax.random.normal(key))
    with pytest.raises(InputError, match=r"drawn: the mean of its coefficients is not known: let coef\(None"):
        mean_coefficients(stepper)


def test_a_scheme_that_diverges_is_said_to(capsys, monkeypatch):
    monkeypatch.setattr("lmjax.analysis.order.STEPS", STEPS)
    assert main(["order", "lm(2, 2)"]) == 0
    assert "diverges" in capsys.readouterr().out
