"""Stability functions, roots and regions against their closed forms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import InputError, analysis, steppers
from lmjax.analysis import stability
from lmjax.steppers import StepInfo, Stepper
from tests.analysis import main
from tests.analysis.handmade import write_run

Z = np.array([[0.0, 0.3, -0.7], [0.2j, -0.4 + 0.5j, -0.1 - 0.6j]])
TAYLOR = np.array([1, 1, 1 / 2, 1 / 6, 1 / 24])


def polynomial(*c):
    return lambda z: np.polynomial.polynomial.polyval(z, c)


@pytest.mark.versions
@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("euler", polynomial(1, 1)),
        ("heun", polynomial(*TAYLOR[:3])),
        ("rk4", polynomial(*TAYLOR)),
        ("poly(3)", polynomial(1, 1, 1, 1)),
        ("backward_euler(300, 1e-14)", lambda z: 1 / (1 - z)),
        ("fractal", polynomial(1, 1, 1 / 8)),  # Chebyshev's T_2(1 + z / 4): the first-order scheme that reaches to -8
        ("way(3)", polynomial(1, 1)),
        ("shake_shake(euler)", polynomial(1, 1)),
        ("noise(stochastic_depth(rk4, 0.5))", polynomial(*TAYLOR)),
    ],
)
def test_stability_function(call, function):
    found = analysis.amplification_matrix(steppers.get(call), Z)
    assert found.shape == (2, 3, 1, 1)
    assert found.dtype == np.complex128
    np.testing.assert_allclose(found[..., 0, 0], function(Z), rtol=1e-12)


def same_roots(found, polynomials):
    """Whether the roots, found in any order, are those of the polynomials, highest power first."""
    assert found.shape[-1] == len(polynomials) - 1
    coefficients = np.broadcast_arrays(*polynomials, found[..., 0])[:-1]
    for index in np.ndindex(found.shape[:-1]):
        np.testing.assert_allclose(np.poly(found[index]), [c[index] for c in coefficients], atol=1e-12)


K = np.array([-0.02, -0.05, -0.03])


@pytest.mark.parametrize(
    ("call", "k", "options", "polynomials"),
    [
        *(("lm", k, {}, (1, -(1 - k) - (1 + k) * Z, -k)) for k in (-1.3, -0.5, 0.0, 1.0)),
        ("noise(lm)", -0.5, {}, (1, -1.5 - 0.5 * Z, 0.5)),
        ("lm(per_channel=True)", np.array([-0.5]), {}, (1, -1.5 - 0.5 * Z, 0.5)),
        ("lm", 0.4, {"damped": False}, (1, -0.6 - Z, -0.4)),
        ("dense(3)", K, {"damped": False}, (1, -K[0] / K.sum() - Z, -K[1] / K.sum(), -K[2] / K.sum())),
        ("leapfrog", None, {}, (1, -2 * Z, -1)),
        ("adams_bashforth(2)", None, {}, (1, -1 - 1.5 * Z, 0.5 * Z)),
        ("verlet", None, {}, (1, -2 - Z**2, 1)),  # u'' = lambda^2 u
        ("reversible", None, {}, (1, -2 - Z**2, 1)),  # x' = lambda y, y' = lambda x
        ("shake_shake(hamiltonian)", None, {}, (1, -2 - Z**2, 1)),
    ],
)
def test_roots(call, k, options, polynomials):
    same_roots(analysis.roots(steppers.get(call), Z, k, **options), polynomials)


def test_a_step_may_depend_on_its_place():
    scheme = steppers.scaled(steppers.euler(), 1.0, 0.0)
    found = [analysis.roots(scheme, 0.5, info=StepInfo(None, n, 3)).item() for n in range(3)]
    np.testing.assert_allclose(found, [1.5, 1.25, 1.0])
    assert analysis.roots(scheme, 0.5) == pytest.approx(1.5)


def test_more_points_than_are_done_at_once():
    z = np.linspace(-3, 0, 2500)
    np.testing.assert_allclose(analysis.roots(steppers.euler(), z)[:, 0], 1 + z, rtol=1e-14)
    assert analysis.roots(steppers.leapfrog(), z[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "real", "imaginary"),
    [
        ("euler", 2, 0),
        ("heun", 2, 0),
        ("rk4", 2.7852935634, 2 * np.sqrt(2)),
        ("leapfrog", 0, 1),
        ("adams_bashforth(2)", 1, 0),
        ("adams_bashforth(4)", 3 / 10, 0.4299870),
        ("verlet", 0, 2),
        ("reversible", 0, 2),
        ("fractal", 8, 0),
        ("momentum(0.5)", 6, 0),
        ("linear_multistep((-4, 5), (4, 2))", 0, 0),
    ],
)
def test_intervals(call, real, imaginary):
    found = analysis.linear_stability(steppers.get(call))
    assert (found.real, found.imaginary) == pytest.approx((real, imaginary), abs=1e-6)


def test_an_implicit_scheme_is_stable_everywhere():
    trapezoidal = Stepper(
        "trapezoidal",
        lambda fs, u, m, c: ((1 + fs[0](jnp.ones_like(u)) / 2) / (1 - fs[0](jnp.ones_like(u)) / 2) * u, m),
    )
    found = analysis.linear_stability(trapezoidal)
    assert (found.real, found.imaginary, found.parasitic, found.zero_stable) == (np.inf, np.inf, 0, True)


def test_an_iteration_that_overflows_is_unstable():
    stepper = steppers.backward_euler(300)
    assert not np.isfinite(analysis.amplification_matrix(stepper, -50.0)).all()
    assert np.isinf(analysis.spectral_radius(stepper, [-50.0, 50j])).all()
    np.testing.assert_array_equal(analysis.is_stable(stepper, [-50.0, -0.9]), [False, True])
    assert len(analysis.draw_regions(analysis.schemes(["backward_euler(300)", "fractal"])).axes) == 2


@pytest.mark.parametrize("k", [-0.8, 0.0, 0.5])
def test_region_of_lm_is_an_ellipse(k):
    """|zeta| = 1 where z = a (cos t - 1) + i sin t with a = (1 - k) / (1 + k)."""
    a, t = (1 - k) / (1 + k), np.linspace(0, 2 * np.pi, 60, endpoint=False) + 0.01
    inside, outside = (-a + r * (a * np.cos(t) + 1j * np.sin(t)) for r in (0.999, 1.001))
    assert analysis.is_stable(steppers.lm(), inside, k).all()
    assert not analysis.is_stable(steppers.lm(), outside, k).any()
    found = analysis.linear_stability(steppers.lm(), k)
    assert (found.real, found.imaginary) == pytest.approx((2 * a, 0), abs=1e-7)
    of_branch = analysis.linear_stability(steppers.lm(), k, damped=False)
    assert of_branch.real == pytest.approx(2 * (1 - k), abs=1e-7)


def test_roots_on_the_circle_must_be_simple():
    leapfrog, verlet, coupled = map(steppers.get, ("leapfrog", "verlet", "reversible"))
    assert analysis.is_stable(leapfrog, [0.0, 0.999999j]).all()
    assert not analysis.is_stable(leapfrog, 1j)
    assert not analysis.is_stable(verlet, 0.0)  # of u'' = 0 the solutions grow linearly
    assert analysis.is_stable(coupled, 0.0)  # two roots, and two solutions that stay


@pytest.mark.parametrize(
    ("call", "coef", "parasitic", "stable"),
    [
        ("lm", -0.7, 0.7, True),
        ("lm", 1.0, 1, True),
        ("lm", 1.2, 1.2, False),
        ("verlet", None, 0, True),
        ("adams_bashforth(4)", None, 0, True),
        ("linear_multistep((-4, 5), (4, 2))", None, 5, False),
        ("linear_multistep((1, -1, 1), (1,))", None, 1, True),  # roots 1, i, -i
        ("linear_multistep((1, -2, 2, -1, 1), (1,))", None, 1, False),  # 1, and i and -i twice
        ("learned_multistep(2)", (np.array([0.6, 0.5]), np.ones(2)), 0.4681146, True),  # the other root is above 1
    ],
)
def test_zero_stability(call, coef, parasitic, stable):
    stepper = steppers.get(call)
    assert analysis.is_zero_stable(stepper, coef) == stable
    assert np.abs(analysis.parasitic_roots(stepper, coef)).max(initial=0) == pytest.approx(parasitic, abs=1e-6)


@pytest.mark.parametrize(
    ("stepper", "coef", "match"),
    [
        (steppers.lm(), None, "lm has coefficients to choose: give coef"),
        (steppers.euler(), 0.1, "euler has no coefficients"),
        (Stepper("absolute", lambda fs, u, m, c: (jnp.abs(u) + fs[0](u), m)), None, "absolute: a step is not linear"),
        (Stepper("shifted", lambda fs, u, m, c: (u + fs[0](u) + 1, m)), None, "shifted: a step is not linear"),
        (Stepper("three", lambda fs, u, m, c: (u, m), evaluations=3, parts=2), None, "three: 3 branches for 2 parts"),
    ],
)
def test_what_is_no_matrix_is_an_error(stepper, coef, match):
    with pytest.raises(InputError, match=match):
        analysis.amplification_matrix(stepper, 0.1, coef)
    assert not jax.config.jax_enable_x64  # what it computes with stays within
    assert jnp.ones(1).dtype == jnp.float32


def test_spectral_radius():
    found = analysis.spectral_radius(steppers.rk4(), [[0.0, -1.0]])
    np.testing.assert_allclose(found, [[1, TAYLOR @ [1, -1, 1, -1, 1]]])


def test_picture_of_regions():
    figure = analysis.draw_regions(analysis.schemes(["euler", "rk4", "leapfrog", "lm(-1.5, -1.5)", "heun"]))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["euler", "rk4", "leapfrog", "lm, k = -1.5", "heun"]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in shown}) == 1
    lowest = [bool(axes.get_xlabel()) for axes in shown]
    assert lowest == [False, True, True, True, True]
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in shown] == lowest
    edges = [np.concatenate([p.vertices for c in axes.collections for p in c.get_paths()]) for axes in shown]
    for vertices, empty in zip(edges, (False, False, True, True, False), strict=True):
        assert (len(vertices) == 0) == empty
    x, y = edges[0].T
    np.testing.assert_allclose(np.hypot(x + 1, y), 1, atol=0.01)  # Euler's circle, and its fill
    np.testing.assert_allclose([x.min(), x.max()], [-2, 0], atol=0.01)  # all of it
    reach = [axes.get_lines()[-1].get_ydata()[1] for axes in shown]
    np.testing.assert_allclose(reach, [0, 2 * np.sqrt(2), 1, 0, 0], atol=1e-6)


def test_picture_of_a_run_has_an_edge_for_each_step(tmp_path, capsys):
    run = write_run(tmp_path / "run", "lm", [{"stage1": [-0.1, 0.3], "stage2": [-0.6, -1.7]}])
    (learned,) = analysis.read_learned(run)
    figure = analysis.draw_learned_regions(learned.schemes(), title="a run")
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles == ["stage1", "stage2 (1 not zero-stable)"]
    for axes, steps in zip(figure.axes, ([-0.1, 0.3], [-0.6]), strict=False):
        drawn = [c for c in axes.collections if sum(len(p.vertices) for p in c.get_paths())]
        for edge, k in zip(drawn, steps, strict=True):
            x, y = np.concatenate([p.vertices for p in edge.get_paths()]).T
            a = (1 - k) / (1 + k)
            np.testing.assert_allclose(np.hypot((x + a) / a, y), 1, atol=0.02)
    assert main(["stability", "--run", str(run), "--out", str(tmp_path / "regions.png")]) == 0
    printed = capsys.readouterr().out
    assert "1 of 4 learned steps are not zero-stable" in printed
    assert "stage2, step 2, k = -1.7" in printed
    assert (tmp_path / "regions.png").read_bytes().startswith(b"\x89PNG")


def test_command_prints_what_it_finds(capsys):
    assert main(["stability", "rk4", "lm", "--k", "-0.5", "--z", "branch"]) == 0
    printed = capsys.readouterr().out
    assert "the slope of the branch" in printed
    assert re.search(r"^rk4 +-2\.78529 +±2\.82843 +1 +0 +yes$", printed, re.MULTILINE)
    assert re.search(r"^lm, k = -0\.5 +-3 +±0 +1 +0\.5 +yes$", printed, re.MULTILINE)
    assert stability.linear_stability(steppers.lm(), -0.5, damped=False).real == pytest.approx(3, abs=1e-7)


def test_a_principal_root_other_than_1_is_said():
    coef = (np.array([1.04, 0.001, 0.001]), np.array([1.0, 0.0, 0.0]))
    found = stability.linear_stability(steppers.learned_multistep(3), coef)
    assert found.principal == pytest.approx(np.abs(np.roots([1, -1.04, -0.001, -0.001])).max())
    assert (found.real, found.imaginary) == (0, 0)
