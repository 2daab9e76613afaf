"""A network is its stages, between a stem and a head."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax import steppers
from lmjax.errors import InputError
from lmjax.networks.block import Sharing
from lmjax.networks.branches import Activation, Basic, Projection, Stem
from lmjax.networks.stack import List
from lmjax.networks.stage import Boundary, Memory, Stage
from lmjax.steppers import StepInfo, Stepper, euler


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a network is, but for the scheme: its stages, and the kinds of its parts.

    Attributes:
        depths: how many steps each stage has.
        channels: how many channels each stage has. All stages but the first halve the resolution.
        stem: how many channels the stem has.
        branch: the residual branch, e.g. `Basic` or `functools.partial(Bottleneck, inner=2, groups=8)`.
        shortcut: where the shape changes, e.g. `Projection`.
        stem_options: of `Stem`, as pairs, e.g. (("size", 7), ("stride", 2), ("pool", True)).
        post: post-activated: BN after each convolution, and the state rectified after each step.
        boundary: how a stage begins; see `Stage`.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    stem: int
    branch: Callable[..., nnx.Module] = Basic
    shortcut: Callable[..., nnx.Module] = Projection
    stem_options: tuple[tuple[str, Any], ...] = ()
    post: bool = False
    boundary: Boundary = "plain"


class Network(nnx.Module):
    """Stem, stages, and the head: BN-ReLU (if pre-activated), the mean over the pixels, and a linear map.

    A normal NNX module: `model(images)` gives logits, `model.train()` and `model.eval()` switch batch normalisation
    and randomness, and it starts in training mode. Every variable of the steps of a stage has a leading axis, the
    step.

    Args:
        architecture: see there.
        stepper: the scheme that advances the features.
        classes: how many logits.
        cin: channels of the images.
        sharing: what the evaluations of one step share: "none", "convolutions" or "all"; see `Block`. The first step
            of a stage, in which they differ in shape, shares nothing.
        dtype: of the computation. Parameters, running statistics, coefficients and logits are float32 throughout; with
            float64 (and such parameters, under jax_enable_x64) everything is float64.
        unroll: see `Stack`; None is True if everything is stored, else False: laid out one after another, the steps
            leave the compiler free to keep what it was to forget, and XLA does so on a CPU.
        memory: what the backward pass has of the steps. "stored": everything. "remat": the states between the steps;
            what is inside is computed again. "reversible": nothing; the states are rebuilt, for schemes with an
            inverse (see `lmjax.reversible`). The features between the branches then are float32 whatever the dtype,
            since rebuilding them in half precision loses them within a few steps.
        rngs: draws the initial parameters.

    Raises:
        InputError: if the channels cannot be split as the scheme needs, if the scheme cannot cross the boundaries or
            be undone where that is asked for, or if the stages are too short for the scheme to take a step.
    """

    def __init__(
        self,
        architecture: Architecture,
        stepper: Stepper,
        *,
        classes: int,
        cin: int = 3,
        sharing: Sharing = "none",
        dtype: DTypeLike = jnp.float32,
        unroll: bool | int | None = None,
        memory: Memory = "stored",
        rngs: nnx.Rngs,
    ):
        a = architecture
        unroll = memory == "stored" if unroll is None else unroll
        if max(a.depths) == 1 and a.boundary == "plain" and stepper is not euler():
            raise InputError(
                f"a stage of one step is that of Euler, so that {stepper.name} would take no step at all: "
                "choose a deeper network, stepper euler, or boundary step"
            )
        if sharing != "none" and stepper.evaluations == 1:
            raise InputError(f"sharing {sharing}: {stepper.name} has one branch a step, and nothing to share it with")
        self.stepper, self.deterministic = stepper, False
        self.stream = jnp.promote_types(dtype, jnp.float32) if memory == "reversible" else dtype
        self.stem = Stem(cin, a.stem, **dict(a.stem_options), dtype=dtype, rngs=rngs)
        widths = (a.stem, *a.channels)
        self.stages = List(
            [
                Stage(
                    stepper, a.branch, widths[i], widths[i + 1], depth,
                    stride=1 if i == 0 else 2, shortcut=a.shortcut, boundary=a.boundary, first=i == 0,
                    sharing=sharing, post=a.post, dtype=dtype, unroll=unroll, memory=memory,
                    # Its own, so that the options of one stage do not change what the next one draws.
                    rngs=nnx.Rngs(rngs.params()),
                )
                for i, depth in enumerate(a.depths)
            ]
        )  # fmt: skip
        self.activation = None if a.post else Activation(widths[-1], dtype=dtype, rngs=rngs)
        uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(-1, 1) / sqrt(fan-in)
        self.head = nnx.Linear(widths[-1], classes, kernel_init=uniform, rngs=rngs)

    @property
    def scheme(self) -> str:
        """What the scheme is called."""
        return self.stepper.name

    @property
    def random(self) -> bool:
        """Whether training it needs a key."""
        return self.stepper.random

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """[N, H, W, cin], normalised -> logits [N, classes], float32.

        Args:
            images: the images.
            key: from which everything random of this step of training follows; needed to train a network that is
                `random`, and not used otherwise.

        Raises:
            InputError: if a key is missing.
        """
        if self.random and not self.deterministic and key is None:
            raise InputError(
                f"{self.stepper.name} draws random numbers in training: call model(images, key), or model.eval() first"
            )
        key = None if self.deterministic else key
        # The names are for a trace (train.py --profile): they are in no operation.
        with jax.named_scope("stem"):
            u, history, index = self.stem(images).astype(self.stream), None, 0
        count = sum(stage.depth for stage in self.stages)
        for number, stage in enumerate(self.stages, start=1):
            with jax.named_scope(f"stage{number}"):
                u, history = stage(u, history, StepInfo(key, index, count))
            index += stage.depth
        with jax.named_scope("head"):
            return self.classify(u)

    def classify(self, u: jax.Array) -> jax.Array:
        """The head: features after the last stage [N, H, W, C] -> logits [N, classes], float32."""
        u = u if self.activation is None else self.activation(u)
        return self.head(jnp.mean(u.astype(jnp.promote_types(u.dtype, jnp.float32)), axis=(1, 2)))


def coefficients(network: nnx.Module) -> dict[str, jax.Array]:
    """The learned coefficients, by stage: for `lm`, {"stage1": k of its steps, ...}, each of shape [steps, ...].

    A scheme with several kinds of coefficients has an entry each, "stage1.0", "stage1.1", .... A first step that is
    a plain one has none.
    """
    found = {}
    for i, stage in _stages(network):
        stacked = _stacked_coefficients(stage)
        for j, values in enumerate(stacked):
            found[f"stage{i}" if len(stacked) == 1 else f"stage{i}.{j}"] = values
    return found


def zero_stability(network: nnx.Module) -> dict[str, Any]:
    """By how much the scheme with its learned coefficients is zero-stable, at each step: see the steppers' own.

    Returns:
        {"stage1": margins [steps, ...], ...}; empty if the scheme has no coefficients that it could depend on.
    """
    found = {}
    for i, stage in _stages(network):
        stacked = _stacked_coefficients(stage)
        if stacked and stage.stepper.known.characteristic is not None:
            tree = stage.steps.item.coefficient_tree if stage.steps.depth else stage.entry.coefficient_tree
            found[f"stage{i}"] = steppers.zero_stability(stage.stepper, jax.tree.unflatten(tree, stacked))
    return found


def _stages(network):
    return enumerate(getattr(network, "stages", ()), start=1)


def _stacked_coefficients(stage: Stage) -> list[jax.Array]:
    """One array for each kind of coefficient, with a leading axis, the step."""
    stacked = [x[...] for x in stage.steps.item.coefficients] if stage.steps.depth else []
    entry = [x[...][None] for x in stage.entry.coefficients] if stage.entry is not None else []
    if entry and stacked:
        return [jnp.concatenate(pair) for pair in zip(entry, stacked, strict=True)]
    return entry or stacked


def parameter_count(network: nnx.Module) -> int:
    """How many trainable numbers a module has."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
