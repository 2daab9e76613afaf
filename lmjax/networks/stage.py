"""From steppers to stages: a block is one step, a stage integrates at one resolution."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.branches import Convolutions, Projection
from lmjax.networks.stack import List, Stack, changed, statistics
from lmjax.reversible import reversible_scan
from lmjax.steppers import StepInfo, Stepper, euler

Sharing = Literal["none", "convolutions", "all"]
Memory = Literal["stored", "remat", "reversible"]
Boundary = Literal["plain", "step"]


class Coefficient(nnx.Param):
    """A trainable coefficient of a scheme, such as k of LM: a parameter that can be told from the weights by type."""


class Block(nnx.Module):
    """One step of a scheme: its branches, one an evaluation, and its coefficients.

    Batch normalisation updates its running statistics once a step, whatever the scheme:

    - Where evaluations share convolutions, each normalises with statistics, scale and bias of its own (as in the
      released PolyNet): f(u) and f(f(u)) are distributed differently, and evaluating with the statistics of the other
      would not be the function that was trained.
    - Where they share everything, the update is the mean over the evaluations.
    - Where the scheme evaluates one branch repeatedly until it converges (`backward_euler`), the update is that of
      the last evaluation.

    Args:
        stepper: the scheme.
        branch: makes a branch, called as `branch(cin, cout, rngs=...)`.
        channels: of the state.
        sharing: what the evaluations of one step share: nothing, their convolutions, or everything.
        post: rectify the state after the step.
        rngs: draws the initial parameters.
    """

    def __init__(
        self, stepper: Stepper, branch: Callable[..., nnx.Module], channels: int, *, sharing: Sharing = "none",
        post: bool = False, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.stepper, self.post = stepper, post
        width = channels // stepper.parts
        count = 1 if sharing == "all" else stepper.stages
        self.branches = List([branch(width, width, rngs=rngs) for _ in range(count)])
        if sharing == "convolutions":
            for other in self.branches[1:]:
                _share_convolutions(self.branches[0], other)
        self.coefficients, self.coefficient_tree = draw_coefficients(stepper, channels, rngs)

    def __call__(self, u: Any, memory: Any, info: StepInfo | None = None) -> tuple[Any, Any]:
        """(u, memory) -> (u, memory) of the next step."""
        modules = self.evaluated()
        fs = [PureBranch(module) for module in modules]
        u, memory = self.stepper.step(tuple(fs), u, memory, self.values(), info)
        for branch, update in self.merged([f.statistics for f in fs]):
            nnx.update(branch, update)
        return self.after(u), memory

    def evaluated(self) -> list[nnx.Module]:
        """The branch of each evaluation."""
        return [self.branches[i % len(self.branches)] for i in range(self.stepper.stages)]

    def merged(self, updates: list[dict]) -> list[tuple[nnx.Module, dict]]:
        """Each branch, and its statistics after the evaluations that had these."""
        if len(updates) > len(self.branches):  # one branch for all of them
            updates = [jax.tree.map(lambda *x: sum(x) / len(x), *updates)]
        return list(zip(self.branches, updates, strict=True))

    def values(self) -> Any:
        """The coefficients, as the scheme takes them."""
        return coefficient_values(self.coefficients, self.coefficient_tree)

    def after(self, u: Any) -> Any:
        return jax.tree.map(jax.nn.relu, u) if self.post else u


class PureBranch:
    """A module as a pure function, so that a scheme may evaluate it as often as it likes, in loops and solvers, too.

    Attributes:
        statistics: what its running statistics are after the last evaluation; {} if it has not changed them.
    """

    def __init__(self, module: nnx.Module):
        self.graph, variables = nnx.split(module)
        self.variables = nnx.to_pure_dict(variables)  # arrays, from which every evaluation makes variables of its own
        self.statistics = {}

    def __call__(self, u: Any) -> Any:
        copy = nnx.merge(self.graph, self.variables)
        before = statistics(copy)
        f = copy(u)
        self.statistics = changed(before, statistics(copy))
        return f


def _share_convolutions(first, other):
    for name, child in list(vars(other).items()):
        if isinstance(child, nnx.Conv):
            setattr(other, name, getattr(first, name))


def draw_coefficients(stepper: Stepper, channels: int, rngs: nnx.Rngs) -> tuple[Any, Any]:
    """The initial coefficients of a step as variables, and their structure."""
    coef = () if stepper.coef is None else stepper.coef(rngs.params(), channels)
    leaves, tree = jax.tree.flatten(coef)
    return List([Coefficient(leaf) for leaf in leaves]), tree


def coefficient_values(coefficients: Any, tree: Any) -> Any:
    """The coefficients of a step from its variables."""
    return jax.tree.unflatten(tree, [variable[...] for variable in coefficients])


def first_evaluations(stepper: Stepper) -> list[int | None]:
    """Of each branch which part of the state it is first given, as it is before the step; None for any other state.

    Those are the branches that change the shape where the first step of a stage does.

    Raises:
        InputError: if a branch is evaluated more than once, and so cannot change the shape.
    """
    parts = [jnp.zeros(()) for _ in range(stepper.parts)]
    seen: dict[int, int | None] = {}

    def probe(i):
        def f(u):
            if i in seen:
                raise InputError(
                    f"{stepper.name} evaluates a branch repeatedly, and cannot step across the boundary of a stage: "
                    "choose boundary plain"
                )
            seen[i] = next((j for j, part in enumerate(parts) if u is part), None)
            return jnp.zeros(())

        return f

    u = parts[0] if stepper.parts == 1 else tuple(parts)
    # Values do not matter: coefficients are traced, so that no key is needed to draw them.
    coef = None if stepper.coef is None else stepper.coef(jax.random.key(0), 1)
    memory = stepper.init(u)
    stepper.step(tuple(map(probe, range(stepper.stages))), u, memory, coef, StepInfo(None, 0, 1))
    return [seen.get(i) for i in range(stepper.stages)]


class Entry(nnx.Module):
    """The first step of a stage, which may change the shape.

    A step of a scheme whose state has been brought to the new shape by shortcuts; the branches that are evaluated at
    the state before the step see it in the old shape, and change it themselves:
    for `euler` u = P(v) + f(v), for `reversible` x+ = P(x) + f(y), y+ = Q(y) + g(x+).

    Args:
        stepper: the scheme of this one step.
        branch, shortcut: make them, called as `branch(cin, cout, stride=..., rngs=...)`.
        cin, cout, stride: of the step.
        projected: how many remembered states are brought to the new shape, too, by projections of their own.
        post: rectify the state after the step.
        rngs: draws the initial parameters.
    """

    def __init__(
        self, stepper: Stepper, branch: Callable[..., nnx.Module], shortcut: Callable[..., nnx.Module], cin: int,
        cout: int, *, stride: int, projected: int = 0, post: bool = False, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.stepper, self.post = stepper, post
        self.reads = tuple(first_evaluations(stepper))
        cin, cout = cin // stepper.parts, cout // stepper.parts
        changes = stride != 1 or cin != cout

        def projection():
            return shortcut(cin, cout, stride=stride, rngs=rngs)

        self.shortcuts = List([projection() for _ in range(stepper.parts)] if changes else [])
        self.branches = List(
            [
                branch(cout, cout, stride=1, rngs=rngs) if part is None else branch(cin, cout, stride=stride, rngs=rngs)
                for part in self.reads
            ]
        )
        # Drawn last, so that everything else starts from the same values with it and without.
        self.history = List([projection() for _ in range(projected)])
        self.coefficients, self.coefficient_tree = draw_coefficients(stepper, cout * stepper.parts, rngs)

    def __call__(self, u: Any, memory: Any, info: StepInfo | None) -> tuple[Any, Any, Any]:
        """(u, memory) in the old shape -> (u, memory, the projected u) in the new one; memory only if projected."""
        old = (u,) if self.stepper.parts == 1 else u
        new = [P(x).astype(x.dtype) for P, x in zip(self.shortcuts, old, strict=True)] if self.shortcuts else list(old)
        v = new[0] if self.stepper.parts == 1 else tuple(new)
        if self.history:
            leaves, tree = jax.tree.flatten(memory)
            projected = [P(x).astype(x.dtype) for P, x in zip(self.history, leaves, strict=True)]
            memory = jax.tree.unflatten(tree, projected)
        else:
            memory = self.stepper.init(v)

        def branch(f, part):
            return f if part is None else lambda _: f(old[part])

        fs = tuple(branch(f, part) for f, part in zip(self.branches, self.reads, strict=True))
        coef = coefficient_values(self.coefficients, self.coefficient_tree)
        u, memory = self.stepper.step(fs, v, memory, coef, info)
        return (jax.tree.map(jax.nn.relu, u) if self.post else u), memory, v


class Stage(nnx.Module):
    """The steps at one resolution.

    The first step, which may change the shape, is an `Entry`. With boundary "plain" it is one of Euler,
    u = P(v) + f(v), and the projected input P(v) is the history with which a multistep scheme goes on (as in the
    authors' code). With "step" it is a step of the scheme itself: its history crosses the boundary by projections of
    its own, and a coupled scheme stays coupled.

    Args:
        stepper: the scheme.
        branch: the residual branch, e.g. `Basic`, called as `branch(cin, cout, stride=..., post=..., dtype=...,
            rngs=...)`.
        cin, cout: channels before and after.
        depth: how many steps, at least 1, the first one included.
        stride: of the first step.
        shortcut: where the shape changes, e.g. `Projection`; called as the branch is.
        boundary: see above.
        first: whether it is the first stage, at which there is no history.
        sharing, post, dtype, unroll, memory: see `Network`.
        rngs: draws the initial parameters.
    """

    def __init__(
        self,
        stepper: Stepper,
        branch: Callable[..., nnx.Module],
        cin: int,
        cout: int,
        depth: int,
        *,
        stride: int = 1,
        shortcut: Callable[..., nnx.Module] = Projection,
        boundary: Boundary = "plain",
        first: bool = True,
        sharing: Sharing = "none",
        post: bool = False,
        dtype: DTypeLike = jnp.float32,
        unroll: bool | int = True,
        memory: Memory = "stored",
        rngs: nnx.Rngs,
    ):
        for channels in (cin, cout):
            if channels % stepper.parts:
                raise InputError(
                    f"{stepper.name} splits the channels into {stepper.parts} equal parts, and {channels} does not "
                    "divide: choose an even number"
                )
        stepper = stepper if stepper.over is None else stepper.over(depth)
        if memory == "reversible" and (stepper.inverse is None or post):
            why = "is rectified after each step" if post else "has no inverse"
            raise InputError(
                f"memory reversible: {stepper.name} {why}, so that its states cannot be rebuilt: choose stored or "
                "remat, or a pre-activated network with a scheme such as reversible, leapfrog or momentum"
            )
        if sharing == "convolutions" and not issubclass(_class(branch), Convolutions):
            raise InputError(f"sharing convolutions: a branch {_class(branch).__name__} has none to share")
        self.stepper, self.depth, self.memory = stepper, depth, memory

        def make(kind, cin, cout, *, stride=1, rngs):
            return kind(cin, cout, stride=stride, post=post, dtype=dtype, rngs=rngs)

        def branches(cin, cout, *, stride=1, rngs):
            changes = stride != 1 or cin != cout
            return make(_entry_branch(branch) if changes else branch, cin, cout, stride=stride, rngs=rngs)

        def shortcuts(cin, cout, *, stride, rngs):
            return make(shortcut, cin, cout, stride=stride, rngs=rngs)

        changes = stride != 1 or cin != cout
        projected = len(jax.tree.leaves(jax.eval_shape(stepper.init, jnp.zeros(())))) if stepper.parts == 1 else 0
        self.crosses = boundary == "step" and ((bool(projected) and not first) or not projected)
        entry = functools.partial(
            Entry, stepper if self.crosses else stepper.starter or euler(), branches, shortcuts, cin, cout,
            stride=stride, projected=projected if self.crosses else 0, post=post, rngs=nnx.Rngs(rngs.params()),
        )  # fmt: skip
        self.entry = entry() if changes or not self.crosses else None

        def block(rngs):
            return Block(stepper, branches, cout, sharing=sharing, post=post, rngs=rngs)

        self.steps = Stack(block, depth - (self.entry is not None), unroll=unroll, rngs=rngs)

    def __call__(self, u: jax.Array, memory: Any = None, info: StepInfo | None = None) -> tuple[jax.Array, Any]:
        """[N, H, W, cin] and the memory of the stage before -> [N, H / stride, W / stride, cout] and the memory.

        Args:
            u: the features.
            memory: the history, used only if it crosses the boundary.
            info: of the first step, with the network's key (not the step's own), for schemes that are informed.
        """
        informed = self.stepper.informed
        base = (info or StepInfo(None, 0, self.depth)) if informed else None
        done = 0
        if self.entry is not None:
            first = info_of(base, base.index) if informed else None
            if self.crosses:
                u, memory, _ = self.entry(self._split(u), memory, first)
            else:
                u, _, v = self.entry(u, None, first)
                u, memory = self._split(u), self.stepper.init(self._split(v))
            done = 1
        else:
            u = self._split(u)
            memory = self.stepper.init(u)
        indices = base.index + done + jnp.arange(self.steps.depth) if informed else None
        key = base.key if informed else None

        def step_info(index, key):
            return info_of(StepInfo(key, 0, base.count), index) if informed else None

        if self.memory == "reversible" and self.steps.depth:
            u, memory = self._scan_reversibly(u, memory, indices, key, step_info)
        else:
            u, memory = self.steps.scan(
                lambda block, carry, index: block(*carry, step_info(index, key)), (u, memory), indices,
                remat=self.memory == "remat",
            )  # fmt: skip
        return self._join(u), memory

    def _scan_reversibly(self, u, memory, indices, key, step_info):
        graph, variables = nnx.split(self.steps.item)
        variables = nnx.to_pure_dict(variables)
        # What the backward pass uses must be an argument: the key goes along, as plain numbers, once a step.
        given = {}
        if indices is not None:
            given["index"] = indices
        if key is not None:
            data, kind = jax.random.key_data(key), jax.random.key_impl(key)
            given["key"] = jnp.broadcast_to(data, (self.steps.depth, *data.shape))

        def branch(i):
            def f(variables, given, u):
                pure = PureBranch(nnx.merge(graph, variables).evaluated()[i])
                return pure(u), pure.statistics

            return f

        def info(given):
            if "index" not in given:
                return None
            return step_info(
                given["index"], jax.random.wrap_key_data(given["key"], impl=kind) if "key" in given else None
            )

        (u, memory), updates = reversible_scan(
            self.stepper, [branch(i) for i in range(self.stepper.stages)], (u, memory), variables, given,
            coef=lambda variables: nnx.merge(graph, variables).values(), info=info, unroll=self.steps.unroll,
        )  # fmt: skip
        for module, update in self.steps.item.merged(list(updates)):
            nnx.update(module, update)
        return u, memory

    def _split(self, u):
        return u if self.stepper.parts == 1 else tuple(jnp.split(u, self.stepper.parts, axis=-1))

    def _join(self, u):
        return u if self.stepper.parts == 1 else jnp.concatenate(u, axis=-1)


def info_of(base: StepInfo, index: Any) -> StepInfo:
    """The info of step `index`: its key follows from that of the network and the index."""
    key = None if base.key is None else jax.random.fold_in(base.key, index)
    return StepInfo(key, index, base.count)


def _class(branch):
    return getattr(branch, "func", branch)


def _entry_branch(branch):
    """The branch where the shape changes: the same kind, unless it cannot change it."""
    return getattr(_class(branch), "entry", branch)
