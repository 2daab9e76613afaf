"""Steppers as the numerical methods they claim to be."""

import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from lmjax import steppers
from lmjax.errors import InputError, unknown
from lmjax.promotion import lenient
from lmjax.reversible import Memory, reversible_scan
from lmjax.steppers import State, StepInfo, Stepper, combine, rk4

Field = Callable[..., State]  # of (t, u), or of (t, u, args)

_RK4 = rk4()


def odeint(
    stepper: Stepper | str,
    field: Field | Sequence[Field],
    u0: State,
    *,
    t1: float | jax.Array,
    steps: int,
    t0: float | jax.Array = 0.0,
    args: Any = None,
    save_at: Literal["steps"] | Sequence[float] | ArrayLike | None = None,
    coef: Any = None,
    start: Stepper | str | None = _RK4,
    memory: Memory = "stored",
) -> State:
    """Integrate u' = F(t, u) from t0 to t1 with a fixed step h = (t1 - t0) / steps, backwards if t1 < t0.

    The branches are f = c h F, with c the damping of the scheme, so that every scheme integrates the same equation.
    A multistep scheme starts anew in each call: for several times make one call with `save_at`, which keeps its order.
    Under `jit` and `vmap`, too; differentiable in u0, args, t0, t1, coef, traced times and what F closes over.

    Args:
        stepper: the scheme, or its name as in "lm(-0.5, -0.5)".
        field: F(t, u), or F(t, u, args) where there are args, of the structure, shapes and dtypes of u. A coupled
            scheme takes a tuple of fields, one a branch: (F, G) for `reversible` on x' = F(t, y), y' = G(t, x).
        u0: the state at t0, any pytree of floating-point or complex arrays.
        t1: the end time.
        steps: how many steps to take, at least 1.
        t0: the initial time.
        args: the last argument of the fields, any pytree.
        save_at: None for the state at t1 alone; "steps" for all steps, t0 and t1 included; or times, in order from t0
            to t1. Times that are no multiples of h, or traced, are interpolated: see `docs/ode.md`.
        coef: the scheme's coefficients, the same at every step; needed where the scheme has trainable ones.
        start: the one-step method that makes the first values of a multistep scheme, by default `rk4`. With None it
            starts at rest instead, as a network does at the start of a stage, and is of order 1.
        memory: what is kept for the gradient: "stored" keeps all states, "remat" one every sqrt(steps) steps, from
            which the others are computed again, "reversible" none, for a scheme with an inverse (`jax.grad` alone, not
            `jax.jvp`). The states of `save_at` are kept, too.

    Returns:
        The state at t1, with the structure, shapes and dtypes of u0; with `save_at` a leading axis, the times.

    Raises:
        InputError: naming the argument that does not fit the scheme, the state or the times.
    """
    stepper, start = _scheme(stepper), None if start is None else _scheme(start)
    steps = _require_fitting(stepper, u0, steps, coef, start, memory)
    _require_one(t0), _require_one(t1)
    with lenient():
        h = (t1 - t0) / steps
    fields = _fields(stepper, field, args)
    if start is not None and stepper.known.steps_back and len(set(fields)) > 1:
        raise InputError("odeint: start makes the first values of one field, and there are several: give start=None")
    solver = _Solver(stepper, fields, t0, h, steps, coef, memory)
    kept, history = solver.begin(jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), u0), start)
    if save_at is None:
        return solver.run((kept[-1], history), len(kept) - 1, steps + 1 - len(kept))[0]
    numbers = _step_numbers(save_at, t0, t1, steps)
    if numbers is not None:
        return solver.states_after(numbers, kept, history)
    return solver.interpolate(solver.states_after(np.arange(steps + 1), kept, history), save_at)


