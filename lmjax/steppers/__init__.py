"""Schemes that advance a state by one step, in pure JAX: see `Stepper` for the contract.

steppers.lm().step((f,), u, previous, k)      # one LM step, in any model of your own
lmjax.odeint(steppers.rk4(), F, u0, t1=1.0, steps=100)
"""

from lmjax.steppers.base import Branch, State, Stepper, combine
from lmjax.steppers.catalogue import get, names, register
from lmjax.steppers.coupled import reversible
from lmjax.steppers.multistep import adams_bashforth, leapfrog, linear_multistep, lm
from lmjax.steppers.one_step import backward_euler, euler, fractal, poly
from lmjax.steppers.runge_kutta import Tableau, heun, midpoint, rk4, runge_kutta

__all__ = [
    "Branch",
    "State",
    "Stepper",
    "Tableau",
    "adams_bashforth",
    "backward_euler",
    "combine",
    "euler",
    "fractal",
    "get",
    "heun",
    "leapfrog",
    "linear_multistep",
    "lm",
    "midpoint",
    "names",
    "poly",
    "register",
    "reversible",
    "rk4",
    "runge_kutta",
]
