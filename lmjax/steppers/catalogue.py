"""Steppers by name: what `--model.stepper` chooses from."""

from collections.abc import Callable

from lmjax.errors import InputError, unknown
from lmjax.steppers.base import Stepper
from lmjax.steppers.coupled import reversible
from lmjax.steppers.multistep import adams_bashforth, leapfrog, linear_multistep, lm
from lmjax.steppers.one_step import backward_euler, euler, fractal, poly
from lmjax.steppers.runge_kutta import heun, midpoint, rk4

_catalogue: dict[str, Callable[[], Stepper]] = {
    "euler": euler,
    "lm": lm,
    "lm_per_channel": lambda: lm(per_channel=True),
    "leapfrog": leapfrog,
    "adams_bashforth2": lambda: adams_bashforth(2),
    "adams_bashforth3": lambda: adams_bashforth(3),
    # Three trainable weights on the states and three on the increments, starting from Euler.
    "linear_multistep3": lambda: linear_multistep((1, 0, 0), (1, 0, 0), trainable=True),
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
    "poly2": lambda: poly(2),
    "poly3": lambda: poly(3),
    "backward_euler": backward_euler,
    "backward_euler_implicit": lambda: backward_euler(iterations=20, tolerance=1e-3),
    "reversible": reversible,
    "fractal2": lambda: fractal(2),
    "fractal3": lambda: fractal(3),
}
_OURS = frozenset(_catalogue)


def names() -> tuple[str, ...]:
    """The names that `get` knows, in the order they were added."""
    return tuple(_catalogue)


def get(name: str) -> Stepper:
    """The stepper of that name; `-` and `_` are the same in it.

    Raises:
        InputError: if there is none, with the nearest names.
    """
    make = _catalogue.get(name.replace("-", "_"))
    if make is None:
        raise unknown("stepper", name, names())
    return make()


def register(name: str, make: Callable[[], Stepper]) -> None:
    """Adds a stepper of your own to the names that configs and `--model.stepper` accept, or replaces it.

    Args:
        name: its name.
        make: called without arguments; should return the same object each time (decorate it with `functools.cache`).

    Raises:
        InputError: if it is the name of a stepper of lmjax.
    """
    key = name.replace("-", "_")
    if key in _OURS:
        raise InputError(f"lmjax has a stepper named {name!r}: choose another name")
    _catalogue[key] = make
