"""Vision transformers (Dosovitskiy et al. 2021; Touvron et al. 2021): a Transformer block is a splitting method.

The tokens u follow u' = A(u) + M(u), with self-attention A and the perceptron M. One step goes along one field at a
time (Lu et al. 2019, "Understanding and improving Transformer from a multi-particle dynamic system point of view"):

    lie        A, then M: the Transformer. Order 1.
    strang     half of M, then A, then half of M: the Macaron net. Order 2, if its parts are.
    parallel   A and M at once, at the state before the step: `way(2)`. Order 1.

The increment of such a step is the branch, so that every stepper makes a network of it: `euler` the published one.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.errors import InputError
from lmjax.networks.branches import basic, keep_shape
from lmjax.networks.convnext import Perceptron
from lmjax.networks.convolution import convolve
from lmjax.networks.network import NORMAL, Architecture, NormalizedLinear
from lmjax.networks.normalization import LayerNorm, norm
from lmjax.networks.options import PUBLISHED, Kind, Options, branches, family, registry
from lmjax.networks.stack import List
from lmjax.promotion import lenient
from lmjax.steppers import Branch, combine

Splitting = Literal["lie", "strang", "parallel"]
SPLITTINGS = {
    "lie": (("attention", 1.0), ("mlp", 1.0)),
    "strang": (("mlp", 0.5), ("attention", 1.0), ("mlp", 0.5)),
    "parallel": (("attention", 1.0), ("mlp", 1.0)),
}
"""The parts of a step in their order, and for which share of it each is followed."""
_XAVIER = nnx.initializers.xavier_uniform()  # as in Dosovitskiy et al.; scales with the width


def split(splitting: Splitting, parts: Sequence[Branch], u: jax.Array) -> jax.Array:
    """The increment of a step from u, of the increments of its parts (see `SPLITTINGS`)."""
    increments = []
    for part in parts:
        v = combine((1, u), *((1, x) for x in increments)) if splitting != "parallel" else u
        increments.append(part(v))
    return combine(*((1, x) for x in increments))


class Attention(nnx.MultiHeadAttention):
    """Flax's attention, which promotes dtypes."""

    __call__ = lenient()(nnx.MultiHeadAttention.__call__)


class Part(nnx.Module):
    """Normalization (layer), then self-attention between all pixels or tokens, or a perceptron: [N, ..., C] -> same."""

    def __init__(self, kind: str, share: float, channels: int, heads: int, options: Options, rngs: nnx.Rngs):
        self.share, self.norm = share, norm(channels, options, rngs, LayerNorm)
        last = nnx.initializers.zeros if options.zero_init else _XAVIER
        if kind == "mlp":
            self.field = Perceptron(channels, options, rngs, first=_XAVIER, last=last)
        else:
            self.field = Attention(
                heads, channels, dtype=options.dtype, kernel_init=_XAVIER, out_kernel_init=last, decode=False, rngs=rngs
            )

    def __call__(self, u: jax.Array) -> jax.Array:
        x = self.norm(u).reshape(u.shape[0], -1, u.shape[-1])
        return self.share * self.field(x).reshape(u.shape)


class Transformer(nnx.Module):
    """The increment of a step along self-attention and perceptron, each with parameters of its own."""

    entry = staticmethod(basic())

    def __init__(
        self, heads: int, splitting: Splitting, cin: int, cout: int, *, stride: int = 1, options: Options = PUBLISHED,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        keep_shape("transformer", cin, cout, stride, options)
        if heads < 1 or cin % heads:
            raise InputError(f"transformer: {cin} channels do not divide into {heads} heads: choose another width")
        self.splitting = splitting
        self.parts = List([Part(*each, cin, heads, options, rngs) for each in SPLITTINGS[splitting]])

    def __call__(self, u: jax.Array) -> jax.Array:
        return split(self.splitting, self.parts, u)


@branches.register
def transformer(heads: int = 3, splitting: Splitting = "lie") -> Kind:
    """Self-attention and a perceptron, by a splitting (Lu et al. 2019): lie, strang or parallel."""
    return functools.partial(Transformer, heads, splitting)


class Tokens(nnx.Module):
    """Patches of images as tokens after a class token, with learned positions: -> [N, 1 + (image / patch)^2, cout]."""

    def __init__(self, image: int, patch: int, cin: int, cout: int, *, options: Options = PUBLISHED, rngs: nnx.Rngs):
        self.image = image
        self.conv = nnx.Conv(
            cin, cout, (patch, patch), strides=patch, padding="VALID", kernel_init=NORMAL, dtype=options.dtype,
            conv_general_dilated=convolve, rngs=rngs,
        )  # fmt: skip
        self.token = nnx.Param(NORMAL(rngs.params(), (1, 1, cout)))
        self.positions = nnx.Param(NORMAL(rngs.params(), (1, 1 + (image // patch) ** 2, cout)))

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:3] != (self.image, self.image):
            height, width = x.shape[1:3]
            cure = f"image={height}, and a patch that divides it" if height == width else "square images"
            raise InputError(
                f"network vit: made for {self.image} x {self.image} pixels, got {height} x {width}: give {cure}"
            )
        x = self.conv(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=1) + self.positions[...].astype(x.dtype)


def _class_token(u: jax.Array) -> jax.Array:
    return u[:, 0]


@family("vit_tiny", "vit_small")
def vit(
    *, width: int = 192, depth: int = 12, heads: int = 3, patch: int = 16, image: int = 224,
    splitting: Splitting = "lie",
) -> Architecture:  # fmt: skip
    """Vision transformers of any size (Dosovitskiy et al. 2021), with a class token and learned positions.

    Args:
        width, depth, heads: channels of a token; blocks, which are steps; and heads of the attention.
        patch, image: sides in pixels; patch divides image.
        splitting: of a step: lie (the Transformer), strang (the Macaron net) or parallel.
    """
    if min(width, depth, heads, patch, image) < 1 or image % patch:
        got = f"width {width}, depth {depth}, heads {heads}, patch {patch} and image {image}"
        raise InputError(f"network vit: sizes must be at least 1, and patch divide image, got {got}")
    return Architecture(
        (depth,), (width,), None, transformer(heads, splitting), first=functools.partial(Tokens, image, patch),
        activation=None, pool=_class_token, head=NormalizedLinear, takes=(Transformer,),
    )  # fmt: skip


@registry.register
def vit_tiny(patch: int = 16, image: int = 224, splitting: Splitting = "lie") -> Architecture:
    """ViT-Ti, of 5.7 million parameters (Touvron et al. 2021)."""
    return vit(width=192, depth=12, heads=3, patch=patch, image=image, splitting=splitting)


@registry.register
def vit_small(patch: int = 16, image: int = 224, splitting: Splitting = "lie") -> Architecture:
    """ViT-S, of 22 million parameters (Touvron et al. 2021)."""
    return vit(width=384, depth=12, heads=6, patch=patch, image=image, splitting=splitting)
