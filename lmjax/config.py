"""The config of a run: typed, frozen, and checked when it is made."""

import dataclasses
import difflib
import sys
import types
import typing
from pathlib import Path
from typing import Any, ClassVar, Literal

from lmjax import files, optimizers, schedules, steppers
from lmjax.data import Dataset, Photographs, datasets
from lmjax.data.augment import augmentations, parse
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
    """Fields that are checked against their types, wherever they come from: Python, JSON or the command line."""

    prefix: ClassVar[str] = ""

    def __post_init__(self):
        for name, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is not ClassVar:
                object.__setattr__(self, name, _typed(getattr(self, name), hint, self.prefix + name))
        self.check()

    def check(self) -> None:
        """Check what the types cannot say."""


@dataclasses.dataclass(frozen=True)
class DataConfig(_Checked):
    """The images and how they are augmented."""

    prefix: ClassVar[str] = "data."

    name: str = "digits"
    """The data set: digits, cifar10, cifar100, or a call such as "folder(32)", "tfds(mnist)" or "photographs(224)";
    see `lmjax list datasets`."""
    dir: str | None = None
    """Folder of the data; None: where the data set itself looks, or nowhere (digits)."""
    augment: tuple[str, ...] = ("default",)
    """Done to the training images, in this order, as in --data.augment "crop(4)" flip "cutout(8)" "mixup(0.2)"; see
    `lmjax list augmentations`. "default" alone is "crop(4)" "flip" for what is in memory, "crop_area(0.08)"
    "flip" for photographs; "none" alone, or nothing at all, is none. Where labels are mixed, the loss is the
    cross-entropy with the mixture, and the training accuracy counts the label with the larger share. An evaluation has
    none of this.
    """
    on_error: Literal["stop", "skip"] = "stop"
    """Reaction to an image that cannot be decoded: stop and name it; or skip and report it. Where photographs are read
    while training, another one takes its place in a batch."""
    workers: int | None = None
    """Processes that decode while training; 0 for threads alone. None: one for four cores where there are more than
    four. Neither this nor threads changes a number."""
    threads: int | None = None
    """Threads that decode while training, in each process; None: one a core, at most four."""

    @property
    def origin(self) -> datasets.Origin:
        """The origin of the images."""
        return datasets.get(self.name)

    def load(self) -> Dataset | Photographs:
        """The images, from `lmjax.data.load`."""
        return datasets.load(self.name, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"directory": self.dir, "on_error": self.on_error, "workers": self.workers, "threads": self.threads}

    def check(self):
        if self.dir is not None:
            object.__setattr__(self, "dir", str(files.local(self.dir, "data.dir:")))
        _require(self.workers is None or self.workers >= 0, "data.workers", "0 or more", self.workers)
        _require(self.threads is None or self.threads >= 1, "data.threads", "at least 1", self.threads)
        if self.name == "imagenet":
            raise InputError('data.name: imagenet is now "photographs(224)"')
        origin = self.origin
        origin.options(self.name, **self._options())
        object.__setattr__(self, "name", datasets.normalize(self.name))
        words: dict[tuple[str, ...], tuple[str, ...]] = {
            ("default",): ("crop_area(0.08)" if origin.streamed else "crop(4)", "flip"), ("none",): (),
        }  # fmt: skip
        augment = tuple(map(augmentations.normalize, words.get(self.augment, self.augment)))
        parse(augment, streamed=origin.streamed)
        object.__setattr__(self, "augment", augment)


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
    """The residual branch: basic, bottleneck, symmetric, or a call such as "bottleneck(groups=4)"; None: the network's
    own."""
    normalization: str | None = None
    """batch, layer, rms, or a call such as "group(8)", of the whole network; None: the network's own."""
    activation: str | None = None
    """relu, gelu, silu, ..., of the whole network; None: the network's own."""
    placement: Literal["pre", "post"] | None = None
    """Place of normalization and activation: before each convolution, or after; None: the network's own."""
    shortcut: str | None = None
    """Shortcut at a change of shape: projection (a convolution), pad (averaging and zero channels); None: the network's
    own."""
    boundary: Literal["plain", "step"] | None = None
    """A stage begins with a plain step, or with one of the scheme, whose history then crosses the boundary by
    projections of its own; None: the network's own."""
    zero_init: bool = False
    """Start every residual branch at zero, by its last normalization's scale (post-activated) or its last convolution's
    kernel (pre-activated): the network starts as its shortcuts."""
    sharing: Literal["none", "convolutions", "all"] = "none"
    """Parts that the evaluations of one step share (poly, Runge-Kutta schemes)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters and statistics stay float32."""
    memory: Literal["stored", "remat", "reversible"] = "stored"
    """Activations kept for the backward pass: all, the states between the steps, or none (for schemes with an
    inverse: reversible, hamiltonian, leapfrog, verlet, momentum)."""
    unroll: bool | None = None
    """True lays the blocks out in the compiled program, False compiles a loop; None: laid out with memory stored, else
    a loop (laid out, XLA on a CPU may keep activations that remat or reversible should drop)."""

    def check(self):
        _require(self.width > 0, "model.width", "positive", self.width)
        if self.stepper is not None:
            steppers.get(self.stepper)
            object.__setattr__(self, "stepper", steppers.normalize(self.stepper))
        _require(
            self.activation not in ("pre", "post"), "model.activation",
            "a function such as relu (before or after the convolutions is model.placement now)", self.activation,
        )  # fmt: skip
        parts = ("branch", "normalization", "activation", "shortcut")
        chosen = {key: getattr(self, key) for key in parts if getattr(self, key) is not None}
        if chosen or not self.name.isidentifier():
            from lmjax import networks  # only here, so that most configs do not need Flax

            networks.get(self.name)
            object.__setattr__(self, "name", networks.normalize(self.name))
            for key, call in chosen.items():
                networks.options.PARTS[key].get(call)
                object.__setattr__(self, key, networks.options.PARTS[key].normalize(call))

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

    def scheme(self) -> steppers.Stepper | None:
        """The scheme that is chosen, or else that of the network; None if it is not made of steps."""
        if self.stepper is not None:
            return steppers.get(self.stepper)
        from lmjax import networks

        return getattr(networks.get(self.name), "stepper", None)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(_Checked):
    """The update rule, the learning rate and its course, and the weight decay."""

    prefix: ClassVar[str] = "optimizer."

    name: str = "sgd(momentum=0.9)"
    """sgd, adamw, lamb, lion, muon, ..., or a call such as "adamw(b2=0.95)"; see lmjax.optimizers."""
    learning_rate: float = 0.1
    """At the start, or after the warm-up."""
    reference_batch_size: int | None = None
    """The learning rate is meant for so many images an update, and is multiplied by train.batch_size *
    accumulate_steps / reference_batch_size (the linear scaling rule); None: it is taken as it is."""
    schedule: str = "steps(0.5, 0.75, drop=0.1)"
    """The course of the learning rate: constant, steps, cosine, linear or wsd. Its times are fractions of the run, and
    move along when train.epochs is changed; see lmjax.schedules."""
    warmup_epochs: float = 0.0
    """Over so many epochs at the start, the schedule is multiplied by a ramp that rises linearly, update by update, to
    1. Epochs, not a fraction of the run: they do not move along when train.epochs is changed."""
    weight_decay: float = 1e-4
    """Added to the gradient (sgd, adam, rmsprop) or to the update (the others) as weight_decay * parameter."""
    decay: Literal["all", "kernels"] = "all"
    """Parameters that decay: all but the coefficients of the scheme, or the kernels alone."""
    decay_coefficients: bool = False
    """Decay the trainable coefficients of the scheme (k of LM), too."""
    coefficient_target: float = 0.0
    """The value towards which they decay: 1 for the decay of the authors' code of LM-ResNet, whose k is 1 - k here."""
    coefficient_rate: float = 1.0
    """Multiplies the learning rate of the coefficients. 0 keeps them at their initial values: --model.stepper "lm(-0.5,
    -0.5)" then fixes k at -0.5."""
    coefficient_bounds: tuple[float, ...] | None = None
    """Two numbers between which the coefficients are kept after each update, e.g. -1 1; None: not at all."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, by their names in `lmjax.weights`, or the beginning of these up to a dot, also
    with wildcards: stem stage1 "*.norm*". They are not updated and do not decay. A batch normalization whose running
    mean has such a name normalizes with its running statistics in training, too, and these stay as they are."""
    loaded_rate: float = 1.0
    """Multiplies the learning rate of the parameters that init has loaded."""
    clip_norm: float | None = None
    """Shorten the gradient, over all trained parameters, to this norm where it is longer; None: not at all."""
    accumulate_steps: int = 1
    """Make one update from the mean gradient of so many steps, as from a batch so many times larger (but each step has
    batch statistics of its own). Steps at the end of the run that do not make one update are lost."""

    def chosen_for_coefficients(self) -> list[str]:
        """The options set that only matter where the scheme has trainable coefficients."""
        options = {
            "decay_coefficients": self.decay_coefficients,
            "coefficient_target": self.coefficient_target != 0,
            "coefficient_rate": self.coefficient_rate != 1,
            "coefficient_bounds": self.coefficient_bounds is not None,
        }
        return [name for name, chosen in options.items() if chosen]

    def check(self):
        for key, room in (("name", optimizers), ("schedule", schedules)):
            room.get(getattr(self, key))
            object.__setattr__(self, key, room.normalize(getattr(self, key)))
        _require(self.learning_rate > 0, "optimizer.learning_rate", "positive", self.learning_rate)
        images, clip = self.reference_batch_size, self.clip_norm
        _require(images is None or images >= 1, "optimizer.reference_batch_size", "at least 1", images)
        for key in ("warmup_epochs", "weight_decay", "coefficient_rate"):
            _require(getattr(self, key) >= 0, f"optimizer.{key}", "0 or more", getattr(self, key))
        bounds = self.coefficient_bounds
        _require(
            bounds is None or (len(bounds) == 2 and bounds[0] < bounds[1]), "optimizer.coefficient_bounds",
            "two increasing numbers", bounds,
        )  # fmt: skip
        _require(
            self.coefficient_rate > 0 or not (self.decay_coefficients or bounds), "optimizer.coefficient_rate",
            "positive where the coefficients are decayed or bounded", self.coefficient_rate,
        )  # fmt: skip
        _require(
            self.decay_coefficients or self.coefficient_target == 0, "optimizer.coefficient_target",
            "0 unless decay_coefficients is set", self.coefficient_target,
        )  # fmt: skip
        rate = self.loaded_rate
        _require(rate > 0, "optimizer.loaded_rate", "positive (optimizer.freeze is for 0)", rate)
        _require(clip is None or clip > 0, "optimizer.clip_norm", "positive", clip)
        _require(self.accumulate_steps >= 1, "optimizer.accumulate_steps", "at least 1", self.accumulate_steps)


