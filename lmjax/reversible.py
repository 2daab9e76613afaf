"""Training in activation memory that does not grow with depth: the states are rebuilt from the last one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lmjax.errors import InputError
from lmjax.steppers import State, StepInfo, Stepper

Memory = Literal["stored", "remat", "reversible"]
Variables = Any  # of one step: a pytree of arrays


def reversible_scan(
    stepper: Stepper,
    branches: Sequence[Callable[[Variables, Any, State], tuple[State, Any]]],
    state: tuple[State, Any],
    variables: Variables,
    inputs: Any = (),
    *,
    coef: Callable[[Variables], Any] = lambda variables: None,
    info: Callable[[Any], StepInfo | None] = lambda inputs: None,
    unroll: bool | int = 1,
) -> tuple[tuple[State, Any], Any]:
    """Steps of an invertible scheme, of which the backward pass needs nothing stored but the last state.

    It goes back step by step (Gomez et al. 2017): `stepper.inverse` rebuilds the state before, and the pullbacks of
    the branches are taken at the evaluations that the inverse makes anyway. A step costs one more forward evaluation
    of its branches than when everything is stored, whatever the scheme. The rebuilt states differ from the stored
    ones by rounding, which the inverse may amplify: see the scheme. Nothing checks that an inverse of your own is one;
    with a wrong one the gradient is wrong.

    Reverse mode only. A branch, and `coef`, may close over arrays, too: what all steps share. Their gradients are sums
    over the steps, in the memory of one.

    Args:
        stepper: a scheme with an `inverse` that evaluates every branch once.
        branches: one an evaluation, `branch(variables, inputs, u) -> (increment, output)`: pure, and the same both
            times. Outputs, such as running statistics, are those of the forward pass, and carry no gradient.
        state: (u, history) before the first step.
        variables: what to differentiate by, with a leading axis, the step.
        inputs: what else a step needs, with the same leading axis, e.g. its number; not differentiated.
        coef: the coefficients of a step, from its variables.
        info: the `StepInfo` of a step, from its inputs.
        unroll: see `jax.lax.scan`.

    Returns:
        (u, history) after the last step, and a tuple of the branches' outputs, with a leading axis.

    Raises:
        InputError: if the scheme has no inverse, or one that evaluates a branch another number of times than once.
    """
    if stepper.inverse is None:
        raise InputError(
            f"{stepper.name} cannot be undone, so that its states must be stored (or recomputed): "
            "choose memory stored or remat, or a scheme with an inverse, such as reversible, leapfrog or momentum"
        )
    opened, coefficients, shared = _open(stepper, branches, coef, info, state, variables, inputs)
    return _scan((stepper, opened, coefficients, info, unroll), state, variables, inputs, shared)


def _open(stepper, branches, coef, info, state, variables, inputs):
    """(branches, coef, shared): what they close over becomes one more argument of each, and is a list of `shared`."""
    opened: dict[int, Callable[..., Any]] = {}
    shared: dict[int, list] = {}
    n = len(branches)

    def convert(i, function, *arguments):
        converted, shared[i] = jax.closure_convert(function, *arguments)
        opened[i] = lambda *x: converted(*x[:-1], *x[-1])
        return converted(*arguments, *shared[i])

    def one(state, step):
        variables, inputs = jax.tree.map(lambda x: x[0], step)
        fs = tuple(lambda u, i=i: convert(i, branches[i], variables, inputs, u)[0] for i in range(n))
        return stepper.step(fs, *state, convert(n, coef, variables), info(inputs))

    jax.eval_shape(one, state, (variables, inputs))
    return tuple(opened[i] for i in range(n)), opened[n], [shared[i] for i in range(n + 1)]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(program, state, variables, inputs, shared):
    stepper, branches, coef, info, unroll = program

    def one(state, step):
        variables, inputs = step
        outputs = [None] * len(branches)

        def branch(i):
            def f(u):
                increment, outputs[i] = branches[i](variables, inputs, u, shared[i])
                return increment

            return f

        fs = tuple(branch(i) for i in range(len(branches)))
        state = stepper.step(fs, *state, coef(variables, shared[-1]), info(inputs))
        return state, tuple(outputs)

    return lax.scan(one, state, (variables, inputs), unroll=unroll)


def _forward(program, state, variables, inputs, shared):
    state, outputs = _scan(program, state, variables, inputs, shared)
    return (state, outputs), (state, variables, inputs, shared)


def _backward(program, residuals, cotangents):
    stepper, branches, coef, info, unroll = program
    state, variables, inputs, shared = residuals

    def one(carry, step):
        (state, cotangent, total), (variables, inputs) = carry, step
        evaluations = {}

        def recorded(i):
            def f(u):
                if i in evaluations:
                    raise InputError(f"{stepper.name}: its inverse evaluates branch {i} more than once")
                increment, pullback = jax.vjp(lambda v, u, s: branches[i](v, inputs, u, s)[0], variables, u, shared[i])
                evaluations[i] = increment, pullback
                return increment

            return f

        indices = range(len(branches))
        before = stepper.inverse(tuple(map(recorded, indices)), *state, coef(variables, shared[-1]), info(inputs))
        if len(evaluations) != len(branches):
            raise InputError(f"{stepper.name}: its inverse does not evaluate every branch")

        def again(variables, state, shared):
            """The step once more, without evaluating anything: it is linear in what is known already."""

            def known(i):
                return lambda u: _known(*evaluations[i])(variables, u, shared[i])

            return stepper.step(tuple(map(known, indices)), *state, coef(variables, shared[-1]), info(inputs))

        _, pullback = jax.vjp(again, variables, before, shared)
        gradient, cotangent, more = pullback(cotangent)
        total = jax.tree.map(jnp.add, total, more)
        # Everything of this step before anything of the next: a scheduler that puts the gradients of the variables off
        # would keep the rebuilt states of all the steps until then.
        before, cotangent, total, gradient = lax.optimization_barrier((before, cotangent, total, gradient))
        return (before, cotangent, total), gradient

    carry = state, cotangents[0], jax.tree.map(jnp.zeros_like, shared)
    (_, cotangent, total), gradients = lax.scan(one, carry, (variables, inputs), reverse=True, unroll=unroll)
    return cotangent, gradients, None, total


_scan.defvjp(_forward, _backward)


def _known(value, pullback):
    """(variables, u, shared) -> value, whose gradient is the pullback."""

    @jax.custom_vjp
    def f(variables, u, shared):
        return value

    f.defvjp(lambda *_: (value, None), lambda _, cotangent: pullback(cotangent))
    return f