@dataclasses.dataclass(frozen=True, eq=False)
class _Solver:
    """A scheme on its grid of times. The carry of its loops is (u, history)."""

    stepper: Stepper
    fields: tuple[Callable[[Any, State], State], ...]  # of (t, u), one a branch
    t0: Any
    h: Any
    steps: int
    coef: Any
    memory: Memory

    def increment(self, field, n, node, scale, u):
        """scale h F(t, u), node h after the start of step n, in the dtypes of u."""
        with lenient():
            # Of numbers of Python it is weakly typed, so that t u has the precision of u.
            t, scale = jnp.asarray(self.t0 + (n + float(node)) * self.h), self.h * scale
        du = field(t, u)
        _require_derivative(u, du)
        with lenient():
            return jax.tree.map(lambda x, dx: _scaled(scale, dx, jnp.result_type(x)), u, du)

    def branch(self, i, n):
        scale = self.stepper.known.damping(self.coef)
        return functools.partial(self.increment, self.fields[i], n, _nodes(self.stepper)[i], scale)

    def info(self, n):
        return StepInfo(None, n, self.steps)  # without a key: odeint is deterministic

    def step(self, carry, n):
        fs = tuple(self.branch(i, n) for i in range(self.stepper.evaluations))
        return self.stepper.step(fs, *carry, self.coef, self.info(n))

    def begin(self, u, start):
        """The states at t0 and after the first steps, made by `start`; the history at the last one of them."""
        kept, history = [u], self.stepper.init(u)
        for n in range(0 if start is None else min(self.stepper.known.steps_back or 0, self.steps)):
            # The history after a step does not depend on where the step arrives, so it comes from the scheme itself.
            _, history = self.step((u, history), n)
            scale = start.known.damping(None)
            fs = tuple(functools.partial(self.increment, self.fields[0], n, node, scale) for node in _nodes(start))
            u, _ = start.step(fs, u, (), None, self.info(n))
            kept.append(u)
        return kept, history

    def run(self, carry, first, count):
        """So many steps from the first one on, whose number may be traced."""
        if self.memory == "reversible" and count:
            branches = [lambda _, n, u, i=i: (self.branch(i, n)(u), None) for i in range(self.stepper.evaluations)]
            return reversible_scan(
                self.stepper, branches, carry, (), first + jnp.arange(count), coef=lambda _: self.coef, info=self.info
            )[0]  # fmt: skip
        scan = functools.partial(_scan, self.step)
        if self.memory == "stored":
            return scan(carry, first, count)
        chunk = math.isqrt(self.steps - 1) + 1
        chunks, rest = divmod(count, chunk)

        def remembered(carry, first, count=chunk):
            return jax.checkpoint(functools.partial(scan, count=count))(carry, first)

        carry = _scan(remembered, carry, first, chunks, chunk)
        return remembered(carry, first + chunks * chunk, rest) if rest else carry

    def states_after(self, numbers, kept, history):
        """The states after so many steps, a rising array of numbers, with a leading axis.

        The state of every n-th step is kept, with the greatest n that meets all numbers.

        Args:
            numbers: the numbers.
            kept: the states after 0, 1, ... steps that there are already.
            history: at the last one of them.
        """
        done, late = len(kept) - 1, numbers[numbers >= len(kept)]
        early = [u for n, u in enumerate(kept) if n in numbers]
        if not len(late):
            return jax.tree.map(lambda *x: jnp.stack(x), *early)
        stride = math.gcd(*np.diff(late).tolist()) or int(late[0]) - done
        begin = done + (int(late[0]) - done) % stride
        carry = self.run((kept[-1], history), done, begin - done)
        early += [carry[0]] if begin in late else []

        def strides(carry, n):
            carry = self.run(carry, begin + n * stride, stride)
            return carry, carry[0]

        which = (late[late > begin] - begin) // stride - 1
        _, states = lax.scan(strides, carry, jnp.arange(which[-1] + 1))
        if len(which) <= which[-1]:
            states = jax.tree.map(lambda x: x[which], states)
        return jax.tree.map(lambda x, *y: jnp.concatenate([jnp.stack(y), x]), states, *early) if early else states

    def interpolate(self, states, times):
        """The cubic Hermite polynomial through the states of all steps and their derivatives, at times."""

        def at(time):
            with lenient():
                x = (time - self.t0) / self.h
                n = jnp.clip(jnp.floor(x), 0, self.steps - 1).astype(int)
                x = x - n
            y = 1 - x
            u, v = (jax.tree.map(operator.itemgetter(m), states) for m in (n, n + 1))
            du, dv = self.slope(n, u), self.slope(n + 1, v)
            return combine(((1 + 2 * x) * y**2, u), (x * y**2, du), ((3 - 2 * x) * x**2, v), (-y * x**2, dv))

        return jax.vmap(at)(jnp.asarray(times, float))

    def slope(self, n, u):
        """h times the derivative at the state after n steps."""
        if self.stepper.parts == len(set(self.fields)) == 1:
            return self.increment(self.fields[0], n, 0.0, 1.0, u)
        if not self.stepper.parts == self.stepper.evaluations == 2:
            raise InputError(
                f"odeint: {self.stepper.name} has several fields, and times off its grid need one, or a pair"
            )
        (x, y), (f, g) = u, self.fields
        return self.increment(f, n, 0.0, 1.0, y), self.increment(g, n, 0.0, self.stepper.known.sign, x)


