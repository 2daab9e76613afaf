"""Our one-step schemes against diffrax's, an independent implementation."""

import numpy as np
import pytest

from lmjax import odeint, steppers
from tests.steppers.schemes import START, pendulum

diffrax = pytest.importorskip("diffrax")
pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("stepper", "solver"),
    [
        (steppers.euler(), diffrax.Euler()),
        (steppers.heun(), diffrax.Heun()),
        (steppers.midpoint(), diffrax.Midpoint()),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_same_numbers_as_diffrax(stepper, solver):
    ours = odeint(stepper, pendulum, START, t1=2.0, steps=20)
    theirs = _solve(solver)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_rk4_against_diffrax():
    """diffrax has no classical Runge-Kutta method: it gets ours as a tableau, and its own machinery runs it."""
    tableau = diffrax.ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        a_lower=(np.array([1 / 2]), np.array([0, 1 / 2]), np.array([0, 0, 1.0])),
    )

    class RK4(diffrax.Midpoint):
        """Its parent's machinery with another tableau."""

    RK4.tableau = tableau
    ours = odeint(steppers.rk4(), pendulum, START, t1=2.0, steps=20)
    np.testing.assert_allclose(ours, _solve(RK4()), rtol=1e-13)


def _solve(solver):
    result = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, u, args: pendulum(u)), solver, t0=0.0, t1=2.0, dt0=None, y0=START,
        stepsize_controller=diffrax.StepTo(np.linspace(0, 2, 21)),
    )  # fmt: skip
    return result.ys[-1]