@dataclasses.dataclass(frozen=True)
class InitConfig(_Checked):
    """The weights to start from, as for fine-tuning: of a run or of a file. The arrays that these lack are drawn."""

    prefix: ClassVar[str] = "init."

    run: str | None = None
    """The folder of a run: its last checkpoint."""
    weights: str | None = None
    """A file that `lmjax.weights.save` has written."""

    def check(self):
        for key in ("run", "weights"):
            if (value := getattr(self, key)) is not None:
                object.__setattr__(self, key, str(files.local(value, f"init.{key}:").absolute()))
        _require(
            self.run is None or self.weights is None, "init.weights", "left out where init.run is given", self.weights
        )

    @property
    def given(self) -> bool:
        """True if the run starts from weights."""
        return self.run is not None or self.weights is not None


@dataclasses.dataclass(frozen=True)
class TrainConfig(_Checked):
    """Epochs, batches, and the treatment of the loss."""

    prefix: ClassVar[str] = "train."

    epochs: int = 160
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    eval_batch_size: int = 500
    """Images a step of the evaluation."""
    steps_per_dispatch: int | None = None
    """Training steps in one compiled program, at most; fewer if they then divide an epoch evenly. None chooses 1 on a
    CPU and about 50 on an accelerator. Always 1 for photographs, whose batches come one by one."""
    label_smoothing: float = 0.0
    """This share of each target is spread evenly over all classes (Szegedy et al. 2016)."""
    average: float | None = None
    """Evaluate an exponential moving average of parameters and statistics with this decay a step, e.g. 0.9999; None
    evaluates them as they are."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """Reaction to an infinite or NaN loss: stop and name the step; skip each update whose loss or gradient is not
    finite; or go back to the last checkpoint and on from there with other random draws and another order of the
    images."""
    nan_limit: int = 10
    """The run ends when more than this many updates were skipped in an epoch, or in a row, or when it would go back
    more often than this."""
    batch_norm_group: int | None = None
    """Take the statistics of batch normalization over groups of so many images of a batch, whatever the number of
    devices; None: over the whole batch. No device waits for another while it divides the images a device has."""
    shard_parameters: bool = False
    """Divide the parameters and the optimizer's state over the devices (FSDP) instead of keeping all on each: for
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
    """Checkpoints: whenever one of these is due, when the run is interrupted, and at its end."""

    prefix: ClassVar[str] = "checkpoint."

    minutes: float | None = 10.0
    """Minutes between checkpoints; None disables."""
    steps: int | None = None
    """Steps between checkpoints; None disables. A program that makes several steps is not divided."""
    epochs: int | None = None
    """Epochs between checkpoints; None disables."""
    keep_last: int = 2
    """Newest checkpoints that are kept."""
    keep_best: int = 1
    """Checkpoints kept besides, of the epochs with the highest test accuracy; an epoch that becomes one of them is
    saved at its end. The accuracy of such a checkpoint is optimistic, because it was chosen by it."""

    def check(self):
        for name in ("minutes", "steps", "epochs"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"checkpoint.{name}", "positive", value)
        _require(self.keep_last >= 1, "checkpoint.keep_last", "at least 1", self.keep_last)
        _require(self.keep_best >= 0, "checkpoint.keep_best", "0 or more", self.keep_best)


