"""Our one-step schemes against diffrax's, an independent implementation."""

import numpy as np
import pytest

from lmjax import odeint, steppers
from tests.steppers.schemes import START, autonomous, pendulum

diffrax = pytest.importorskip("diffrax")


RK4 = pytest.importorskip("benchmarks.solvers").RK4


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
