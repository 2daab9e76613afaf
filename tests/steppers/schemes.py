"""The table of schemes that the tests go through, and the fields to try them on."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from lmjax import steppers
from lmjax.steppers import Stepper


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A scheme with the coefficients to try it with, and how many steps show its order (finer ones meet rounding)."""

    stepper: Stepper
    coef: Any = None
    order: int = 1
    steps: int = 400
    label: str = ""

    @property
    def id(self):
        return self.stepper.name + self.label


SCHEMES = [
    Scheme(steppers.euler()),
    Scheme(steppers.lm(), -0.05, label="[k=-0.05]"),
    Scheme(steppers.lm(), -0.7, label="[k=-0.7]"),
    Scheme(steppers.lm(), 0.6, label="[k=0.6]"),
    Scheme(steppers.lm(per_channel=True), np.array([-0.3, 0.4])),
    Scheme(steppers.leapfrog(), order=2, steps=200),
    Scheme(steppers.adams_bashforth(1)),
    Scheme(steppers.adams_bashforth(2), order=2, steps=200),
    Scheme(steppers.adams_bashforth(3), order=3, steps=200),
    Scheme(steppers.adams_bashforth(4), order=4, steps=100),
    # The best of the zero-stable three-step schemes with one increment (ZeroSNet 2022).
    Scheme(steppers.linear_multistep((1 / 3, 5 / 9, 1 / 9), (16 / 9,)), order=2, steps=200),
    Scheme(
        steppers.linear_multistep((1, 0, 0), (1, 0, 0), trainable=True, name="trainable"),
        (np.array([0.9, 0.2, -0.1]), np.array([0.8, 0.1, 0.3])),
    ),
    Scheme(steppers.midpoint(), order=2, steps=100),
    Scheme(steppers.heun(), order=2, steps=100),
    Scheme(steppers.rk4(), order=4, steps=40),
    Scheme(steppers.poly(2)),
    Scheme(steppers.poly(3)),
    Scheme(steppers.backward_euler()),
    Scheme(steppers.backward_euler(1), label="[1 iteration]"),
    Scheme(steppers.backward_euler(60, 1e-13)),
    Scheme(steppers.fractal(2)),
    Scheme(steppers.fractal(3)),
    Scheme(steppers.momentum(0.6)),
    Scheme(steppers.way(2)),
    Scheme(steppers.way(3)),
    Scheme(steppers.learned_multistep(2), (np.array([1.2, -0.2]), np.array([0.7, 0.4]))),
    Scheme(steppers.dense(3), np.array([0.9, 0.2, 0.4])),
]
REVERSIBLE = Scheme(steppers.reversible())
HAMILTONIAN = Scheme(steppers.hamiltonian())


def autonomous(field):
    """As `odeint` takes it."""
    return lambda t, u: field(u)


def linear(u):
    """A damped rotation in the plane."""
    return u @ jnp.array([[-0.3, -1.0], [1.0, -0.3]], u.dtype)


def pendulum(u):
    """q' = p, p' = -sin q - q p / 4."""
    q, p = u[..., 0], u[..., 1]
    return jnp.stack([p, -jnp.sin(q) - q * p / 4], -1)


START = np.array([0.9, 0.4])


def solution(field, t1):
    """The exact solution from START, by an independent integrator at its tightest tolerance."""
    found = solve_ivp(
        lambda t, u: np.asarray(field(jnp.asarray(u))), (0, t1), START, method="DOP853", rtol=1e-13, atol=1e-14
    )
    return found.y[:, -1]


WRAPPERS = ("scaled", "stochastic_depth", "shake_shake", "noise")