def _scan(step, carry, first, count, stride=1):
    """step(carry, n) with n = first, first + stride, ..., so many times."""
    if count < 2:  # without a loop
        return step(carry, first) if count else carry
    return lax.scan(lambda carry, n: (step(carry, n), None), carry, first + stride * jnp.arange(count))[0]


def _scheme(scheme: Stepper | str) -> Stepper:
    if isinstance(scheme, str):
        return steppers.get(scheme)
    if not isinstance(scheme, Stepper):
        raise InputError(f"odeint: a scheme must be a Stepper, such as steppers.rk4(), got {scheme!r}")
    return scheme


def _require_fitting(stepper: Stepper, u0: State, steps: int, coef: Any, start: Stepper | None, memory: Memory) -> int:
    """Check what the scheme is given; returns the number of steps."""
    if stepper.parts > 1 and not (isinstance(u0, tuple) and len(u0) == stepper.parts):
        raise InputError(f"odeint: the state of {stepper.name} is a pair (x, y), got {jax.tree.structure(u0)}")
    dtypes = [_dtype(x) for x in jax.tree.leaves(u0)]
    if not dtypes or not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        got = ", ".join(dict.fromkeys(map(str, dtypes))) or "no numbers"
        raise InputError(f"odeint: u0 must be of floating-point or complex numbers, as 1.0 and not 1, got {got}")
    try:
        count = 0 if isinstance(steps, bool | np.bool_) else operator.index(steps)
    except TypeError:  # a traced number, too
        count = 0
    if count < 1:
        raise InputError(f"odeint: steps must be a whole number, at least 1, got {steps!r}")
    if memory not in get_args(Memory):
        raise unknown("memory of odeint", str(memory), get_args(Memory))
    if stepper.coef is not None and coef is None:
        raise InputError(f"odeint: {stepper.name} has coefficients to choose: give coef, e.g. coef=-0.1 for lm")
    if stepper.coef is None and coef is not None:
        raise InputError(f"odeint: {stepper.name} has no coefficients, got coef={coef!r}")
    if stepper.coef is not None:
        like, wide = (jax.eval_shape(functools.partial(stepper.coef, None, n)) for n in (1, 2))  # of so many channels
        found, *leaves = map(jax.tree.leaves, (coef, like, wide))
        fits = len(found) == len(leaves[0]) and all(jnp.issubdtype(_dtype(x), jnp.number) for x in found)
        if not fits or not all(map(_has_shape, found, *leaves)):
            shown = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", like)
            raise InputError(f"odeint: coef of {stepper.name} must have the structure of {shown}, got {coef!r}")
    if start is not None and (start.known.steps_back != 0 or start.parts > 1 or start.coef is not None):
        raise InputError(
            f"odeint: start must be a one-step scheme for one field, without coefficients; got {start.name}"
        )
    damping = stepper.known.damping(coef)
    if not isinstance(damping, jax.core.Tracer):
        if np.any(np.asarray(damping) == 0):
            raise InputError(f"odeint: {stepper.name} integrates u'' = F(u), not u' = F(t, u)")
        if not np.all(np.isfinite(damping)):
            raise InputError(f"odeint: {stepper.name} integrates no equation with coef={coef!r}: choose another one")
    return count


def _has_shape(x: Any, one: Any, two: Any) -> bool:
    """True if a coefficient has the shape that it has whatever the channels, where that is no single number."""
    return one.shape != two.shape or one.shape == () or jnp.shape(x) == one.shape


