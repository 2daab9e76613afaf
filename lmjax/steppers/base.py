"""The contract of a stepper, and the weighted sum that every scheme is made of."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import InputError
from lmjax.promotion import at_least_float32, lenient
from lmjax.registry import Registry

State = Any  # a pytree of floating-point (or complex) arrays
Branch = Callable[[State], State]
Step = Callable[..., tuple[State, Any]]  # of (fs, u, history, coef), and of the `StepInfo` where it is informed


@functools.partial(jax.tree_util.register_dataclass, data_fields=["key", "index"], meta_fields=["count"])
@dataclasses.dataclass(frozen=True)
class StepInfo:
    """The place of a step in a network, and the key of its random numbers.

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
        return self.share(self.index, max(self.count - 1, 1))

    @staticmethod
    def share(n: int | jax.Array, count: int) -> Any:
        """n / count; of an array in the widest precision that is enabled."""
        return n / count if isinstance(n, int) else n.astype(float) / count

    def of(self, n: int | jax.Array) -> "StepInfo":
        """The place of the n-th step after this one, with a key of its own that follows from this one's and n."""
        index = self.index + n
        return StepInfo(None if self.key is None else jax.random.fold_in(self.key, index), index, self.count)

    def split(self) -> tuple[jax.Array | None, "StepInfo"]:
        """A key to use now, and the info to pass on, whose key is another one."""
        if self.key is None:
            return None, self
        own, rest = jax.random.split(self.key)
        return own, dataclasses.replace(self, key=rest)


