"""A stage integrates at one resolution: a first step that may change the shape, and a stack of blocks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.errors import InputError
from lmjax.networks.block import Block, PureBranch, draw_coefficients
from lmjax.networks.options import Kind, Options, chosen
from lmjax.networks.stack import List, Stack, inner
from lmjax.reversible import reversible_scan
from lmjax.steppers import StepInfo, Stepper, over_stage


def _reads(stepper: Stepper) -> tuple[int | None, ...]:
    """For each branch, the part of the state before the step that it is given; None for any other state.

    Raises:
        InputError: if a branch is evaluated more than once, and so cannot change the shape.
    """
    if stepper.repeats > 1:
        raise InputError(
            f"{stepper.name} evaluates a branch repeatedly, and cannot step across the boundary of a stage: choose "
            "boundary plain"
        )
    return (*stepper.reads, *[None] * (stepper.evaluations - len(stepper.reads)))


class Entry(Block):
    """The first step of a stage, which may change the shape.

    A step of a scheme whose state has been brought to the new shape by shortcuts; the branches that are evaluated at
    the state before the step see it in the old shape, and change it themselves:
    for `euler` u = P(v) + f(v), for `reversible` x+ = P(x) + f(y), y+ = Q(y) + g(x+). With a shortcut that is `first`,
    every branch sees the new shape: u = P(v) + f(P(v)).

    Args:
        options: the scheme of this one step, the branch, the shortcut, and what they take of it.
        cin, cout, stride: of the step.
        projected: how many remembered states are brought to the new shape, too, by projections of their own.
        rngs: draws the initial parameters.
    """

    def __init__(
        self, options: Options, cin: int, cout: int, *, stride: int, projected: int = 0, rngs: nnx.Rngs
    ):  # fmt: skip
        self.stepper, self.after = chosen(options.stepper, "stepper"), options.after
        kind = chosen(options.branch, "branch")
        parts = self.stepper.parts
        cin, cout = cin // parts, cout // parts
        changes = stride != 1 or cin != cout
        first = changes and getattr(class_of(chosen(options.shortcut, "shortcut")), "first", False)
        self.reads = (None,) * self.stepper.evaluations if first else _reads(self.stepper)

        def projection():
            return chosen(options.shortcut, "shortcut")(cin, cout, stride=stride, options=options, rngs=rngs)

        def branch(part):
            if part is None or not changes:
                return kind(cout, cout, options=options, rngs=rngs)
            return _entry(kind)(cin, cout, stride=stride, options=options, rngs=rngs)

        self.shortcuts = List([projection() for _ in range(parts)] if changes else [])
        self.branches = List([branch(part) for part in self.reads])
        # Drawn last, so that all other initial values are the same with and without it.
        self.history = List([projection() for _ in range(projected)])
        self.coefficients, self.coefficient_tree = draw_coefficients(self.stepper, cout * parts, rngs)

    def __call__(self, u: Any, history: Any, info: StepInfo | None) -> tuple[Any, Any, Any]:
        """(u, history) in the old shape -> (u, history, the projected u) in the new one; history only if projected."""
        old = (u,) if self.stepper.parts == 1 else u
        new = [P(x).astype(x.dtype) for P, x in zip(self.shortcuts, old, strict=True)] if self.shortcuts else list(old)
        v = new[0] if self.stepper.parts == 1 else tuple(new)
        if self.history:
            projections = iter(self.history)
            history = jax.tree.map(lambda x: next(projections)(x).astype(x.dtype) if _is_state(x) else x, history)
        else:
            history = self.stepper.init(v)

        def branch(i, part):
            def change(u):
                if u is not new[part]:
                    raise InputError(f"{self.stepper.name}: branch {i} is not given the state that `reads` says")
                return self.branches[i](old[part])

            return self.branches[i] if part is None else change

        fs = tuple(branch(i, part) for i, part in enumerate(self.reads))
        u, history = self.stepper.step(fs, v, history, self.values(), info)
        return jax.tree.map(self.after, u), history, v


class Stage(nnx.Module):
    """The steps at one resolution.

    The first step, which may change the shape, is an `Entry`. With boundary "plain" it is one of Euler,
    u = P(v) + f(v), and the projected input P(v) is the history with which a multistep scheme goes on (as in the
    authors' code). With "step" it is a step of the scheme itself: its history crosses the boundary by projections of
    its own, and a coupled scheme stays coupled.

    Args:
        options: the scheme, the branch, the shortcut where the shape changes, and how they are computed; all of them
            given, as `Architecture.complete` does.
        cin, cout: channels before and after.
        depth: how many steps, at least 1, the first one included.
        stride: of the first step.
        first: whether it is the first stage, at which there is no history.
        rngs: draws the initial parameters.
    """

    def __init__(
        self, options: Options, cin: int, cout: int, depth: int, *, stride: int = 1, first: bool = True, rngs: nnx.Rngs
    ):
        stepper, memory, step = chosen(options.stepper, "stepper"), options.memory, options.boundary == "step"
        for channels in (cin, cout):
            if channels % stepper.parts:
                raise InputError(
                    f"{stepper.name} splits the channels into {stepper.parts} equal parts, and {channels} does not "
                    "divide: choose a width that gives even numbers"
                )
        if memory == "reversible" and (stepper.inverse is None or options.post):
            why = "is rectified after each step" if options.post else "has no inverse"
            raise InputError(
                f"memory reversible: {stepper.name} {why}, so that its states cannot be rebuilt: choose stored or "
                "remat, or a pre-activated network with a scheme such as reversible, leapfrog or momentum"
            )
        self.first, changes = first, stride != 1 or cin != cout
        if step and stepper.known.steps_back is None:
            raise InputError(f"{stepper.name} remembers a whole stage and nothing before it: choose boundary plain")
        first_step, stepper = over_stage(stepper, depth)
        history = jax.tree.leaves(jax.eval_shape(stepper.init, jnp.zeros(()))) if stepper.parts == 1 else []
        projected = sum(map(_is_state, history))
        self.stepper, self.depth, self.memory = stepper, depth, memory
        self.crosses = step and not (projected and first)
        entry = functools.partial(
            Entry, options.replace(stepper=stepper if self.crosses else first_step), cin, cout,
            stride=stride, projected=projected if self.crosses else 0, rngs=nnx.Rngs(rngs.params()),
        )  # fmt: skip
        self.entry = entry() if changes or not self.crosses else None
        options = options.replace(stepper=stepper)
        unroll = memory == "stored" if options.unroll is None else options.unroll
        depth -= self.entry is not None
        self.steps = Stack(lambda rngs: Block(options, cout, rngs=rngs), depth, unroll=unroll, rngs=rngs)

    def __call__(self, u: jax.Array, history: Any = None, info: StepInfo | None = None) -> tuple[jax.Array, Any]:
        """[N, H, W, cin] and the history of the stage before -> [N, H / stride, W / stride, cout] and the history.

        Args:
            u: the features.
            history: used only if it crosses the boundary.
            info: of the first step, but with the key of the network, from which those of the steps follow.
        """
        info = info or StepInfo(None, 0, self.depth)
        state, _ = self.begin(u, history, info)
        steps, info_of = self.step_inputs(info)
        if self.memory == "reversible" and self.steps.depth:
            u, history = self._scan_reversibly(state, steps, info_of)
        else:
            u, history = self.steps.scan(
                lambda block, state, step: block(*state, info=info_of(step)), state, steps, remat=self.memory == "remat"
            )
        return self.join(u), history

    @inner
    def begin(self, u: jax.Array, history: Any, info: StepInfo) -> tuple[tuple[Any, Any], Any]:
        """The first step, if it is an `Entry`: the arguments are those of a call.

        Returns:
            (u, history) from which the stack goes on, and the u, already in the new shape, from which this step came:
            the same as the other if there was none. Both are split into the parts of the state.
        """
        if self.entry is None:
            start = self.split(u)
            return (start, self.stepper.init(start) if self.first or history is None else history), start
        old = self.split(u) if self.crosses else u
        new, history, v = self.entry(old, history, info=info.of(0) if self.stepper.informed else None)
        if not self.crosses:
            new, v = self.split(new), self.split(v)
            history = self.stepper.init(v)
        return (new, history), v

    @inner
    def step_inputs(self, info: StepInfo) -> tuple[Any, Callable[[Any], StepInfo | None]]:
        """The input of each step of the stack besides the state, with a leading axis, and its way to a `StepInfo`."""
        steps = {}  # the number of each and its own key, if the scheme asks for them
        if self.stepper.informed:
            infos = jax.vmap(info.of)(self.depth - self.steps.depth + jnp.arange(self.steps.depth))
            steps = {"index": infos.index} | ({} if infos.key is None else {"key": infos.key})

        def info_of(step):
            return StepInfo(step.get("key"), step["index"], info.count) if step else None

        return steps, info_of

    def _scan_reversibly(self, state, steps, info_of):
        graph, params, others = nnx.split(self.steps.item, nnx.Param, ...)
        others = nnx.to_pure_dict(others)
        shapes = jax.eval_shape(lambda: others)

        def branch(i):
            def f(params, inputs, u):
                pure = PureBranch(nnx.merge(graph, params, inputs[1]).evaluated()[i])
                return pure(u), pure.changes

            return f

        branches = [branch(i) for i in range(self.stepper.evaluations)]
        state, updates = reversible_scan(
            self.stepper, branches, state, nnx.to_pure_dict(params), (steps, others),
            coef=lambda params: nnx.merge(graph, params, shapes).values(), info=lambda inputs: info_of(inputs[0]),
            unroll=self.steps.unroll,
        )  # fmt: skip
        for module, update in self.steps.item.merged(list(updates)):
            nnx.update(module, update)
        return state

    @inner
    def split(self, u: jax.Array) -> Any:
        """The parts of a state, of an array of all its channels."""
        return u if self.stepper.parts == 1 else tuple(jnp.split(u, self.stepper.parts, axis=-1))

    @inner
    def join(self, u: Any) -> jax.Array:
        """The parts of a state as one array."""
        return u if self.stepper.parts == 1 else jnp.concatenate(u, axis=-1)


def class_of(kind: Kind) -> Any:
    """The class of a branch, whether some of its arguments are given or none."""
    return getattr(kind, "func", kind)


def _is_state(x: Any) -> bool:
    """True for an array of a history that is a state or an increment, and no number of steps."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def _entry(branch: Kind) -> Kind:
    """The branch where the shape changes: the same kind, unless it keeps the shape."""
    return getattr(class_of(branch), "entry", branch)
