"""Modified equations against their series, and against the rates that are measured."""

import re

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyval

from lmjax import analysis, steppers
from tests.analysis import main
from tests.analysis.handmade import write_run


@pytest.mark.versions
@pytest.mark.parametrize(
    ("call", "series", "order"),
    [
        ("euler", [1, -1 / 2, 1 / 3, -1 / 4, 1 / 5], 1),  # log(1 + z) / z
        ("midpoint", [1, 0, -1 / 6, 1 / 8, -1 / 20], 2),
        ("rk4", [1, 0, 0, 0, -1 / 120], 4),
        ("leapfrog", [1, 0, -1 / 6, 0, 3 / 40], 2),  # asinh(z) / z
        ("verlet", [1, 0, -1 / 24, 0, 3 / 640], 2),  # 2 asinh(z / 2) / z
        ("hamiltonian", [1, 0, -1 / 24, 0, 3 / 640], 2),
        ("backward_euler(8)", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], 1),  # -log(1 - z) / z
        ("adams_bashforth(2)", [1, 0, -5 / 12, 1 / 4, 21 / 80], 2),
        ("fractal(2, False)", None, 1),
        ("scaled(euler, 0.5, 0.5)", None, 0),
    ],
)
def test_series(call, series, order):
    c = analysis.modified_rate(steppers.get(call))
    if series is not None:
        np.testing.assert_allclose(c, series, atol=1e-8)
        np.testing.assert_array_equal(c[1:order], 0)  # what rounding does not tell from zero
    assert analysis.rate_order(c) == order


@pytest.mark.parametrize("k", [-0.999, -0.9, -0.1, 0.0, 0.9])
def test_series_of_lm(k):
    """The roots of zeta^2 - (1 - k + (1 + k) z) zeta - k, expanded: the first terms by hand, all of them by value."""
    c = analysis.modified_rate(steppers.lm(), k, terms=6)
    friction, mass = analysis.friction_and_mass(k)
    assert (friction, mass) == pytest.approx((1 + k, (1 - k) / 2))
    assert c[0] == pytest.approx(1, abs=1e-9)
    assert c[1] == pytest.approx(-mass / friction, rel=1e-6, abs=1e-12)
    assert analysis.rate_order(c) == 1
    z = 1e-3 * (1 + k) ** 2
    b = 1 - k + (1 + k) * z
    zeta = (b + np.sqrt(b**2 + 4 * k)) / 2
    assert polyval(z, c) * z == pytest.approx(np.log(zeta), rel=1e-10)


@pytest.mark.parametrize(
    ("k", "measured", "modified"),
    [(-0.5, -2.06374, -2.06389), (0.0, -1.00503, -1.00505), (0.5, -0.667404, -0.667409), (1.0, -0.499998, -0.5)],
)
def test_rates_on_a_decay(k, measured, modified):
    """(1 + k) u' = -u with h = 0.01: the rate of the scheme, and that of friction u' + h mass u'' = -u."""
    h = 0.01
    rate = np.log(analysis.principal_root(steppers.lm(), -h / (1 + k), k)) / h
    assert rate.imag == pytest.approx(0, abs=1e-12)
    assert rate.real == pytest.approx(measured, abs=5e-6)
    friction, mass = analysis.friction_and_mass(k)
    slow = np.roots([h * mass, friction, 1.0]).real.max()
    assert slow == pytest.approx(modified, abs=6e-6)
    carry, steps = (1.0, np.exp(-rate.real * h)), 50  # a run of the scheme itself, from the solution
    for _ in range(steps):
        carry = ((1 - k) * carry[0] + k * carry[1] - h * carry[0], carry[0])
    assert np.log(carry[0]) / (h * steps) == pytest.approx(rate.real, rel=1e-9)