def _require_one(time: Any) -> None:
    if isinstance(time, (list, tuple)) or np.ndim(time):
        raise InputError(f"odeint: t0 and t1 must be single times, got {time}: for several ones use jax.vmap")
    number = np.asarray(0 if isinstance(time, jax.core.Tracer) else time)
    if not jnp.issubdtype(number.dtype, jnp.number) or not np.isfinite(number):
        raise InputError(f"odeint: t0 and t1 must be finite numbers, got {time!r}")


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _nodes(stepper: Stepper) -> tuple[float, ...]:
    """When in a step each branch is evaluated, from 0 at its start to 1 at its end."""
    if stepper.known.nodes is None and stepper.evaluations > 1:
        raise InputError(
            f"odeint: {stepper.name} does not say at which times it evaluates its {stepper.evaluations} branches: give "
            "its Properties nodes, e.g. nodes=(0, 1)"
        )
    return stepper.known.nodes or (0,)


def _fields(stepper: Stepper, field: Field | Sequence[Field], args: Any) -> tuple[Field, ...]:
    """The field of each branch, as a function of (t, u)."""
    several = not callable(field)
    if several and not (isinstance(field, Sequence) and all(map(callable, field))):
        raise InputError(f"odeint: a field must be a function of (t, u), or a tuple of them, got {field!r}")
    if not several and stepper.parts > 1:
        raise InputError(f"odeint: {stepper.name} takes a tuple of {stepper.evaluations} fields, one a branch, got one")
    if several and len(field) != stepper.evaluations:
        raise InputError(f"odeint: {stepper.name} takes {stepper.evaluations} fields, one a branch, got {len(field)}")
    given = field if several else (field,) * stepper.evaluations
    fields = {i: _of_time_and_state(F, args) for i, F in {id(F): F for F in given}.items()}
    return tuple(fields[id(F)] for F in given)


def _of_time_and_state(field: Field, args: Any) -> Field:
    """(t, u) -> F(t, u), or F(t, u, args) if there are any."""
    last = () if args is None else (args,)
    try:
        inspect.signature(field).bind(None, None, *last)
    except ValueError:  # has none to look at
        pass
    except TypeError as error:
        said, more = ("t, u", ", and give args for one with a third argument") if args is None else ("t, u, args", "")
        raise InputError(
            f"odeint: a field is called as f({said}), which {field!r} does not take ({error}): write lambda {said}: "
            f"F(u) for one without time{more}"
        ) from None
    return lambda t, u: field(t, u, *last)


def _step_numbers(save_at: Any, t0: Any, t1: Any, steps: int) -> np.ndarray | None:
    """After how many steps the times come; None if they are not all known to be multiples of the step."""
    if isinstance(save_at, str):
        if save_at != "steps":
            raise InputError(f'odeint: save_at must be "steps", an array of times, or None, got {save_at!r}')
        return np.arange(steps + 1)
    if jnp.iscomplexobj(t0) or jnp.iscomplexobj(t1):
        raise InputError('odeint: with complex t0 or t1, save_at must be "steps" or None')
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((save_at, t0, t1)))
    try:
        times = (jnp if traced else np).asarray(save_at)
    except ValueError:  # lists of several lengths
        raise InputError(f"odeint: save_at must be a list of times, got {save_at!r}") from None
    if times.ndim != 1 or not times.size or not (traced or times.dtype.kind in "iuf"):
        raise InputError(f"odeint: save_at must be a list of times, got an array of shape {times.shape}: {save_at!r}")
    if traced:
        return None
    exact = np.asarray(times, float)
    h = (float(t1) - float(t0)) / steps
    precision = np.finfo(times.dtype if times.dtype.kind == "f" else float).eps
    slack = min(8 * precision * max(abs(float(t0)), abs(float(t1))) / abs(h), 0.01) if h else 0.0
    x = (exact - float(t0)) / (h or 1.0)
    if not (h and (np.diff(x) > 0).all() and x[0] >= -slack and x[-1] <= steps + slack):
        shown = np.array2string(exact, threshold=6)
        raise InputError(f"odeint: the times of save_at must go from t0 = {t0} towards t1 = {t1}, got {shown}")
    n = np.rint(x).astype(int)
    return n if (abs(x - n) <= slack).all() and (np.diff(n) > 0).all() else None


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
