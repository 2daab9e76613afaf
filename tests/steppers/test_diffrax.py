"""Our one-step schemes against diffrax's, an independent implementation."""

import numpy as np
import pytest

from lmjax import odeint, steppers
from tests.steppers.schemes import START, autonomous, pendulum

diffrax = pytest.importorskip("diffrax")


class RK4(diffrax.Midpoint):
    """Its parent's machinery with our tableau: diffrax has no classical Runge-Kutta method."""

    tableau = diffrax.ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        a_lower=(np.array([1 / 2]), np.array([0, 1 / 2]), np.array([0, 0, 1.0])),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "solver"),
    [("euler", diffrax.Euler()), ("heun", diffrax.Heun()), ("midpoint", diffrax.Midpoint()), ("rk4", RK4())],
)
def test_same_numbers_as_diffrax(name, solver):
    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, u, args: pendulum(u)), solver, t0=0.0, t1=2.0, dt0=None, y0=START,
        stepsize_controller=diffrax.StepTo(np.linspace(0, 2, 21)),
    )  # fmt: skip
    ours = odeint(steppers.get(name), autonomous(pendulum), START, t1=2.0, steps=20)
    np.testing.assert_allclose(ours, theirs.ys[-1], rtol=1e-13)
