"""What a run is: typed, frozen, and checked when it is made."""

import dataclasses
import difflib
import itertools
import sys
import types
import typing
from typing import Any, ClassVar, Literal

from lmjax import files, steppers
from lmjax.errors import InputError


def _require(condition: bool, key: str, must: str, value: Any) -> None:
    if not condition:
        raise InputError(f"{key}: must be {must}, got {_short(value)}")


def _short(value: Any) -> str:
    """A value as a message has it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints, or lists in lists in lists
        return "something too long to print"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _typed(value: Any, hint: Any, key: str) -> Any:
    """The value in the type that a field has: lists become tuples and whole numbers floats, where those are due."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        _require(value in arguments, key, f"one of {', '.join(arguments)}", value)
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(value, arguments[0], key)
    if origin is tuple:
        _require(isinstance(value, (tuple, list)), key, "several values", value)
        return tuple(_typed(x, arguments[0], key) for x in value)
    fits = isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
    _require(fits, key, f"of type {hint.__name__}", value)
    if hint is float:
        _require(abs(value) <= sys.float_info.max, key, "a finite number", value)
    elif hint is int:
        _require(abs(value) < 2**32, key, "a whole number below 2**32", value)
    return float(value) if hint is float else value


class _Checked:
    """Checks the fields of a config against their types, wherever they come from: Python, JSON or the command line."""

    prefix: ClassVar[str] = ""

    def __post_init__(self):
        for name, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is not ClassVar:
                object.__setattr__(self, name, _typed(getattr(self, name), hint, self.prefix + name))
        self.check()

    def check(self) -> None:
        """Checks what the types cannot say."""


