"""The contract of a stepper, and the weighted sum that every scheme is made of."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.errors import InputError
from lmjax.registry import Registry

State = Any  # a pytree of floating-point (or complex) arrays
Branch = Callable[[State], State]


class StepInfo(NamedTuple):
    """Where in a network a step is, and what its random numbers follow from.

    Attributes:
        key: the step's own random key; None for a deterministic step, as in evaluation.
        index: the number of the step, from 0.
        count: how many steps there are.
    """

    key: jax.Array | None
    index: int | jax.Array
    count: int

    @property
    def depth(self) -> Any:
        """The time of the step, from 0 at the first to 1 at the last."""
        return self.index / max(self.count - 1, 1)

    def of(self, n: int | jax.Array) -> "StepInfo":
        """Of the n-th step after this one, with a key of its own that follows from this one's and its number."""
        index = self.index + n
        return StepInfo(None if self.key is None else jax.random.fold_in(self.key, index), index, self.count)

    def split(self) -> tuple[jax.Array | None, "StepInfo"]:
        """A key to use now, and the info to pass on, whose key is another one."""
        if self.key is None:
            return None, self
        own, rest = jax.random.split(self.key)
        return own, self._replace(key=rest)


def no_memory(u: State) -> tuple[()]:
    """The memory of a one-step method: nothing."""
    return ()


def no_damping(coef: Any) -> float:
    """The damping of a scheme that integrates u' = F as it stands."""
    return 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Stepper:
    """A scheme that advances a state by one step: a residual block seen as a method for u' = F(u).

    A branch `f` maps a state to its *increment*, f(u) = h F(u), as the residual branch of a network does. The step
    size therefore appears nowhere here, and one stepper serves a network block and an ODE solver alike. A step takes
    a *tuple* of branches, one for each evaluation; to share weights between evaluations, repeat the branch.

    A stepper is static: it holds functions and no arrays, is compared by identity, and is closed over by `jax.jit`,
    never passed through it. The functions that make steppers are cached, so the same call gives the same object and
    nothing is compiled twice.

    Attributes:
        name: what it is called in tables, configs and error messages.
        step: `step(fs, u, memory, coef) -> (u, memory)`, one step. The returned memory depends on `u` and on the
            branches, never on the state that the step arrives at.
        init: `init(u) -> memory`, the memory at the start. A multistep method begins at rest: all earlier states
            equal `u`, all earlier increments are zero.
        inverse: `inverse(fs, u, memory, coef) -> (u, memory)`, undoes `step` without solving anything; None where
            there is no such thing, or only in exact arithmetic.
        coef: `coef(key, channels) -> pytree`, the initial trainable coefficients of one step (float32); None if the
            scheme has none.
        damping: `damping(coef) -> c`. With increments f = h F the scheme integrates c u' = F.
        stages: how many branches one step evaluates.
        history: how many earlier states or increments the step remembers (0 for a one-step method).
        parts: into how many equal groups of channels a network splits the state (2 for coupled schemes, whose state
            is a pair).
        order: order of accuracy on u' = F(u).
        characteristic: `characteristic(coef) -> c`, the coefficients of the characteristic polynomial
            c[0] z^m + c[1] z^(m-1) + ... of a multistep scheme, by which its zero-stability is judged; None for a
            one-step scheme, which is always zero-stable, and where it is not judged.
        informed: `step` and `inverse` take a fifth argument, the `StepInfo`.
        random: what they do with it is to draw random numbers, so that training needs a key.
        starter: the one-step scheme for a single field that makes the first step of a stage; None for `euler`. A
            wrapper gives the wrapped `euler` here, so that what it does is done in every step.
        over: `over(steps) -> Stepper`, for a scheme whose memory spans a whole stage: the scheme for a stage of so
            many steps.
    """

    name: str
    step: Callable[[tuple[Branch, ...], State, Any, Any], tuple[State, Any]]
    init: Callable[[State], Any] = no_memory
    inverse: Callable[[tuple[Branch, ...], State, Any, Any], tuple[State, Any]] | None = None
    coef: Callable[[jax.Array, int], Any] | None = None
    damping: Callable[[Any], Any] = no_damping
    stages: int = 1
    history: int = 0
    parts: int = 1
    order: int = 1
    characteristic: Callable[[Any], jax.Array] | None = None
    informed: bool = False
    random: bool = False
    starter: "Stepper | None" = None
    over: "Callable[[int], Stepper] | None" = None

    def __post_init__(self):
        object.__setattr__(self, "step", self._with_its_branches(self.step))
        if self.inverse is not None:
            object.__setattr__(self, "inverse", self._with_its_branches(self.inverse))

    def _with_its_branches(self, function):
        @functools.wraps(function)
        def checked(fs, u, memory, coef, info=None):
            if not isinstance(fs, tuple) or len(fs) != self.stages:
                got = f"{len(fs)} of them" if isinstance(fs, tuple) else repr(fs)
                raise InputError(f"{self.name} takes a tuple of {self.stages} branches, one an evaluation; got {got}")
            if not self.informed:
                return function(fs, u, memory, coef)
            if info is None:
                raise InputError(f"{self.name} depends on the step: give info=StepInfo(key, index, count)")
            return function(fs, u, memory, coef, info)

        return checked

    def __repr__(self) -> str:
        return f"Stepper({self.name})"

    def __deepcopy__(self, memo: dict) -> "Stepper":
        return self  # static, and compared by identity: a copied network is the same program


registry = Registry("stepper", Stepper, example="lm(-0.5, -0.5)")
"""All steppers by name."""
register = registry.register
"""Add a stepper: the decorator of the function that makes it; see `lmjax.registry.Registry.register`."""


def combine(*terms: tuple[Any, State]) -> State:
    """The sum of c u over the given (c, u) pairs, leaf by leaf.

    Sums are formed in at least float32 and rounded once, to the dtype of the first state: a float32 coefficient never
    turns a bfloat16 state into a float32 one, and a bfloat16 state loses nothing between the terms.

    Args:
        *terms: pairs of a coefficient (a number, a scalar array, or an array that broadcasts against every leaf from
            the right, such as one value a channel) and a state. The states have one structure.

    Returns:
        A state with the structure, shapes and dtypes of the first one.

    Raises:
        TypeError: if a leaf is not floating-point or complex; an integer state would be rounded at every step.
        ValueError: if the sum has another shape than the first state.
    """
    coefficients, states = zip(*terms, strict=True)
    return jax.tree.map(lambda *leaves: _weighted_sum(coefficients, leaves), *states)


def _weighted_sum(coefficients, leaves):
    dtype = jnp.result_type(leaves[0])
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"a state must be floating-point or complex, and one of its leaves is {dtype}: convert it first"
        )
    wide = jnp.promote_types(dtype, jnp.float32)
    total = None
    for c, leaf in zip(coefficients, leaves, strict=True):
        leaf = jnp.asarray(leaf).astype(wide)
        term = leaf if isinstance(c, int) and c == 1 else c * leaf  # an exact 1 costs no multiplication
        total = term if total is None else total + term
    if total.shape != jnp.shape(leaves[0]):
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves)
        raise ValueError(
            f"the states of a sum must have one shape, and a coefficient must fit it; got states of {shapes}"
        )
    return total.astype(dtype)
