"""A network is its stages, between a stem and a head."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import steppers
from lmjax.errors import InputError
from lmjax.networks.branches import Activation, Projection, Stem, basic
from lmjax.networks.normalization import LayerNorm, norm
from lmjax.networks.options import PUBLISHED, Boundary, Kind, Options, chosen, require_images
from lmjax.networks.stack import List, inner
from lmjax.networks.stage import Stage, class_of
from lmjax.promotion import at_least_float32
from lmjax.steppers import StepInfo, Stepper, euler, over_stage

NORMAL = jax.nn.initializers.truncated_normal(0.02)
"""N(0, 0.02^2) cut off at 0.04: for ConvNeXts, the patches, token and positions of ViTs, and the heads of both."""


def mean(u: jax.Array) -> jax.Array:
    """Features [N, H, W, C] -> their mean over the pixels, [N, C]."""
    return jnp.mean(u, axis=(1, 2))


def linear(channels: int, options: Options, *, rngs: nnx.Rngs) -> nnx.Linear:
    """The linear map to the logits, drawn from U(-1, 1) / sqrt(channels)."""
    uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Linear(channels, options.classes, kernel_init=uniform, rngs=rngs)


class NormalizedLinear(nnx.Module):
    """Normalization (layer), and a linear map to the logits, drawn from `NORMAL`."""

    def __init__(self, channels: int, options: Options, *, rngs: nnx.Rngs):
        wide = options.replace(dtype=at_least_float32(options.dtype))
        self.norm = norm(channels, wide, rngs, LayerNorm)
        self.linear = nnx.Linear(channels, options.classes, kernel_init=NORMAL, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, channels] -> logits [N, classes]."""
        return self.linear(self.norm(x))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The parts of a network, as it was published: a builder, `architecture(options, rngs)` is a `Network`.

    Attributes:
        depths: how many steps each stage has.
        channels: how many channels each stage has. All stages but the first halve the resolution.
        stem: how many channels the stem has; None for those of the first stage.
        branch: the residual branch, e.g. `bottleneck(groups=8)`.
        shortcut: where the shape changes, e.g. `Projection`.
        first: makes the stem, e.g. `functools.partial(Stem, size=7, stride=2, pool=True)`.
        activation: makes what is before the mean over the pixels if pre-activated, `activation(channels, options,
            rngs=rngs)`; None for nothing.
        pool: features -> [N, C], in at least float32.
        head: makes the rest, `head(channels, options, rngs=rngs)`.
        post: post-activated, unless the options place normalization and activation before each convolution.
        boundary: how a stage begins; see `Stage`.
        stepper: the scheme.
        takes: the classes of branches that may be chosen instead of its own; None for any.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    stem: int | None = None
    branch: Kind = basic()  # noqa: RUF009
    shortcut: Kind = Projection
    first: Callable[..., nnx.Module] = Stem
    activation: Callable[..., nnx.Module] | None = Activation
    pool: Callable[[jax.Array], jax.Array] = mean
    head: Callable[..., nnx.Module] = linear
    post: bool = False
    boundary: Boundary = "plain"
    stepper: Stepper = euler()  # noqa: RUF009
    takes: tuple[type, ...] | None = None

    def __call__(self, options: Options, rngs: nnx.Rngs) -> "Network":
        """The network."""
        return Network(self, options, rngs=rngs)

    def complete(self, options: Options) -> Options:
        """The options, those that are not set filled in as published for this network.

        Raises:
            InputError: if options contradict each other or the network.
        """
        o, stepper = options, options.stepper or self.stepper
        if stepper.parts < self.stepper.parts:
            raise InputError(
                f"network: it is made for a coupled scheme such as {self.stepper.name}, not for {stepper.name}: leave "
                "the stepper out (on the command line --model.stepper None), or choose a resnet"
            )
        if o.branch is not None and self.takes is not None and class_of(o.branch) not in self.takes:
            raise InputError("network: it has branches of its own: leave out branch, or choose a resnet")
        if o.boundary == "step" and stepper.evaluations * stepper.parts == 1 and stepper.known.steps_back == 0:
            raise InputError(
                f"boundary step: {stepper.name} has no history and one branch, so that a first step is plain"
            )
        if o.sharing != "none" and stepper.evaluations == 1:
            raise InputError(f"sharing {o.sharing}: {stepper.name} has one branch a step, and nothing to share it with")
        boundary = o.boundary or self.boundary
        if max(self.depths) == 1 and boundary == "plain" and over_stage(stepper, 1)[0] is not stepper:
            raise InputError(
                f"a stage of one step is that of Euler, so that {stepper.name} would take no step at all: "
                "choose a deeper network, stepper euler, or boundary step"
            )
        return o.replace(
            stepper=stepper, boundary=boundary, branch=o.branch or self.branch, shortcut=o.shortcut or self.shortcut,
            placement=o.placement or ("post" if self.post else "pre"),
        )  # fmt: skip


def _call(stage: Stage, u: jax.Array, history: Any, info: StepInfo) -> tuple[jax.Array, Any]:
    return stage(u, history, info=info)  # by name, as nnx.tabulate can show it


