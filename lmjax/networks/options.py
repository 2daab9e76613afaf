"""The options that networks are built with, whatever their family, and the registries of their parts."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lmjax import steppers
from lmjax.errors import InputError, unknown
from lmjax.registry import Registry
from lmjax.reversible import Memory
from lmjax.steppers import Stepper

Placement = Literal["pre", "post", None]
Boundary = Literal["plain", "step", None]
Sharing = Literal["none", "convolutions", "all"]
Kind = Callable[..., nnx.Module]
"""Makes a branch or a shortcut, called as `kind(cin, cout, stride=1, options=Options(), rngs=rngs)`."""
Normalization = Callable[..., nnx.Module]
"""Makes a normalization of [N, ..., channels], called as `kind(channels, dtype=dtype, rngs=rngs)`."""
Activation = Callable[[jax.Array], jax.Array]
"""A function of each number, such as ReLU."""
Builder = Callable[["Options", nnx.Rngs], nnx.Module]
"""Makes a network that maps (images, key) to logits. One that has an attribute `stepper` takes others, too."""
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_MODULE = "a function that makes a module"
registry: Registry[Builder] = Registry("network", Callable, returns=_MODULE, example="resnet(56)")
branches: Registry[Kind] = Registry(
    "branch", Callable, returns=_MODULE, example="bottleneck(groups=8)", plural="branches"
)  # fmt: skip
normalizations: Registry[Normalization] = Registry("normalization", Callable, returns=_MODULE, example="group(8)")
activations: Registry[Activation] = Registry(
    "activation", Callable, returns="a function of an array", example="silu"
)  # fmt: skip
shortcuts: Registry[Kind] = Registry("shortcut", Callable, returns=_MODULE, example="projection")
PARTS: dict[str, Registry[Any]] = {
    "branch": branches, "normalization": normalizations, "activation": activations, "shortcut": shortcuts,
}  # fmt: skip
"""By the name of an option, the registry that it chooses from."""
_CHOICES: dict[str, Any] = {"placement": Placement, "boundary": Boundary, "sharing": Sharing, "memory": Memory}


class NameOr(Generic[T]):
    """A field that is set by a part, its name or its call, and holds the part, or None."""

    def __init__(self, get: Callable[[str], T]):
        self.get = get

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, options: None, owner: type) -> None: ...
    @overload
    def __get__(self, options: "Options", owner: type) -> T | None: ...
    def __get__(self, options: "Options | None", owner: type) -> T | None:
        return None if options is None else vars(options)[self.name]

    def __set__(self, options: "Options", value: T | str | None) -> None:
        vars(options)[self.name] = self.get(value) if isinstance(value, str) else value


MOST_CHANNELS = 2**16  # a convolution between two such stages has 39 billion parameters


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of any network: those of `lmjax.config.ModelConfig`, where parts may be given by their names or calls.

    Attributes:
        stepper, width, branch, normalization, activation, placement, shortcut: see there.
        classes: the number of logits.
        cin: channels of the images.
        boundary: how a stage begins, "plain" or "step"; see `Stage`.
        zero_init: see there; all other parameters start as they do without.
        sharing: see `Block`. The first step of a stage, in which evaluations differ in shape, shares nothing.
        dtype: of the computation. Parameters, running statistics, coefficients and logits are float32 throughout; with
            float64 (and such parameters, under jax_enable_x64) everything is float64.
        unroll: see `Stack`; None is True if everything is stored, else False.
        memory: see there and `lmjax.reversible`. Where it is "reversible", the features between the branches are
            float32 whatever the dtype, since rebuilding them in half precision loses them within a few steps.

    Raises:
        InputError: for a value that cannot be, or a part that is none.
    """

    stepper: NameOr[Stepper] = NameOr(steppers.get)
    classes: int = 10
    cin: int = 3
    width: float = 1.0
    branch: NameOr[Kind] = NameOr(branches.get)
    normalization: NameOr[Normalization] = NameOr(normalizations.get)
    activation: NameOr[Activation] = NameOr(activations.get)
    placement: Placement = None
    shortcut: NameOr[Kind] = NameOr(shortcuts.get)
    boundary: Boundary = None
    zero_init: bool = False
    sharing: Sharing = "none"
    dtype: DTypeLike = jnp.float32
    unroll: bool | int | None = None
    memory: Memory = "stored"

    def __post_init__(self):
        with contextlib.suppress(TypeError):
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        if not isinstance(self.dtype, np.dtype) or not jnp.issubdtype(self.dtype, jnp.floating):
            raise InputError(f"network: dtype must be one of floating-point numbers, as bfloat16, got {self.dtype!r}")
        if self.stepper is not None and not isinstance(self.stepper, Stepper):
            raise InputError(f"network: stepper must be a Stepper, such as steppers.lm(), got {self.stepper!r}")
        whole = "a whole number, at least 1"
        for key, fits, what in (
            ("classes", _is_whole(self.classes), whole),
            ("cin", _is_whole(self.cin), whole),
            ("width", isinstance(self.width, (int, float, np.number)) and self.width > 0, "a positive number"),
            ("zero_init", isinstance(self.zero_init, bool), "True or False"),
            ("unroll", self.unroll in (None, True, False) or _is_whole(self.unroll), "None, True, False or " + whole),
            *(
                (key, getattr(self, key) is None or callable(getattr(self, key)), "a name or a function")
                for key in PARTS
            ),
        ):
            if not fits:
                raise InputError(f"network: {key} must be {what}, got {getattr(self, key)!r}")
        for key, hint in _CHOICES.items():
            if getattr(self, key) not in get_args(hint):
                raise unknown(key, str(getattr(self, key)), filter(None, get_args(hint)))

    @property
    def post(self) -> bool:
        """Post-activated."""
        return self.placement == "post"

    @property
    def after(self) -> Activation:
        """The function of the state after each step."""
        return (self.activation or activations.get("relu")) if self.post else _same

    def channels(self, published: int) -> int:
        """The channels of a stage that was published with so many."""
        channels = published * self.width
        if channels > MOST_CHANNELS:
            raise InputError(f"network: width {self.width:g} makes {channels:.3g} channels: choose a smaller one")
        return max(1, round(channels))

    def replace(self, **changes: Any) -> "Options":
        """The same with some of them changed."""
        return dataclasses.replace(self, **changes)


