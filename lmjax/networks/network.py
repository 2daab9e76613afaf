"""From steppers to networks: a block is one step, a stage integrates at one resolution, a network is its stages."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.branches import Activation, Projection, conv
from lmjax.networks.stack import List, Stack, changed, statistics
from lmjax.steppers import Stepper, combine, euler


class Coefficient(nnx.Param):
    """A trainable coefficient of a scheme, such as k of LM: a parameter that can be told from the weights by type."""


class Block(nnx.Module):
    """One step of a scheme: its branches, one an evaluation, and its coefficients.

    A branch that the scheme evaluates several times in one step (as `backward_euler` does) updates its running
    statistics once, with those of the last evaluation.
    """

    def __init__(self, stepper: Stepper, branch: Callable[..., nnx.Module], channels: int, *, rngs: nnx.Rngs):
        self.stepper = stepper
        width = channels // stepper.parts
        self.branches = List([branch(width, width, rngs=rngs) for _ in range(stepper.stages)])
        self.coefficients, self.coefficient_tree = _coefficients(stepper, channels, rngs)

    def __call__(self, u: Any, memory: Any) -> tuple[Any, Any]:
        """(u, memory) -> (u, memory) of the next step."""
        fs = [_Pure(branch) for branch in self.branches]
        u, memory = self.stepper.step(tuple(fs), u, memory, _values(self.coefficients, self.coefficient_tree))
        for f in fs:
            f.keep_statistics()
        return u, memory


class _Pure:
    """A module as a pure function, so that a scheme may evaluate it as often as it likes, in loops and solvers, too."""

    def __init__(self, module: nnx.Module):
        self.module = module
        self.graph, variables = nnx.split(module)
        self.variables = nnx.to_pure_dict(variables)  # arrays, from which every evaluation makes variables of its own
        self.statistics = {}

    def __call__(self, u):
        copy = nnx.merge(self.graph, self.variables)
        before = statistics(copy)
        f = copy(u)
        self.statistics = changed(before, statistics(copy))
        return f

    def keep_statistics(self):
        nnx.update(self.module, self.statistics)


def _coefficients(stepper, channels, rngs):
    coef = () if stepper.coef is None else stepper.coef(rngs.params(), channels)
    leaves, tree = jax.tree.flatten(coef)
    return List([Coefficient(leaf) for leaf in leaves]), tree


def _values(coefficients, tree):
    return jax.tree.unflatten(tree, [variable[...] for variable in coefficients])


class Stage(nnx.Module):
    """The steps at one resolution.

    The first step is a plain one, u = P(v) + f(v): P is the identity, or BN-ReLU-conv1x1 where the shape changes.
    The projected input P(v) then is the history with which a multistep scheme goes on (as in the authors' code).

    Args:
        stepper: the scheme.
        branch: the residual branch, e.g. `Basic`, called as `branch(cin, cout, stride=..., dtype=..., rngs=...)`.
        cin, cout: channels before and after.
        depth: how many steps, at least 1, the first one included.
        stride: of the first step.
        project_history: makes the first step a step of the scheme, too, on the history of the stage before, brought
            to the new shape by projections of its own; for multistep schemes.
        dtype, unroll, remat: see `Network`.
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
        project_history: bool = False,
        dtype: DTypeLike = jnp.float32,
        unroll: bool | int = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if cout % stepper.parts:
            raise InputError(
                f"{stepper.name} splits the channels into {stepper.parts} equal parts, and {cout} does not divide"
            )
        self.stepper = stepper

        def projection():
            return Projection(cin, cout, stride=stride, dtype=dtype, rngs=rngs)

        self.shortcut = projection() if stride != 1 or cin != cout else None
        self.entry = branch(cin, cout, stride=stride, dtype=dtype, rngs=rngs)

        def block(rngs):
            return Block(stepper, lambda *channels, rngs: branch(*channels, dtype=dtype, rngs=rngs), cout, rngs=rngs)

        self.steps = Stack(block, depth - 1, unroll=unroll, remat=remat, rngs=rngs)
        self.project_history = project_history
        if project_history:  # drawn last, so that everything else starts from the same values with it and without
            remembered = jax.tree.leaves(jax.eval_shape(stepper.init, jnp.zeros(())))
            self.history = List([projection() for _ in remembered])
            self.coefficients, self.coefficient_tree = _coefficients(stepper, cout, rngs)

    def __call__(self, u: jax.Array, memory: Any = None) -> tuple[jax.Array, Any]:
        """[N, H, W, cin] and the memory of the stage before -> [N, H / stride, W / stride, cout] and the memory."""
        v = u if self.shortcut is None else self.shortcut(u)
        increment = self.entry(u)
        if self.project_history:
            leaves, tree = jax.tree.flatten(memory)
            memory = jax.tree.unflatten(tree, [project(x) for project, x in zip(self.history, leaves, strict=True)])
            coef = _values(self.coefficients, self.coefficient_tree)
            u, memory = self.stepper.step((lambda _: increment,), v, memory, coef)
        else:
            u, memory = combine((1, v), (1, increment)), self.stepper.init(self._split(v))
        u, memory = self.steps.scan(lambda block, carry: block(*carry), (self._split(u), memory))
        return self._join(u), memory

    def _split(self, u):
        return u if self.stepper.parts == 1 else tuple(jnp.split(u, self.stepper.parts, axis=-1))

    def _join(self, u):
        return u if self.stepper.parts == 1 else jnp.concatenate(u, axis=-1)


class Network(nnx.Module):
    """Stem conv3x3, stages, and the head BN-ReLU-average-linear.

    A normal NNX module: `model(images)` gives logits, `model.train()` and `model.eval()` switch batch normalisation,
    and it starts in training mode. Every variable of the steps of a stage has a leading axis, the step.

    Args:
        stepper: the scheme that advances the features.
        branch: the residual branch, e.g. `Basic`.
        depths: how many steps each stage has.
        channels: how many channels each stage has. All stages but the first halve the resolution.
        stem: how many channels the stem has.
        classes: how many logits.
        cin: channels of the images.
        project_history: whether a multistep scheme's history crosses the stage boundaries; see `Stage`.
        dtype: of the computation. Parameters, running statistics, coefficients and logits are float32 throughout.
        unroll, remat: see `Stack`.
        rngs: draws the initial parameters.

    Raises:
        InputError: if the channels cannot be split as the scheme needs, if a history is to be projected that the
            scheme does not have, or if the stages are too short for the scheme to take a step.
    """

    def __init__(
        self,
        stepper: Stepper,
        branch: Callable[..., nnx.Module],
        depths: Sequence[int],
        channels: Sequence[int],
        *,
        stem: int,
        classes: int,
        cin: int = 3,
        project_history: bool = False,
        dtype: DTypeLike = jnp.float32,
        unroll: bool | int = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if project_history and not stepper.history:
            raise InputError(f"project_history: {stepper.name} is a one-step scheme and has no history to project")
        if max(depths) == 1 and not project_history and stepper is not euler():
            raise InputError(
                f"a stage of one step is that of Euler, so that {stepper.name} would take no step at all: "
                "choose a deeper network, or stepper euler"
            )
        self.stem = conv(cin, stem, 3, dtype=dtype, rngs=rngs)
        widths = (stem, *channels)
        self.stages = List(
            [
                Stage(
                    stepper, branch, widths[i], widths[i + 1], depth,
                    stride=1 if i == 0 else 2, project_history=project_history and i > 0,
                    dtype=dtype, unroll=unroll, remat=remat,
                    # Its own, so that the options of one stage do not change what the next one draws.
                    rngs=nnx.Rngs(rngs.params()),
                )
                for i, depth in enumerate(depths)
            ]
        )  # fmt: skip
        self.activation = Activation(widths[-1], dtype=dtype, rngs=rngs)
        uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(-1, 1) / sqrt(fan-in)
        self.head = nnx.Linear(widths[-1], classes, kernel_init=uniform, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, H, W, cin], normalised -> logits [N, classes], float32."""
        u, memory = self.stem(images), None
        for stage in self.stages:
            u, memory = stage(u, memory)
        features = jnp.mean(self.activation(u).astype(jnp.float32), axis=(1, 2))
        return self.head(features)


def coefficients(network: Network) -> dict[str, jax.Array]:
    """The learned coefficients, by stage: for `lm`, {"stage1": k of its steps, ...}, each of shape [steps, ...].

    A scheme with several kinds of coefficients has an entry each, "stage1.0", "stage1.1", .... The first step of a
    stage is a plain one and has none, unless the history is projected; then its coefficient comes first.
    """
    found = {}
    for i, stage in enumerate(network.stages, start=1):
        stacked = [x[...] for x in stage.steps.item.coefficients] if stage.steps.depth else []
        if stage.project_history:
            entry = [x[...][None] for x in stage.coefficients]
            stacked = [jnp.concatenate(pair) for pair in zip(entry, stacked, strict=True)] if stacked else entry
        for j, values in enumerate(stacked):
            found[f"stage{i}" if len(stacked) == 1 else f"stage{i}.{j}"] = values
    return found


def parameter_count(network: nnx.Module) -> int:
    """How many trainable numbers a module has."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