@dataclasses.dataclass(frozen=True)
class Config(_Checked):
    """One training run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    init: InitConfig = InitConfig()
    seed: int = 0
    """Everything random follows from it: initial parameters, order, augmentation."""
    workdir: str | None = None
    """Folder of the run; None: on the command line, a new one below runs/."""

    @property
    def folder(self) -> Path:
        """The workdir.

        Raises:
            InputError: if it is None.
        """
        if self.workdir is None:
            raise InputError("workdir: name the folder of the run, as in Config(workdir=...)")
        return Path(self.workdir)

    def check(self):
        if self.workdir is not None:
            _require(bool(self.workdir), "workdir", "the name of a folder", self.workdir)
            object.__setattr__(self, "workdir", str(files.local(self.workdir, "workdir:")))
        _require(0 <= self.seed < 2**32, "seed", "from 0 to 2**32 - 1", self.seed)
        _require(
            self.optimizer.loaded_rate == 1 or self.init.given, "optimizer.loaded_rate",
            "left out without init.run and init.weights", self.optimizer.loaded_rate,
        )  # fmt: skip
        steps = self.train.steps_per_dispatch
        _require(
            not self.data.origin.streamed or steps in (None, 1), "train.steps_per_dispatch",
            f"left out for {self.data.name}", steps,
        )  # fmt: skip


# Where the keys of earlier versions are now.
_MOVED = {
    "data.size": 'data.name, as in "folder(32)" or "photographs(224)"',
    "data.decoder": 'data.name, as in "photographs(224, decoder=turbo)"',
    "optimizer.momentum": 'optimizer.name, as in "sgd(momentum=0.9)"',
    "optimizer.nesterov": 'optimizer.name, as in "sgd(momentum=0.9, nesterov=True)"',
    "optimizer.milestones": 'optimizer.schedule, as in "steps(0.5, 0.75)"',
    "optimizer.drop": 'optimizer.schedule, as in "steps(0.5, 0.75, drop=0.1)"',
    "optimizer.train_coefficients": "optimizer.coefficient_rate, which is 0 for false",
}

# What may differ between a checkpoint and the run that goes on from it: places, and what changes no result.
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
            if prefix + key in _MOVED:
                raise InputError(f"config: {prefix + key} is now part of {_MOVED[prefix + key]}")
            close = difflib.get_close_matches(key, hints, n=1)
            raise InputError(
                f"config: unknown key {_short(prefix + key)}"
                + (f": did you mean {prefix + close[0]!r}?" if close else "")
            )
        if dataclasses.is_dataclass(hints[key]):
            value = _build(hints[key], value, f"{prefix}{key}.")
        arguments[key] = value
    return cls(**arguments)


def differences(
    ours: Config, theirs: Config, sections: tuple[str, ...] | None = None, *, but: tuple[str, ...] = _PLACES
) -> dict[str, tuple[Any, Any]]:
    """The keys at which two configs describe different runs, with both values.

    Args:
        ours, theirs: the configs.
        sections: only look at these and the keys in them, e.g. ("model", "train.average"); None looks at everything.
        but: not at these.
    """
    a, b = (flatten(to_dict(config)) for config in (ours, theirs))
    return {
        key: (a[key], b[key])
        for key in a
        if a[key] != b[key]
        and key not in but
        and (sections is None or key in sections or key.partition(".")[0] in sections)
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted keys: {"model": {"name": ...}} -> {"model.name": ...}."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
