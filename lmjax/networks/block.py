"""A block is one step of a scheme: its branches and its coefficients."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.errors import InputError
from lmjax.networks.options import Options, chosen
from lmjax.networks.stack import List, inner, observed
from lmjax.steppers import StepInfo, Stepper


class Coefficient(nnx.Param):
    """A trainable coefficient of a scheme, such as k of LM: a parameter that can be told from the weights by type."""


class Block(nnx.Module):
    """One step of a scheme: its branches, one an evaluation, and its coefficients.

    Batch normalization updates its running statistics once a step, whatever the scheme. Other variables that a branch
    changes, such as the counter of nnx.Dropout, are those of its last evaluation. For the statistics:

    - Where evaluations share convolutions, each normalizes with statistics, scale and bias of its own (as in the
      released PolyNet): f(u) and f(f(u)) are distributed differently, and evaluating with the statistics of the other
      would not be the function that was trained.
    - Where they share everything, the update is the mean over the evaluations.
    - Where the scheme evaluates one branch repeatedly until it converges (`backward_euler`), the update is that of
      the last evaluation.

    Args:
        options: the scheme; the branch; what its evaluations share: nothing, their convolutions, or everything; and,
            if post-activated, the activation of the state after the step.
        channels: of the state.
        rngs: draws the initial parameters.
    """

    def __init__(self, options: Options, channels: int, *, rngs: nnx.Rngs):
        self.stepper, self.after = chosen(options.stepper, "stepper"), options.after
        branch = chosen(options.branch, "branch")
        width = channels // self.stepper.parts
        count = 1 if options.sharing == "all" else self.stepper.evaluations
        self.branches = List([branch(width, width, options=options, rngs=rngs) for _ in range(count)])
        if options.sharing == "convolutions":
            for other in self.branches[1:]:
                _share_convolutions(self.branches[0], other)
        self.coefficients, self.coefficient_tree = draw_coefficients(self.stepper, channels, rngs)

    def __call__(self, u: Any, history: Any, info: StepInfo | None = None) -> tuple[Any, Any]:
        """(u, history) -> (u, history) of the next step."""
        modules = self.evaluated()
        fs = [PureBranch(module) for module in modules]
        u, history = self.stepper.step(tuple(fs), u, history, self.values(), info)
        for branch, update in self.merged([f.changes for f in fs]):
            nnx.update(branch, update)
        return jax.tree.map(self.after, u), history

    @inner
    def evaluated(self) -> list[nnx.Module]:
        """The branch of each evaluation."""
        return [self.branches[i % len(self.branches)] for i in range(self.stepper.evaluations)]

    @inner
    def merged(self, updates: list[dict]) -> list[tuple[nnx.Module, dict]]:
        """Each branch, and its variables after the evaluations that have left these."""
        if len(updates) > len(self.branches):  # one shared branch: mean of statistics, last of counters
            updates = [jax.tree.map(_mean, *updates)]
        return list(zip(self.branches, updates, strict=True))

    @inner
    def values(self) -> Any:
        """The coefficients, as the scheme takes them."""
        return jax.tree.unflatten(self.coefficient_tree, [variable[...] for variable in self.coefficients])


class PureBranch:
    """A module as a pure function, so that a scheme may evaluate it as often as it likes, in loops and solvers, too.

    Attributes:
        changes: its variables that are not trained, after the last evaluation; {} if that has not changed them.
    """

    def __init__(self, module: nnx.Module):
        self.graph, variables = nnx.split(module)
        self.variables = nnx.to_pure_dict(variables)  # plain arrays: each evaluation makes its own variables of them
        self.changes = {}

    def __call__(self, u: Any) -> Any:
        copy = nnx.merge(self.graph, self.variables)
        f, self.changes = observed(copy, lambda: copy(u))
        return f


def _mean(*values):
    return sum(values) / len(values) if jnp.issubdtype(values[0].dtype, jnp.floating) else values[-1]


def _share_convolutions(first, other):
    names = [name for name, child in vars(other).items() if isinstance(child, nnx.Conv)]
    if not names:
        raise InputError("sharing convolutions: this branch has no nnx.Conv of its own: choose all or none")
    for name in names:
        setattr(other, name, getattr(first, name))


def draw_coefficients(stepper: Stepper, channels: int, rngs: nnx.Rngs) -> tuple[Any, Any]:
    """The initial coefficients of a step as variables, and their structure."""
    coef = () if stepper.coef is None else stepper.coef(rngs.params(), channels)
    leaves, tree = jax.tree.flatten(coef)
    return List([Coefficient(leaf) for leaf in leaves]), tree