@dataclasses.dataclass(frozen=True, eq=False)
class Properties:
    """Mathematics of a scheme, for those who judge it. A step does not depend on it.

    Attributes:
        order: order of accuracy on u' = F(u).
        damping: `damping(coef) -> c`. With increments f = h F the scheme integrates c u' = F; if c is 0, u'' = F with
            f = h^2 F.
        sign: of a scheme whose state is a pair: it integrates x' = F(y), y' = sign G(x).
        steps_back: over how many earlier steps its history goes (0 for a one-step method); None if it goes back to the
            start of the stage, however long that is (`dense`).
        nodes: when in a step each branch is evaluated, from 0 at its start to 1 at its end, for a field that depends on
            time. None: not known; `odeint` then takes 0 for a scheme with one branch, and no other.
        earlier: for each array of the history, or group of them: True for an earlier state, False for an increment.
        characteristic: `characteristic(coef) -> c`, the polynomial c[0] z^m + c[1] z^(m-1) + ... of a multistep scheme
            without its branch; None for a one-step scheme, which is always zero-stable, and where that is not judged.
        zero_stable: the interval, ends included, of its one coefficient a step in which the margin of zero-stability is
            not negative, if it has one. At an end it may be weakly unstable, as lm is at -1.
        family: the scheme of lmjax of which it is one, wrapped or not: "lm".
    """

    order: int = 1
    damping: Callable[[Any], Any] = lambda coef: 1.0
    sign: int = 1
    steps_back: int | None = 0
    nodes: tuple[float, ...] | None = None
    earlier: Any = True
    characteristic: Callable[[Any], jax.Array] | None = None
    zero_stable: tuple[float, float] | None = None
    family: str | None = None


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
        step: `step(fs, u, history, coef) -> (u, history)`, one step. The returned history depends on `u` and on the
            branches, never on the state that the step arrives at.
        init: `init(u) -> history`, the history at the start. A multistep method begins at rest: all earlier states
            equal `u`, all earlier increments are zero.
        inverse: `inverse(fs, u, history, coef) -> (u, history)`, undoes `step` without solving anything; None where
            there is no such thing, or only in exact arithmetic.
        coef: `coef(key, channels) -> pytree`, the initial trainable coefficients of one step (float32), or their mean
            if the key is None; None if the scheme has none.
        evaluations: how many branches one step evaluates.
        repeats: how often it evaluates each of them; an iteration to a tolerance counts as one evaluation, and
            the one after it as another.
        reads: for each of the first branches, which part of the state before the step it is evaluated at (0 for a state
            that is no pair); None if it is evaluated at something else, as are the branches that are not listed. In a
            step that changes the shape, the listed branches change it.
        parts: into how many equal groups of channels a network splits the state (2 for coupled schemes, whose state
            is a pair).
        informed: `step` and `inverse` take a fifth argument, the `StepInfo`.
        random: what they do with it is to draw random numbers, so that training needs a key.
        over: `over(depth) -> (first, others)`, the schemes of a network's stage of so many steps: see `over_stage`.
        known: what is known about it.
        recipe: makes it again, where it is unpickled; None for one that was made by hand.
    """

    name: str
    step: Step
    init: Callable[[State], Any] = lambda u: ()
    inverse: Step | None = None
    coef: Callable[[jax.Array | None, int], Any] | None = None
    evaluations: int = 1
    repeats: int = 1
    reads: tuple[int | None, ...] = (0,)
    parts: int = 1
    informed: bool = False
    random: bool = False
    over: "Callable[[int], tuple[Stepper, Stepper]] | None" = None
    known: Properties = Properties()
    recipe: Callable[[], "Stepper"] | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "step", self._with_its_branches(self.step))
        if self.inverse is not None:
            object.__setattr__(self, "inverse", self._with_its_branches(self.inverse))

    def _with_its_branches(self, function):
        count = self.evaluations

        @functools.wraps(function)
        def checked(fs, u, history, coef, info=None):
            if not isinstance(fs, tuple) or len(fs) != count:
                got = f"{len(fs)} of them" if isinstance(fs, tuple) else repr(fs)
                raise InputError(f"{self.name} takes a tuple of {count} branches, one an evaluation; got {got}")
            if self.parts > 1 and not (isinstance(u, (tuple, list)) and len(u) == self.parts):
                raise InputError(
                    f"{self.name} takes a tuple of {self.parts} states, as tuple(jnp.split(u, {self.parts}, axis=-1)); "
                    f"got {jax.tree.structure(u)}"
                )
            if not self.informed:
                return function(fs, u, history, coef)
            if info is None:
                raise InputError(f"{self.name} depends on the step: give info=StepInfo(key, index, count)")
            return function(fs, u, history, coef, info)

        return checked

    def __repr__(self) -> str:
        return f"Stepper({self.name})"

    def __copy__(self) -> "Stepper":
        return self  # static, and compared by identity: a copied network is the same program

    def __deepcopy__(self, memo: dict) -> "Stepper":
        return self

    def made_by(self, recipe: Callable[[], "Stepper"]) -> "Stepper":
        """The stepper, which from now on is pickled as this recipe, unless it has one."""
        if self.recipe is None:
            object.__setattr__(self, "recipe", recipe)
        return self

    def __reduce__(self) -> tuple[Callable[[], "Stepper"], tuple[()]]:
        if self.recipe is None:
            raise InputError(
                f"stepper {self.name}: cannot be pickled, since it was made by hand: let a function make it, and "
                "register that, as in @steppers.register"
            )
        return self.recipe, ()


def _note(made: Any, recipe: Callable[[], Any]) -> None:
    if isinstance(made, Stepper):
        made.made_by(recipe)


def uniform(key: jax.Array | None, shape: tuple[int, ...], low: float, high: float) -> jax.Array:
    """Coefficients from U(low, high), float32; without a key their mean."""
    mean = jnp.full(shape, (low + high) / 2, jnp.float32)
    return mean if key is None else jax.random.uniform(key, shape, jnp.float32, low, high)


registry: Registry[Stepper] = Registry("stepper", Stepper, returns="a Stepper", example="lm(-0.5, -0.5)", note=_note)
"""All steppers by name."""
register = registry.register
"""Add a stepper: the decorator of the function that makes it; see `lmjax.registry.Registry.register`."""


@lenient()
def combine(*terms: tuple[Any, State]) -> State:
    """The sum of c u over the given (c, u) pairs, leaf by leaf.

    Sums are formed in at least float32 and rounded once, to the dtype of the first state: a float32 coefficient never
    turns a bfloat16 state into a float32 one, and a bfloat16 state loses nothing between the terms.

    Args:
        *terms: pairs of a coefficient (a number, a scalar array, or an array that broadcasts against every leaf from
            the right, such as one value a channel) and a state. The states have one structure, and their leaves one
            shape; a real first state takes no complex one.

    Returns:
        A state with the structure, shapes and dtypes of the first one.

    Raises:
        InputError: if a leaf is not floating-point or complex (an integer state would be rounded at every step), or if
            the states, or the sum, have another structure or other shapes than the first state, or are complex where it
            is not.
    """
    coefficients, states = zip(*terms, strict=True)
    structures = list(map(jax.tree.structure, states))
    if len(set(structures)) > 1:  # map would take the first for the beginning of the others
        raise InputError(f"the states of a sum must have one structure; got {', '.join(map(str, structures))}")
    return jax.tree.map(lambda *leaves: _weighted_sum(coefficients, leaves), *states)


@lenient()
def difference(u: State, v: State) -> State:
    """u - v leaf by leaf, a term of `combine`: in at least float32, and not rounded."""
    return jax.tree.map(lambda x, y: x.astype(at_least_float32(x.dtype)) - y, u, v)


def _weighted_sum(coefficients, leaves):
    dtype = jnp.result_type(leaves[0])
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"a state must be floating-point or complex, and one of its leaves is {dtype}: convert it first"
        )
    wide, shape = at_least_float32(dtype), jnp.shape(leaves[0])
    for c, leaf in zip(coefficients, leaves, strict=True):
        if jnp.shape(leaf) != shape or not _broadcasts(jnp.shape(c), shape):
            shapes = ", ".join(f"{jnp.shape(a)} x {jnp.shape(b)}" for a, b in zip(coefficients, leaves, strict=True))
            raise InputError(f"the states of a sum must have one shape, which coefficients must fit; got {shapes}")

    def term(c, leaf):
        leaf = jnp.asarray(leaf).astype(wide)
        return leaf if isinstance(c, int) and c == 1 else c * leaf  # an exact 1 costs no multiplication

    total = functools.reduce(operator.add, map(term, coefficients, leaves))
    if any(map(jnp.iscomplexobj, (total, *leaves))) and not jnp.iscomplexobj(leaves[0]):
        raise InputError(f"a term of a sum is complex, and the state, {dtype}, is not: make the state complex")
    return total.astype(dtype)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))