class Network(nnx.Module):
    """Stem, stages, and the head.

    A normal NNX module: `model(images)` gives logits, `model.train()` and `model.eval()` switch batch normalization
    and randomness, and it starts in training mode. Every variable of the steps of a stage has a leading axis, the
    step.

    Args:
        architecture: see there.
        options: what is chosen instead of what is published.
        rngs: draws the initial parameters.

    Raises:
        InputError: if the channels cannot be split as the scheme needs, if the scheme cannot cross the boundaries or
            be undone where that is asked for, or if the stages are too short for the scheme to take a step.
    """

    def __init__(self, architecture: Architecture, options: Options = PUBLISHED, *, rngs: nnx.Rngs):
        a, o = architecture, architecture.complete(options)
        self.stepper, self.deterministic = chosen(o.stepper, "stepper"), False
        self.stream = at_least_float32(o.dtype) if o.memory == "reversible" else o.dtype
        channels = tuple(map(o.channels, a.channels))
        widths = (channels[0] if a.stem is None else min(o.channels(a.stem), a.stem), *channels)
        self.cin = o.cin
        self.stem = a.first(o.cin, widths[0], options=o, rngs=rngs)
        self.stages = List(
            [
                # Random numbers of its own, so that the options of one stage do not change what the next one draws.
                Stage(
                    o, widths[i], widths[i + 1], depth, stride=min(i + 1, 2), first=i == 0, rngs=nnx.Rngs(rngs.params())
                )
                for i, depth in enumerate(a.depths)
            ]
        )  # fmt: skip
        self.activation = None if a.activation is None or o.post else a.activation(widths[-1], o, rngs=rngs)
        self.pool = a.pool
        self.head = a.head(widths[-1], o, rngs=rngs)

    @property
    def random(self) -> bool:
        """True if training needs a key."""
        return self.stepper.random

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """[N, H, W, cin], normalized -> logits [N, classes], float32.

        Args:
            images: the images.
            key: from which everything random of this step of training follows; needed to train a network that is
                `random`, and not used otherwise.

        Raises:
            InputError: if a key is missing, or the images have another shape.
        """
        if self.random and not self.deterministic and key is None:
            raise InputError(
                f"{self.stepper.name} draws random numbers in training: call model(images, key), or model.eval() first"
            )
        features = self.features(images, key)
        with jax.named_scope("head"):
            return self.classify(features)

    @inner
    def features(
        self, images: jax.Array, key: jax.Array | None = None,
        visit: Callable[[Stage, jax.Array, Any, StepInfo], tuple[jax.Array, Any]] = _call,
    ) -> jax.Array:  # fmt: skip
        """Images [N, H, W, cin], normalized -> the features after the last stage.

        Args:
            images, key: as of a call.
            visit: goes through a stage: from the stage, the features, the history of the stage before, and the
                `StepInfo` of its first step to the features and the history after it, as a call of the stage does.
        """
        key = None if self.deterministic else key
        require_images(images, self.cin)
        # The names are for a trace (train.py --profile): they are in no operation.
        with jax.named_scope("stem"):
            u, history, index = self.stem(images).astype(self.stream), None, 0
        count = sum(stage.depth for stage in self.stages)
        for number, stage in enumerate(self.stages, start=1):
            with jax.named_scope(f"stage{number}"):
                u, history = visit(stage, u, history, StepInfo(key, index, count))
            index += stage.depth
        return u

    @inner
    def classify(self, u: jax.Array) -> jax.Array:
        """The head: features after the last stage -> logits [N, classes], float32."""
        u = u if self.activation is None else self.activation(u)
        return self.head(self.pool(u.astype(at_least_float32(u.dtype))))


def scheme(network: nnx.Module) -> str:
    """Name of the scheme that advances the features of a network; "none" for one that has no stepper."""
    stepper = getattr(network, "stepper", None)
    return getattr(network, "scheme", stepper.name if stepper else "none")


def coefficients(network: nnx.Module) -> dict[str, jax.Array]:
    """The learned coefficients, by stage: for `lm`, {"stage1": k of its steps, ...}, each of shape [steps, ...].

    A scheme with several kinds of coefficients has an entry each, "stage1.0", "stage1.1", .... A first step that is
    a plain one has none.
    """
    found = {}
    for i, stage in enumerate(getattr(network, "stages", ()), start=1):
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
    for i, stage in enumerate(getattr(network, "stages", ()), start=1):
        stacked = _stacked_coefficients(stage)
        if stacked and stage.stepper.known.characteristic is not None:
            tree = stage.steps.item.coefficient_tree if stage.steps.depth else stage.entry.coefficient_tree
            found[f"stage{i}"] = steppers.zero_stability(stage.stepper, jax.tree.unflatten(tree, stacked))
    return found


def _stacked_coefficients(stage: Stage) -> list[jax.Array]:
    """One array for each kind of coefficient, with a leading axis, the step."""
    stacked = [x[...] for x in stage.steps.item.coefficients] if stage.steps.depth else []
    entry = [x[...][None] for x in stage.entry.coefficients] if stage.entry is not None else []
    return [jnp.concatenate(each) for each in zip(*filter(None, (entry, stacked)), strict=True)]


def parameter_count(network: nnx.Module) -> int:
    """The number of trainable numbers of a module."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