@dataclasses.dataclass(frozen=True)
class DataConfig(_Checked):
    """The images and how they are augmented."""

    prefix: ClassVar[str] = "data."

    name: Literal["digits", "cifar10", "cifar100", "folder", "imagenet"] = "digits"
    """Which data set. "folder" is any folder train/<class>/*.jpg, test/<class>/*.jpg, decoded into memory. "imagenet"
    is ImageNet or any other set of photographs, as such a folder or prepared by tensorflow-datasets, read while
    training."""
    dir: str | None = None
    """Where it is. CIFAR is fetched when it is not there (None: the user's cache folder)."""
    size: int | None = None
    """Side in pixels to which the images of a folder are brought (None takes them as they are), and to which the crops
    of imagenet are scaled."""
    pad: int = 4
    """Random crops after padding by so many pixels on every side; 0 turns them off. For what is in memory."""
    padding: Literal["zero", "reflect"] = "zero"
    """What to pad with: black, or the mirrored image."""
    flip: bool = True
    """Mirror half of the training images left to right."""
    min_area: float = 0.08
    """Of imagenet: random crops take between this share of a photograph and all of it."""
    decoder: Literal["pillow", "turbo"] = "pillow"
    """Of imagenet, for random crops: Pillow, whose pixels are those of the usual recipes; or libjpeg-turbo with OpenCV,
    which is faster and not antialiased. An evaluation always uses Pillow."""
    on_error: Literal["stop", "skip"] = "stop"
    """Of imagenet, when an image cannot be decoded: stop and name it; or take another, leave it out of the evaluation,
    and report it."""
    workers: int | None = None
    """Of imagenet: processes that decode; 0 for threads alone. None: one for four cores where there are more than four.
    Neither this nor threads changes a number."""
    threads: int | None = None
    """Of imagenet: threads that decode, in each process; None: one a core, at most four."""

    def check(self):
        streamed = self.name == "imagenet"
        if self.dir is not None:
            files.local(self.dir, "data.dir:")
        _require(self.pad >= 0, "data.pad", "0 or more pixels", self.pad)
        _require(self.dir is None or self.name != "digits", "data.dir", "left out for the digits", self.dir)
        _require(self.size is None or 1 <= self.size <= 65535, "data.size", "from 1 to 65535 pixels", self.size)
        _require(
            self.size is None or streamed or self.name == "folder", "data.size",
            "left out unless data.name is folder or imagenet", self.size,
        )  # fmt: skip
        _require(0 < self.min_area <= 1, "data.min_area", "more than 0 and at most 1", self.min_area)
        _require(self.workers is None or self.workers >= 0, "data.workers", "0 or more", self.workers)
        _require(self.threads is None or self.threads >= 1, "data.threads", "at least 1", self.threads)
        if streamed:
            _require(self.size is not None, "data.size", "given for imagenet (224)", self.size)
            _require(self.pad == 0, "data.pad", "0 for imagenet, which is cropped at random sizes", self.pad)
        else:
            for field in dataclasses.fields(self):
                if field.name in ("min_area", "decoder", "on_error", "workers", "threads"):
                    value = getattr(self, field.name)
                    _require(
                        value == field.default, f"data.{field.name}", "left out unless data.name is imagenet", value
                    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(_Checked):
    """The network and the scheme that advances its features."""

    prefix: ClassVar[str] = "model."

    name: str = "resnet20"
    """A family of networks with its arguments, such as "resnet(56)", or a published name, such as resnet56 or
    resnext29_8x64d; see lmjax.networks."""
    stepper: str | None = None
    """euler (ResNet), lm (LM-ResNet), midpoint, rk4, leapfrog, reversible, ..., or a call such as "poly(3)" or
    "stochastic_depth(lm, survival=0.8)"; see lmjax.steppers. None: the one the network was published with."""
    width: float = 1.0
    """Multiplies the channels of all stages; below 1, those of the stem, too."""
    branch: str | None = None
    """The residual branch: basic, bottleneck, symmetric, or a call such as "bottleneck(groups=8)"; None: the network's
    own."""
    activation: Literal["pre", "post"] | None = None
    """Before each convolution, or after; None: the network's own."""
    shortcut: str | None = None
    """Where the shape changes: projection (a convolution), pad (averaging and zero channels); None: the network's
    own."""
    boundary: Literal["plain", "step"] | None = None
    """A stage begins with a plain step, or with one of the scheme, whose history then crosses the boundary by
    projections of its own; None: the network's own."""
    zero_init: bool = False
    """Start every residual branch at zero, by its last normalisation's scale (post-activated) or its last convolution's
    kernel (pre-activated): the network starts as its shortcuts."""
    sharing: Literal["none", "convolutions", "all"] = "none"
    """What the evaluations of one step share (poly, Runge-Kutta schemes)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters and statistics stay float32."""
    memory: Literal["stored", "remat", "reversible"] = "stored"
    """What the backward pass has of the activations: all, the states between the steps, or none (for schemes with an
    inverse: reversible, hamiltonian, leapfrog, verlet, momentum)."""
    unroll: bool | None = None
    """Lay the blocks out in the compiled program instead of compiling a loop; None: where all is stored (laid out, XLA
    may keep on a CPU what was to be forgotten)."""

    def check(self):
        _require(self.width > 0, "model.width", "positive", self.width)
        if self.stepper is not None:
            steppers.get(self.stepper)
            object.__setattr__(self, "stepper", steppers.normalize(self.stepper))
        if not self.name.isidentifier() or (self.branch, self.shortcut) != (None, None):
            from lmjax import networks  # only here, so that most configs do not need Flax

            networks.get(self.name)
            object.__setattr__(self, "name", networks.normalize(self.name))
            for key, known in (("branch", networks.branches), ("shortcut", networks.shortcuts)):
                if getattr(self, key) is not None:
                    known.get(getattr(self, key))
                    object.__setattr__(self, key, known.normalize(getattr(self, key)))

    def build(self, *, classes: int, cin: int, rngs: Any) -> Any:
        """The network, from `lmjax.networks.create`.

        Args:
            classes: how many logits.
            cin: channels of the images.
            rngs: an `nnx.Rngs`, which draws the initial parameters.
        """
        from lmjax import networks

        return networks.create(**dataclasses.asdict(self), classes=classes, cin=cin, rngs=rngs)

    def outline(self, *, classes: int, cin: int) -> Any:
        """The network without its numbers: what it costs may be asked of it, and nothing is allocated.

        Its steps are a loop in its program, so that depth costs nothing either.

        Args:
            classes: how many logits.
            cin: channels of the images.
        """
        from flax import nnx

        rolled = dataclasses.replace(self, unroll=False)
        return nnx.eval_shape(lambda: rolled.build(classes=classes, cin=cin, rngs=nnx.Rngs(0)))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(_Checked):
    """Stochastic gradient descent with momentum, and the learning rate's course."""

    prefix: ClassVar[str] = "optimizer."

    learning_rate: float = 0.1
    """At the start, or after the warm-up."""
    reference_batch_size: int | None = None
    """The learning rate is meant for so many images a step, and is multiplied by train.batch_size /
    reference_batch_size (the linear scaling rule); None: it is taken as it is."""
    schedule: Literal["steps", "cosine"] = "steps"
    """The learning rate falls at the milestones, or like half a cosine to 0 over the run."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """When the learning rate falls, as fractions of the run: they move along when train.epochs is changed. Those of a
    recipe do not apply under schedule cosine, and cannot be given with it on the command line."""
    drop: float = 0.1
    """By what factor it falls at each milestone; not with schedule cosine."""
    warmup_epochs: float = 0.0
    """Over so many epochs at the start, the schedule is multiplied by a ramp that rises linearly, step by step, to 1.
    Epochs, not a fraction of the run: they do not move along when train.epochs is changed."""
    momentum: float = 0.9
    """0 for none."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """Added to the gradient as weight_decay * parameter, biases and normalisation included."""
    decay_coefficients: bool = False
    """Decay the trainable coefficients of the scheme (k of LM), too."""
    train_coefficients: bool = True
    """False keeps them at their initial values: --model.stepper "lm(-0.5, -0.5)" then fixes k at -0.5."""
    coefficient_bounds: tuple[float, ...] | None = None
    """Two numbers between which the coefficients are kept after each update, e.g. -1 1; None: not at all."""

    def chosen_for_coefficients(self) -> list[str]:
        """The options set that only matter where the scheme has trainable coefficients."""
        options = {
            "decay_coefficients": self.decay_coefficients,
            "train_coefficients": not self.train_coefficients,
            "coefficient_bounds": self.coefficient_bounds is not None,
        }
        return [name for name, chosen in options.items() if chosen]

    def check(self):
        _require(self.learning_rate > 0, "optimizer.learning_rate", "positive", self.learning_rate)
        _require(
            all(0 < m < 1 for m in self.milestones) and all(a < b for a, b in itertools.pairwise(self.milestones)),
            "optimizer.milestones", "increasing fractions between 0 and 1", self.milestones,
        )  # fmt: skip
        _require(self.drop > 0, "optimizer.drop", "positive", self.drop)
        # A recipe's milestones differ from the default, so that only the command line can tell who has set them.
        default = OptimizerConfig.drop
        _require(
            self.schedule == "steps" or self.drop == default, "optimizer.drop",
            f"left at {default} with schedule {self.schedule}", self.drop,
        )  # fmt: skip
        images = self.reference_batch_size
        _require(images is None or images >= 1, "optimizer.reference_batch_size", "at least 1", images)
        _require(self.warmup_epochs >= 0, "optimizer.warmup_epochs", "0 or more", self.warmup_epochs)
        _require(0 <= self.momentum < 1, "optimizer.momentum", "at least 0 and less than 1", self.momentum)
        _require(self.momentum > 0 or not self.nesterov, "optimizer.nesterov", "off without momentum", self.nesterov)
        _require(self.weight_decay >= 0, "optimizer.weight_decay", "0 or more", self.weight_decay)
        bounds = self.coefficient_bounds
        _require(
            bounds is None or (len(bounds) == 2 and bounds[0] < bounds[1]), "optimizer.coefficient_bounds",
            "two increasing numbers", bounds,
        )  # fmt: skip
        _require(
            self.train_coefficients or not (self.decay_coefficients or bounds), "optimizer.train_coefficients",
            "on where the coefficients are decayed or bounded", self.train_coefficients,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainConfig(_Checked):
    """How long, in what portions, and what is kept."""

    prefix: ClassVar[str] = "train."

    epochs: int = 160
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    eval_batch_size: int = 500
    """Images a step of the evaluation."""
    steps_per_dispatch: int | None = None
    """Training steps in one compiled program; None chooses 1 on a CPU and about 50 on an accelerator. Always 1 for
    imagenet, whose batches come one by one."""
    label_smoothing: float = 0.0
    """This share of each target is spread evenly over all classes (Szegedy et al. 2016)."""
    average: float | None = None
    """Evaluate an exponential moving average of parameters and statistics with this decay a step, e.g. 0.9999; None
    evaluates them as they are."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """When the loss is infinite or NaN: stop and say at which step; leave out the updates in which it, or the gradient,
    is; or go back to the last checkpoint and on from there with other random draws and another order of the images."""
    nan_limit: int = 10
    """After so many updates left out in an epoch, or so often back in a run, it stops after all."""
    batch_norm_group: int | None = None
    """Take the statistics of batch normalisation over groups of so many images of a batch, whatever the number of
    devices; None: over the whole batch. No device waits for another while it divides the images a device has."""
    shard_parameters: bool = False
    """Divide the parameters and the optimiser's state over the devices (FSDP) instead of keeping all on each: for
    networks that are large for one device. The numbers do not change."""

    def check(self):
        for name in ("epochs", "batch_size", "eval_batch_size", "nan_limit"):
            _require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        steps = self.steps_per_dispatch
        _require(steps is None or steps >= 1, "train.steps_per_dispatch", "at least 1", steps)
        smoothing, average = self.label_smoothing, self.average
        group = self.batch_norm_group
        _require(
            group is None or (group >= 1 and self.batch_size % group == 0), "train.batch_norm_group",
            f"a divisor of train.batch_size ({self.batch_size})", group,
        )  # fmt: skip
        _require(0 <= smoothing < 1, "train.label_smoothing", "at least 0 and less than 1", smoothing)
        _require(average is None or 0 < average < 1, "train.average", "between 0 and 1", average)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(_Checked):
    """When the state of a run is kept: whenever one of these is due, when it is interrupted, and at its end."""

    prefix: ClassVar[str] = "checkpoint."

    minutes: float | None = 10.0
    """Minutes between checkpoints; None: whatever the time."""
    steps: int | None = None
    """Steps between checkpoints; None: whatever the step. A program that makes several steps is not divided."""
    epochs: int | None = None
    """Epochs between checkpoints; None: only for the other reasons."""
    keep_last: int = 2
    """How many of the newest are kept."""
    keep_best: int = 1
    """How many of those with the highest test accuracy after an epoch are kept besides; the end of an epoch that is
    among them is a reason to save. What is chosen by the test images is not judged by them any more."""

    def check(self):
        for name in ("minutes", "steps", "epochs"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"checkpoint.{name}", "positive", value)
        _require(self.keep_last >= 1, "checkpoint.keep_last", "at least 1", self.keep_last)
        _require(self.keep_best >= 0, "checkpoint.keep_best", "0 or more", self.keep_best)


@dataclasses.dataclass(frozen=True)
class Config(_Checked):
    """A run of train.py."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    seed: int = 0
    """Everything random follows from it: initial parameters, order, augmentation."""
    workdir: str | None = None
    """Where the run is written; None makes a new folder below runs/."""

    def check(self):
        if self.workdir is not None:
            files.local(self.workdir, "workdir:")
        _require(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)
        steps = self.train.steps_per_dispatch
        _require(
            self.data.name != "imagenet" or steps in (None, 1), "train.steps_per_dispatch",
            "left out for imagenet", steps,
        )  # fmt: skip


# What may differ between a checkpoint and the run that goes on from it: where things are, not what they are.
_PLACES = (
    "workdir",
    "data.dir",
    "data.on_error",
    "data.workers",
    "data.threads",
    "model.unroll",
    "train.eval_batch_size",
    "train.steps_per_dispatch",
    "train.shard_parameters",
    "train.nan_limit",
    "checkpoint.minutes",
    "checkpoint.steps",
    "checkpoint.epochs",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
)


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain data, as it is written to config.json."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The config of plain data, such as config.json.

    Raises:
        InputError: for a key that is none, with the nearest one, or a value that will not do.
    """
    return _build(Config, values, "")


def _build(cls, values, prefix):
    if not isinstance(values, dict):
        raise InputError(
            f"config: {prefix.rstrip('.') or 'it'} must be a table of keys and values, got {_short(values)}"
        )
    hints = {field.name: field.type for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            raise InputError(
                f"config: unknown key {_short(prefix + key)}"
                + (f": did you mean {prefix + close[0]!r}?" if close else "")
            )
        if dataclasses.is_dataclass(hints[key]):
            value = _build(hints[key], value, f"{prefix}{key}.")
        arguments[key] = value
    return cls(**arguments)


def differences(ours: Config, theirs: Config, sections: tuple[str, ...] | None = None) -> dict[str, tuple[Any, Any]]:
    """The keys at which two configs describe different runs, with the two values; places do not count.

    Args:
        ours, theirs: the configs.
        sections: only look at these and the keys in them, e.g. ("model", "train.average"); None looks at everything.
    """
    a, b = (flatten(to_dict(config)) for config in (ours, theirs))
    return {
        key: (a[key], b[key])
        for key in a
        if a[key] != b[key]
        and key not in _PLACES
        and (sections is None or key in sections or key.partition(".")[0] in sections)
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted keys: {"model": {"name": ...}} -> {"model.name": ...}."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
