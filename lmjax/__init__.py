"""lmjax: residual networks are numerical ODE solvers, in JAX.

The pieces, from the inside out: `lmjax.steppers` (schemes that advance a state by one step, pure JAX), `lmjax.odeint`
(the schemes as ODE solvers), `lmjax.networks` (networks made of steppers, Flax NNX), `lmjax.data`, `lmjax.training`.
"""

import importlib
from typing import TYPE_CHECKING

from lmjax import steppers
from lmjax.errors import InputError
from lmjax.integrate import odeint

if TYPE_CHECKING:
    from lmjax.training.trained_network import load

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "__version__",
    "config",
    "data",
    "load",
    "networks",
    "odeint",
    "optimizers",
    "recipes",
    "schedules",
    "steppers",
    "training",
    "weights",
]

_LATER = ("config", "data", "networks", "optimizers", "recipes", "schedules", "training", "weights")


def __getattr__(name: str):
    # Flax, optax and Orbax take seconds to import; whoever only wants a stepper need not wait for them.
    if name in _LATER:
        return importlib.import_module(f"lmjax.{name}")
    if name == "load":
        return importlib.import_module("lmjax.training.trained_network").load
    raise AttributeError(f"module 'lmjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
