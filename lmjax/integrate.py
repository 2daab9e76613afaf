"""Steppers as the numerical methods they claim to be."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lmjax import steppers
from lmjax.errors import InputError
from lmjax.promotion import lenient
from lmjax.steppers import State, StepInfo, Stepper, rk4

Field = Callable[[State], State]

_RK4 = rk4()


def odeint(
    stepper: Stepper | str,
    field: Field | Sequence[Field],
    u0: State,
    *,
    t1: float | jax.Array,
    steps: int,
    coef: Any = None,
    start: Stepper | str | None = _RK4,
) -> State:
    """Integrate u' = F(u) from t = 0 to t1 with a fixed step h = t1 / steps.

    The branches are f = c h F, with c the damping of the scheme, so that every scheme integrates the same equation:
    `lm` with coefficient k, which by itself integrates (1 + k) u' = F, is given (1 + k) h F. Each call starts a
    multistep scheme anew: call it once for the whole time, not once a piece, or the start is what you get.

    Args:
        stepper: the scheme, or its name as in "lm(-0.5, -0.5)".
        field: F, from a state to its time derivative, of the same structure, shapes and dtypes. A coupled scheme
            takes a tuple of fields, one a branch: (F, G) for `reversible` on x' = F(y), y' = G(x).
        u0: the state at t = 0, any pytree of floating-point or complex arrays.
        t1: the end time; negative integrates backwards.
        steps: how many steps to take, at least 1.
        coef: the scheme's coefficients, the same at every step; needed where the scheme has trainable ones.
        start: the one-step method that makes the first values of a multistep scheme, by default `rk4`. With None it
            starts at rest instead, as a network does at the start of a stage, and is of order 1.

    Returns:
        The state at t1, with the structure, shapes and dtypes of u0.

    Raises:
        InputError: if steps is not a whole number from 1, if coefficients are missing or given to a scheme that has
            none, if the fields or the start do not fit the scheme, or the value of a field does not fit the state,
            or t1 is complex and the state is not.
    """
    stepper, start = _scheme(stepper), None if start is None else _scheme(start)
    steps = _require_fitting(stepper, steps, coef, start)
    fields, damping = _fields(stepper, field), stepper.known.damping(coef)
    if not isinstance(damping, jax.core.Tracer) and np.any(np.asarray(damping) == 0):
        raise InputError(f"odeint: {stepper.name} integrates u'' = F(u), not u' = F(u)")
    h = t1 / steps
    fs = tuple(_increment(F, h * damping) for F in fields)
    u = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), u0)
    history, startup = stepper.init(u), 0

    def step(carry, n):
        # Without a key: odeint is deterministic.
        return stepper.step(fs, *carry, coef, StepInfo(None, n, steps)), None

    if start is not None and stepper.known.steps_back:
        startup = min(stepper.known.steps_back, steps)
        for n in range(startup):
            # The history after a step does not depend on where the step arrives, so it comes from the scheme itself.
            (_, history), _ = step((u, history), n)
            u, _ = start.step((_increment(fields[0], h),) * start.evaluations, u, (), None)
    (u, _), _ = lax.scan(step, (u, history), jnp.arange(startup, steps))
    return u


def _scheme(scheme: Stepper | str) -> Stepper:
    if isinstance(scheme, str):
        return steppers.get(scheme)
    if not isinstance(scheme, Stepper):
        raise InputError(f"odeint: a scheme must be a Stepper, such as steppers.rk4(), got {scheme!r}")
    return scheme


def _require_fitting(stepper: Stepper, steps: int, coef: Any, start: Stepper | None) -> int:
    """Check what the scheme is given; returns the number of steps."""
    if isinstance(steps, bool | np.bool_) or not hasattr(steps, "__index__") or operator.index(steps) < 1:
        raise InputError(f"odeint: steps must be a whole number, at least 1, got {steps!r}")
    if stepper.coef is not None and coef is None:
        raise InputError(f"odeint: {stepper.name} has coefficients to choose: give coef, e.g. coef=-0.1 for lm")
    if stepper.coef is None and coef is not None:
        raise InputError(f"odeint: {stepper.name} has no coefficients, got coef={coef!r}")
    if start is not None and (start.known.steps_back != 0 or start.parts > 1 or start.coef is not None):
        raise InputError(
            f"odeint: start must be a one-step scheme for one field, without coefficients; got {start.name}"
        )
    return operator.index(steps)


def _fields(stepper: Stepper, field: Field | Sequence[Field]) -> tuple[Field, ...]:
    """The field of each branch."""
    if callable(field):
        if stepper.parts == 1:
            return (field,) * stepper.evaluations
        raise InputError(f"odeint: {stepper.name} takes a tuple of {stepper.evaluations} fields, one a branch, got one")
    if len(field) != stepper.evaluations:
        raise InputError(f"odeint: {stepper.name} takes {stepper.evaluations} fields, one a branch, got {len(field)}")
    return tuple(field)


def _increment(field: Field, h: Any) -> Field:
    """The branch u -> h F(u), in the dtypes of u."""

    def increment(u):
        du = field(u)
        _require_derivative(u, du)
        with lenient():
            return jax.tree.map(lambda x, dx: _scaled(h, dx, jnp.result_type(x)), u, du)

    return increment


def _scaled(h: Any, dx: Any, dtype: Any) -> jax.Array:
    """h dx of this dtype, which must not lose an imaginary part of h."""
    if jnp.iscomplexobj(h) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise InputError(f"odeint: t1 or coef is complex, and the state is {jnp.dtype(dtype)}: make the state complex")
    return jnp.asarray(h * dx, dtype)


def _require_derivative(u: State, du: State) -> None:
    """Raise InputError unless the value of a field has the tree structure, the shapes and the dtypes of the state.

    A weakly typed value, such as a Python number, matches any floating-point dtype.
    """
    if jax.tree.structure(u) != jax.tree.structure(du):
        raise InputError(f"odeint: the field of a state {jax.tree.structure(u)} gives {jax.tree.structure(du)}")
    for (path, x), dx in zip(jax.tree_util.tree_leaves_with_path(u), jax.tree.leaves(du), strict=True):
        theirs, ours = jax.typeof(dx), jax.typeof(x)
        dtype = jnp.promote_types(ours.dtype, theirs.dtype) if theirs.weak_type else theirs.dtype
        if jnp.issubdtype(ours.dtype, jnp.inexact) and (theirs.shape, dtype) != (ours.shape, ours.dtype):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise InputError(
                f"odeint: the state{where} is {ours.str_short()}, and the field gives {theirs.str_short()}: make them "
                "equal"
            )