def test_principal_root_is_followed_away_from_zero():
    z = np.array([0.5, -0.5, 0.9j, 0.0])
    found = analysis.principal_root(steppers.leapfrog(), z)
    np.testing.assert_allclose(found, z + np.sqrt(1 + z**2), rtol=1e-12)
    found = analysis.principal_root(steppers.get("reversible"), z)  # exp(2 asinh(z / 2)), not its inverse
    np.testing.assert_allclose(found, np.exp(2 * np.arcsinh(z / 2)), rtol=1e-7)


def test_picture_of_rates():
    schemes = analysis.schemes(["euler", "leapfrog"])
    decay, frequency, growth = analysis.draw_rates(schemes).axes
    x, y = decay.get_lines()[0].get_xydata()[:-1].T
    np.testing.assert_allclose(y, -np.log(1 - x) / x, rtol=1e-9)
    np.testing.assert_allclose(decay.get_lines()[1].get_ydata()[:-1], 1 + x / 2, rtol=1e-7)  # the leading term
    x, y = growth.get_lines()[0].get_xydata().T
    np.testing.assert_allclose(y, np.log(1 + x**2) / 2 / x, rtol=1e-9)
    np.testing.assert_allclose(growth.get_lines()[2].get_ydata()[:-1], 0, atol=1e-9)
    x, y = frequency.get_lines()[2].get_xydata()[:-1].T
    np.testing.assert_allclose(y, np.arcsin(x) / x, rtol=1e-6)
    assert all(len(axes.get_lines()) == 5 for axes in (decay, frequency, growth))


def test_picture_of_friction_and_mass(tmp_path):
    k = [np.array([[-0.5, 0.2], [-1.5, 0.1]]), np.array([[-0.3, 0.0], [-1.1, 0.3]])]
    runs = [
        analysis.read_learned(write_run(tmp_path / str(i), "lm", [{"stage1": a.tolist(), "stage2": b.tolist()}]))[0]
        for i, (a, b) in enumerate(k)
    ]
    upper, lower = analysis.draw_friction_and_mass(runs).axes
    lines = [line.get_ydata() for line in upper.get_lines()[:2]]  # a line a stage
    expected = (k[0] + k[1]) / 2
    np.testing.assert_allclose(np.array(lines), 1 + expected)
    np.testing.assert_allclose(np.array([line.get_ydata() for line in lower.get_lines()[:2]]), (1 - expected) / 2)
    (negative,), (large,) = upper.patches, lower.patches  # of k = -1.5 and -1.1
    assert (negative.get_y(), negative.get_y() + negative.get_height()) == pytest.approx((upper.get_ylim()[0], 0))
    assert (large.get_y(), large.get_y() + large.get_height()) == pytest.approx((1, lower.get_ylim()[1]))


def test_command(capsys, tmp_path):
    assert main(["modified-equation", "rk4", "lm", "--k", "-0.5", "--out", str(tmp_path / "rates.svg")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^rk4 +4 +1 +0 +0 +0 +-0\.00833333$", printed, re.MULTILINE)
    assert re.search(r"^lm, k = -0\.5 +1 +1 +-1\.5 +4\.33333", printed, re.MULTILINE)
    assert (tmp_path / "rates.svg").read_text().startswith("<?xml")


def test_command_on_a_run(capsys, tmp_path):
    run = write_run(tmp_path / "run", "lm", [{"stage1": [0.0], "stage2": [-0.2]}, {"stage1": [0.25], "stage2": [-1.5]}])
    assert main(["modified-equation", "--run", str(run), "--out", str(tmp_path / "run.png")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^run, stage1, 1 +0\.2500 +1\.2500 +0\.3750 +0\.8000$", printed, re.MULTILINE)
    assert re.search(r"^run, stage2, 1 +-1\.5000 +-0\.5000 +1\.2500 +-2\.0000$", printed, re.MULTILINE)
    assert (tmp_path / "run.png").exists()


def test_order_beyond_the_series():
    assert analysis.rate_order([1.0, 0.0, 1e-12]) == 3
