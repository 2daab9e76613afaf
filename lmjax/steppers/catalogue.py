"""Steppers by name: what `--model.stepper` chooses from."""

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable

from lmjax.errors import InputError, unknown
from lmjax.steppers.base import Stepper
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
)
from lmjax.steppers.one_step import backward_euler, euler, fractal, poly, way
from lmjax.steppers.runge_kutta import heun, midpoint, rk4
from lmjax.steppers.stochastic import noise, scaled, shake_shake, stochastic_depth

_catalogue: dict[str, Callable[..., Stepper]] = {
    "euler": euler,
    "lm": lm,
    "dense": dense,
    "leapfrog": leapfrog,
    "verlet": verlet,
    "momentum": momentum,
    "adams_bashforth": adams_bashforth,
    "learned_multistep": learned_multistep,
    "linear_multistep": linear_multistep,
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
    "poly": poly,
    "way": way,
    "backward_euler": backward_euler,
    "reversible": reversible,
    "hamiltonian": hamiltonian,
    "fractal": fractal,
}
# They take a stepper first, and make another one of it.
_wrappers: dict[str, Callable[..., Stepper]] = {
    "scaled": scaled,
    "stochastic_depth": stochastic_depth,
    "shake_shake": shake_shake,
    "noise": noise,
}
_OURS = frozenset(_catalogue) | frozenset(_wrappers)


def names() -> tuple[str, ...]:
    """The names that are a stepper by themselves, without arguments, in the order they were added."""
    return tuple(
        name
        for name, make in _catalogue.items()
        if all(p.default is not p.empty for p in inspect.signature(make).parameters.values())
    )


def wrappers() -> tuple[str, ...]:
    """The names of the wrappers, which `get` knows, too: they take a stepper, as in "noise(lm, 0.01)"."""
    return tuple(_wrappers)


def get(name: str) -> Stepper:
    """The stepper of a name or a call: "lm", "lm(-0.5, -0.5)", "poly(3)", "stochastic_depth(lm, survival=0.8)".

    In a call the arguments are numbers, strings, True, False, None, tuples of them, or steppers; nothing is
    evaluated. `-` and `_` are the same within a name.

    Raises:
        InputError: if there is none, with the nearest names; if it is no name or call; or if the arguments are not
            those of the stepper.
    """
    try:
        expression = ast.parse(normalise(name).strip(), mode="eval").body
    except _NO_EXPRESSION:
        raise _unreadable(name) from None
    if not isinstance(expression, (ast.Name, ast.Call)):
        raise _unreadable(name)
    return _value(expression, name)


def normalise(name: str) -> str:
    """The one way to write a name or a call: `adams-bashforth( 3 )` is `adams_bashforth(3)`."""
    name = re.sub(r"(?<=[A-Za-z0-9])-(?=[A-Za-z])", "_", name)  # a minus before a number stays
    try:
        return ast.unparse(ast.parse(name.strip(), mode="eval"))
    except _NO_EXPRESSION:
        return name


# What `ast` raises for text that is no expression, or one too long or too deeply nested for it.
_NO_EXPRESSION = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


def _unreadable(name):
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    return InputError(f"stepper {shown!r}: give a name such as lm, or a call such as lm(-0.5, -0.5)")


def _value(expression: ast.expr, whole: str):
    """What an argument or the whole expression stands for."""
    if isinstance(expression, ast.Name):
        return _make(expression.id, [], {}, whole)
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
        arguments = [_value(argument, whole) for argument in expression.args]
        options = {keyword.arg: _value(keyword.value, whole) for keyword in expression.keywords}
        if len(options) < len(expression.keywords) or None in options:
            raise InputError(f"stepper {whole!r}: give each argument once, by its name")
        return _make(expression.func.id, arguments, options, whole)
    try:
        return ast.literal_eval(expression)
    except _NO_EXPRESSION:
        raise _unreadable(whole) from None


def _make(name, arguments, options, whole):
    factory = _catalogue.get(name) or _wrappers.get(name)
    if factory is None:
        raise unknown("stepper", name, (*_catalogue, *_wrappers))
    signature = inspect.signature(factory)
    try:
        bound = signature.bind(*arguments, **options)
    except TypeError as error:
        bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        takes = inspect.Signature(bare)
        raise InputError(f"stepper {whole!r}: {error}; {name} takes {takes}") from None
    hints = typing.get_type_hints(factory)
    for key, value in bound.arguments.items():
        if key in hints and not _fits(value, hints[key]):
            must = getattr(hints[key], "__name__", str(hints[key]))
            raise InputError(f"stepper {whole!r}: {key} of {name} must be {_KINDS.get(must, must)}, got {value!r}")
    try:
        return factory(*arguments, **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # a string for a number, say
        raise InputError(f"stepper {whole!r}: {name}: {error}") from None


_KINDS = {"float": "a finite number", "int": "a whole number", "bool": "True or False", "Stepper": "a stepper"}


def _fits(value, hint) -> bool:
    """Whether a value is of an annotated type; what the annotation leaves open, the stepper itself decides."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:  # more than 32 bits would count for ever
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    return isinstance(value, hint) if hint in (bool, str, Stepper, type(None)) else True


def register(name: str, make: Callable[..., Stepper]) -> None:
    """Adds a stepper of your own to the names that configs and `--model.stepper` accept, or replaces it.

    Args:
        name: its name.
        make: makes it, called with the arguments that the name is given, by default none; should return the same
            object each time (decorate it with `functools.cache`).

    Raises:
        InputError: if it is the name of a stepper of lmjax, or none that Python would accept.
    """
    key = normalise(name)
    if not key.isidentifier():
        raise InputError(f"register: {name!r} is no name: use letters, digits and _")
    if key in _OURS:
        raise InputError(f"lmjax has a stepper named {name!r}: choose another name")
    _catalogue[key] = make
