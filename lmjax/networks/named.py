"""Networks by name: `resnet(56)`, or as they are called in papers, resnet56."""

import re
from typing import Any

import jax
from flax import nnx

from lmjax.errors import InputError, unknown
from lmjax.networks.options import Builder, Options, names, registry

# A family and its numbers as they are written in papers: resnet56, fractalnet3x4, resnext29_8x64d.
_NAME = re.compile(r"([a-z]+)(\d{1,4})(?:x(\d{1,4})|_(\d{1,4})x(\d{1,4})d)?")
_CALL = re.compile(r"([a-z]+)\((\d{1,4})(?:, (\d{1,4}))?(?:, (\d{1,4}))?\)")
_FORMS = ("{}{}", "{}{}x{}", "{}{}_{}x{}d")


def get(name: str) -> Builder:
    """The builder of a network: "resnet56", "resnet(56)", "resnext29_8x64d", "vit(depth=6, patch=4, image=32)".

    Raises:
        InputError: for a name that is none, with the nearest ones, or arguments that its family does not take.
    """
    if not isinstance(name, str):
        raise InputError(f"network: its name must be a text, as 'resnet20', got {name!r}")
    match = None if name in registry.names() else _NAME.fullmatch(name)
    if match and match[1] not in registry.names():
        raise unknown("network", name, (*names(), *registry.names()))
    return registry.get(f"{match[1]}({', '.join(n for n in match.groups()[1:] if n)})" if match else name)


def normalize(name: str) -> str:
    """The one way to write a network: `resnet( 56 )` is `resnet56`."""
    match = _CALL.fullmatch(name := registry.normalize(name))
    given = [part for part in match.groups() if part] if match else []
    return _FORMS[len(given) - 2].format(*given) if match else name


def create(name: str, *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """A network with any stepper: `create("resnet56", stepper=steppers.lm(), rngs=nnx.Rngs(0))`.

    Args:
        name: a family with its arguments, or a published name; see `names`.
        rngs: draws the initial parameters.
        **options: see `Options`.

    Raises:
        InputError: for a name that is none, a depth of the wrong form, or options that do not fit the scheme.
    """
    build = get(name)
    if not isinstance(rngs, nnx.Rngs):
        raise InputError(f"network {name!r}: rngs must be an nnx.Rngs, such as nnx.Rngs(0), got {rngs!r}")
    chosen = Options(**options)
    return _initialized(lambda rngs: build(chosen, rngs), rngs)


def _initialized(make, rngs):
    """make(rngs) as one compiled program: its many small random draws would otherwise compile one by one."""
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):
        return make(nnx.Rngs(key))  # already inside a program
    graph: Any = None

    def variables(key):
        nonlocal graph
        graph, state = nnx.split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(state)

    # On a CPU nearly all of the compile time is LLVM's optimization, which is wasted on code that runs once.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(variables, compiler_options=options)(key)
    return nnx.merge(graph, state)
