"""Networks by name."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError, unknown
from lmjax.networks.block import Sharing
from lmjax.networks.branches import BareProjection, Basic, Bottleneck, Convolutions, PoolAndPad, Projection, Symmetric
from lmjax.networks.fractalnet import FractalNet
from lmjax.networks.network import Architecture, Network
from lmjax.networks.stage import Boundary, Memory
from lmjax.steppers import Stepper, euler, reversible

_IMAGENET_STEM = (("size", 7), ("stride", 2), ("pool", True))
_ACTIVE = (("activation", True),)

# He et al. 2016: the depths that ImageNet's networks have, with basic blocks (18, 34) or bottlenecks.
_IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_CIFAR = (8, 14, 20, 26, 32, 44, 56, 110, 1202)
_CIFAR_BOTTLENECK = (164, 1001)
# Gomez et al. 2017: depths, channels before the factor 4 of bottlenecks, and whether there are bottlenecks.
_REVNET = {
    38: ((3, 3, 3), (32, 64, 112), False),
    110: ((9, 9, 9), (32, 64, 128), False),
    164: ((9, 9, 9), (32, 64, 128), True),
    104: ((2, 2, 11, 2), (128, 256, 512, 832), True),
}
# Larsson et al. 2017: the channels and the dropout of each block, and the columns by the depth of five blocks.
_FRACTALNET = ((64, 0.0), (128, 0.1), (256, 0.2), (512, 0.3), (512, 0.4))
_FRACTALNET_COLUMNS = {"20": 3, "40": 4}


def names() -> tuple[str, ...]:
    """The names of the published networks (`create` takes any CIFAR depth of their form, and any cardinality)."""
    return (
        *(f"resnet{depth}" for depth in sorted((*_CIFAR, *_CIFAR_BOTTLENECK, *_IMAGENET))),
        *(f"revnet{depth}" for depth in sorted(_REVNET)),
        *(f"resnext29_{groups}x64d" for groups in (8, 16)),
        *("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d"),
        *(f"fractalnet{depth}" for depth in _FRACTALNET_COLUMNS),
    )


def architecture(name: str) -> tuple[Architecture, Stepper]:
    """What the network of that name is made of, and the scheme that it was published with.

    Raises:
        InputError: for a name that is none, with the nearest ones, or a depth of the wrong form.
    """
    for pattern, make in _FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            return make(*(int(number) for number in match.groups()))
    raise unknown("network", name, names())


def _resnet(depth: int) -> tuple[Architecture, Stepper]:
    if depth in _IMAGENET:
        branch, expansion = (Basic, 1) if depth < 50 else (Bottleneck, 4)
        channels = tuple(expansion * 64 * 2**i for i in range(4))
        return Architecture(_IMAGENET[depth], channels, 64, branch, stem_options=_IMAGENET_STEM), euler()
    bottleneck = depth in _CIFAR_BOTTLENECK
    layers = 9 if bottleneck else 6
    if depth < layers + 2 or (depth - 2) % layers:
        raise InputError(
            f"network 'resnet{depth}': its depth must be 6n + 2, e.g. 20, 32, 44, 56 or 110 (164 and 1001 have "
            "bottlenecks; 18, 34, 50, 101 and 152 are those of ImageNet)"
        )
    branch, expansion = (Bottleneck, 4) if bottleneck else (Basic, 1)
    channels = tuple(expansion * 16 * 2**i for i in range(3))
    return Architecture(((depth - 2) // layers,) * 3, channels, 16, branch), euler()


def _revnet(depth: int) -> tuple[Architecture, Stepper]:
    if depth not in _REVNET:
        raise unknown("network", f"revnet{depth}", names())
    depths, channels, bottleneck = _REVNET[depth]
    stem, branch, shortcut, expansion = channels[0], Basic, PoolAndPad, 1
    if bottleneck:
        branch, shortcut, expansion = functools.partial(Bottleneck, stride_first=True), BareProjection, 4
    options = (*_ACTIVE, *(_IMAGENET_STEM if len(depths) == 4 else ()))
    channels = tuple(expansion * c for c in channels)
    return Architecture(depths, channels, stem, branch, shortcut, options, boundary="step"), reversible()


def _cardinality(groups: int, width: int) -> Callable[..., nnx.Module]:
    """The branch whose 3x3 convolutions have groups * width channels at the first stage, which has 256 itself."""
    if groups < 1 or width < 1:
        raise InputError(f"network: a cardinality such as 8x64d has two numbers from 1, got {groups}x{width}d")
    return functools.partial(Bottleneck, inner=groups * width / 256, groups=groups)


def _resnext_cifar(groups: int, width: int) -> tuple[Architecture, Stepper]:
    branch = _cardinality(groups, width)
    return Architecture((3, 3, 3), (256, 512, 1024), 64, branch, stem_options=_ACTIVE), euler()


def _resnext_imagenet(depth: int, groups: int, width: int) -> tuple[Architecture, Stepper]:
    if depth not in (50, 101):
        raise unknown("network", f"resnext{depth}_{groups}x{width}d", names())
    branch = _cardinality(groups, width)
    channels = (256, 512, 1024, 2048)
    return Architecture(_IMAGENET[depth], channels, 64, branch, stem_options=_IMAGENET_STEM, post=True), euler()


def _fractalnet(name: str, width: float, **options) -> Callable[..., FractalNet]:
    match = re.fullmatch(r"fractalnet(?:(\d)x(\d)|(20|40))", name)
    if not match:
        raise unknown("network", name, names())
    blocks, columns = (int(match[1]), int(match[2])) if match[1] else (5, _FRACTALNET_COLUMNS[match[3]])
    if not 1 <= blocks <= len(_FRACTALNET):
        raise InputError(f"network {name!r}: has 1 to {len(_FRACTALNET)} blocks, the first number")
    channels, dropout = zip(*_FRACTALNET[:blocks], strict=True)
    channels = tuple(max(1, round(c * width)) for c in channels)
    return functools.partial(FractalNet, columns, channels=channels, dropout=dropout, **options)


_FAMILIES: dict[str, Callable[..., tuple[Architecture, Stepper]]] = {
    r"resnet(\d{1,4})": _resnet,
    r"revnet(\d{1,4})": _revnet,
    r"resnext29_(\d{1,4})x(\d{1,4})d": _resnext_cifar,
    r"resnext(\d{1,4})_(\d{1,4})x(\d{1,4})d": _resnext_imagenet,
}


def create(
    name: str,
    *,
    stepper: Stepper | None = None,
    classes: int = 10,
    cin: int = 3,
    width: float = 1.0,
    branch: str | None = None,
    activation: str | None = None,
    shortcut: str | None = None,
    boundary: Boundary | None = None,
    zero_init: bool = False,
    sharing: Sharing = "none",
    dtype: DTypeLike = jnp.float32,
    unroll: bool | int | None = None,
    memory: Memory = "stored",
    rngs: nnx.Rngs,
) -> Network | FractalNet:
    """A network with any stepper: `create("resnet56", stepper=steppers.lm())`.

    - resnet20, 32, 44, 56, 110, 1202, or any depth 6n + 2: pre-activation ResNets for CIFAR (He et al. 2016b), three
      stages of n basic blocks with 16, 32 and 64 channels. resnet164 and 1001: bottlenecks, depth 9n + 2, four times
      the channels.
    - resnet18, 34, 50, 101, 152: those for ImageNet, pre-activated.
    - resnext29_8x64d, 16x64d (CIFAR, pre-activated as in the paper) and resnext50_32x4d, 101_32x4d, 101_32x8d
      (ImageNet, post-activated as published); Xie et al. 2017.
    - revnet38, 110, 164 (CIFAR) and 104 (ImageNet), with `steppers.reversible()` or another coupled scheme; Gomez et
      al. 2017. Every unit is pre-activated; the published code leaves that out in the very first one.
    - fractalnet20, 40 (Larsson et al. 2017): five blocks of three or four columns; fractalnet3x4 has three blocks of
      four, for smaller images. There is no scheme to choose, they are one.

    The depth counts the layers of the Euler network: a scheme with several branches a step has that many times more
    in all blocks but the first of a stage.

    Args:
        name: of the network.
        stepper: the scheme that advances the features; None for the one it was published with: `euler()`, or
            `reversible()` for RevNets.
        classes: how many logits.
        cin: channels of the images.
        width: multiplies the channels of all stages (2 to 10: wide networks); below 1, of the stem, too.
        branch: "basic", "bottleneck" or "symmetric" (the Hamiltonian networks' K^T s(K u)); None for its own.
        activation: "pre" or "post"; None for its own.
        shortcut: where the shape changes, "projection" (a convolution) or "pad" (the mean over pixels, and zero
            channels: no parameters); None for its own.
        boundary: how a stage begins, "plain" or "step"; see `Stage`. None for its own.
        zero_init: every residual branch starts at zero, and the network as its shortcuts (Goyal et al. 2017); all
            other parameters start as they do without.
        sharing, dtype, unroll, memory, rngs: see `Network`.

    Raises:
        InputError: for a name that is none, a depth of the wrong form, or options that do not fit the scheme.
    """
    if stepper is not None and not isinstance(stepper, Stepper):
        raise InputError(f"network {name!r}: stepper must be a Stepper, such as steppers.lm(), got {stepper!r}")
    if not isinstance(rngs, nnx.Rngs):
        raise InputError(f"network {name!r}: rngs must be an nnx.Rngs, such as nnx.Rngs(0), got {rngs!r}")
    if classes < 1 or cin < 1 or not width > 0:
        raise InputError(
            f"network {name!r}: classes and cin must be at least 1 and width positive, got {classes}, {cin} and {width}"
        )
    if name.startswith("fractalnet"):
        options = {"stepper": stepper, "branch": branch, "activation": activation, "shortcut": shortcut}
        options |= {"boundary": boundary, "zero_init": zero_init, "sharing": sharing, "memory": memory}
        given = [key for key, value in options.items() if value not in (None, False, "none", "stored")]
        if given:
            cure = " (on the command line --model.stepper None)" if "stepper" in given else ""
            raise InputError(
                f"network {name!r}: is a scheme of its own, and takes no {' or '.join(given)}: leave it out{cure}"
            )
        make = _fractalnet(name, width, classes=classes, cin=cin, dtype=dtype)
        return _initialised(lambda rngs: make(rngs=rngs), rngs)

    a, published = architecture(name)
    stepper = stepper or published
    if stepper.parts < published.parts:
        raise InputError(
            f"network {name!r}: is made for a coupled scheme such as {published.name}, not for {stepper.name}: leave "
            "the stepper out (on the command line --model.stepper None), or choose a resnet"
        )
    if branch is not None and isinstance(a.branch, functools.partial):
        raise InputError(f"network {name!r}: has branches of its own: leave out branch, or choose a resnet")
    if boundary == "step" and stepper.evaluations * stepper.parts == 1 and stepper.known.steps_back == 0:
        raise InputError(f"boundary step: {stepper.name} has no history and one branch, so that a first step is plain")
    a = dataclasses.replace(
        a,
        channels=tuple(max(1, round(c * width)) for c in a.channels),
        stem=max(1, round(a.stem * min(width, 1))),
        branch=a.branch if branch is None else _choice("branch", branch, _BRANCHES),
        post=a.post if activation is None else _choice("activation", activation, {"pre": False, "post": True}),
        shortcut=a.shortcut if shortcut is None else _choice("shortcut", shortcut, _SHORTCUTS),
        boundary=boundary or a.boundary,
    )
    if zero_init:
        kind = getattr(a.branch, "func", a.branch)
        if not issubclass(kind, Convolutions):  # -K^T relu(BN(K u)): relu'(0) = 0 wherever it is made zero
            raise InputError(f"zero_init: a branch {kind.__name__} that starts at zero never learns: leave it out")
        a = dataclasses.replace(a, branch=functools.partial(a.branch, zero_init=True))
    if a.post:  # the first branch has no activation of its own before its convolution
        a = dataclasses.replace(a, stem_options=tuple((dict(a.stem_options) | dict(_ACTIVE)).items()))

    def make(rngs):
        return Network(
            a, stepper, classes=classes, cin=cin, sharing=sharing, dtype=dtype, unroll=unroll,
            memory=memory, rngs=rngs,
        )  # fmt: skip

    return _initialised(make, rngs)


_BRANCHES = {"basic": Basic, "bottleneck": Bottleneck, "symmetric": Symmetric}
_SHORTCUTS = {"projection": Projection, "pad": PoolAndPad}


def _choice(what, value, known):
    if value not in known:
        raise unknown(what, str(value), tuple(known))
    return known[value]


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
