"""Schemes that advance a state by one step, in pure JAX: see `Stepper` for the contract.

steppers.lm().step((f,), u, previous, k)      # one LM step, in any model of your own
lmjax.odeint(steppers.rk4(), F, u0, t1=1.0, steps=100)     # u' = F(t, u)
"""

from lmjax.steppers.base import Branch, Properties, State, StepInfo, Stepper, combine, register, registry
from lmjax.steppers.coupled import hamiltonian, reversible
from lmjax.steppers.multistep import (
    adams_bashforth,
    dense,
    leapfrog,
    learned_multistep,
    linear_multistep,
    lm,
    momentum,
    verlet,
    zero_stability,
)
from lmjax.steppers.one_step import backward_euler, euler, fractal, over_stage, poly, way
from lmjax.steppers.runge_kutta import Tableau, heun, midpoint, rk4, runge_kutta
from lmjax.steppers.stochastic import noise, scaled, shake_shake, stochastic_depth

get = registry.get
"""The stepper of a name or a call: see `lmjax.registry.Registry.get`."""
names = registry.plain
"""The names that are a stepper by themselves, without arguments."""
normalize = registry.normalize
"""The one way to write a name or a call."""

__all__ = [
    "Branch",
    "Properties",
    "State",
    "StepInfo",
    "Stepper",
    "Tableau",
    "adams_bashforth",
    "backward_euler",
    "combine",
    "dense",
    "euler",
    "fractal",
    "get",
    "hamiltonian",
    "heun",
    "leapfrog",
    "learned_multistep",
    "linear_multistep",
    "lm",
    "midpoint",
    "momentum",
    "names",
    "noise",
    "normalize",
    "over_stage",
    "poly",
    "register",
    "registry",
    "reversible",
    "rk4",
    "runge_kutta",
    "scaled",
    "shake_shake",
    "stochastic_depth",
    "verlet",
    "way",
    "zero_stability",
]
