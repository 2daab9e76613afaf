"""Networks by name."""

import re

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError, unknown
from lmjax.networks.branches import Basic, Bottleneck
from lmjax.networks.network import Network
from lmjax.steppers import Stepper, euler

_BASIC = (8, 14, 20, 32, 44, 56, 110, 1202)
_BOTTLENECK = (164, 1001)


def names() -> tuple[str, ...]:
    """The names of the published networks (`create` takes any depth of their form)."""
    return tuple(f"resnet{depth}" for depth in (*_BASIC, *_BOTTLENECK))


def create(
    name: str,
    *,
    stepper: Stepper | None = None,
    classes: int = 10,
    cin: int = 3,
    width: int = 16,
    project_history: bool = False,
    dtype: DTypeLike = jnp.float32,
    unroll: bool | int = True,
    remat: bool = False,
    rngs: nnx.Rngs,
) -> Network:
    """A pre-activation CIFAR ResNet (He et al. 2016b) with any stepper: `create("resnet56", stepper=steppers.lm())`.

    Three stages of n blocks with width, 2 width and 4 width channels. With basic blocks the depth is 6n + 2 (20, 32,
    44, 56, 110, 1202), with bottlenecks 9n + 2 and four times the channels (164, 1001). The depth counts the layers
    of the Euler network: a scheme with several branches a step has that many times more in all blocks but the first
    of a stage.

    Args:
        name: "resnet20", "resnet56", "resnet164", ...
        stepper: the scheme that advances the features; None for `euler()`, the ResNet.
        classes: how many logits.
        cin: channels of the images.
        width: channels of the first stage, 16 as published.
        project_history, dtype, unroll, remat, rngs: see `Network`.

    Raises:
        InputError: for a name that is none, a depth of the wrong form, or a width that the scheme cannot split.
    """
    stepper = euler() if stepper is None else stepper
    if not isinstance(stepper, Stepper):
        raise InputError(f"network {name!r}: stepper must be a Stepper, such as steppers.lm(), got {stepper!r}")
    if not isinstance(rngs, nnx.Rngs):
        raise InputError(f"network {name!r}: rngs must be an nnx.Rngs, such as nnx.Rngs(0), got {rngs!r}")
    match = re.fullmatch(r"resnet(\d+)", name)
    if not match:
        raise unknown("network", name, names())
    depth = int(match[1])
    bottleneck = depth in _BOTTLENECK
    layers = 9 if bottleneck else 6
    if depth < layers + 2 or (depth - 2) % layers:
        raise InputError(
            f"network {name!r}: its depth must be 6n + 2, e.g. 20, 32, 44, 56 or 110 (164 and 1001 have bottlenecks)"
        )
    if classes < 1 or cin < 1 or width < 1:
        raise InputError(
            f"network {name!r}: classes, cin and width must be at least 1, got {classes}, {cin} and {width}"
        )
    expansion = Bottleneck.expansion if bottleneck else 1

    def make(rngs):
        return Network(
            stepper,
            Bottleneck if bottleneck else Basic,
            depths=[(depth - 2) // layers] * 3,
            channels=[width * expansion * 2**i for i in range(3)],
            stem=width,
            classes=classes,
            cin=cin,
            project_history=project_history,
            dtype=dtype,
            unroll=unroll,
            remat=remat,
            rngs=rngs,
        )

    return _initialised(make, rngs)


def _initialised(make, rngs):
    """make(rngs) as one compiled program: its many small random draws would otherwise compile one by one."""
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):
        return make(nnx.Rngs(key))  # already inside a program
    graph = None

    def variables(key):
        nonlocal graph
        graph, state = nnx.split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(state)

    # On a CPU nearly all the time is LLVM's, spent on optimising code that runs once.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(variables, compiler_options=options)(key)
    return nnx.merge(graph, state)