def require_images(images: Any, cin: int) -> None:
    """Raise InputError unless images are [N, H, W, cin]."""
    if images.ndim != 4 or images.shape[-1] != cin:
        raise InputError(f"images must be [N, H, W, {cin}], got {list(images.shape)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and int(value) >= 1


def _same(u: jax.Array) -> jax.Array:
    return u


PUBLISHED = Options()

_published: list[str] = []


def chosen(part: T | None, name: str) -> T:
    """Return a part of the options, after checking that it is set.

    Raises:
        InputError: if it is None, which only networks with a part of their own allow.
    """
    if part is None:
        raise InputError(f"networks: a step needs {name}: give it in the options, as in Options({name}=...)")
    return part


def family(*published: str) -> Callable[[F], F]:
    """Register a family of networks: the decorator of its builder.

    Args:
        *published: the names under which its networks were published, for lists and for messages.
    """
    _published.extend(published)
    return registry.register


def plain(known: Registry[Any], name: str) -> Callable[[F], F]:
    """Register a part that takes no arguments from its name, such as the class of a shortcut: its decorator."""

    def add(kind: F) -> F:
        def make() -> F:
            return kind

        make.__name__, make.__doc__ = kind.__name__, kind.__doc__
        known.register(make, name=name)
        return kind

    return add


def names() -> tuple[str, ...]:
    """Names of the published networks; the families take any other sizes."""
    return tuple(_published)
