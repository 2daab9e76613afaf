"""TrivialAugment: one random operation of random strength an image, for whole batches of uint8 at once.

Every operation is one of three: an affine map (a gather), a table of 256 values (a look-up), or a mean with a gray or
smooth copy. All three are computed for all images, and leave alone what they are not drawn for.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.data.augment import Pixels, register

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip


class Space(NamedTuple):
    """The largest strengths: shear, pixels of translation, degrees, share of enhancement, bits that posterize takes."""

    shear: float
    translate: float
    rotate: float
    enhance: float
    bits: int


_SPACES = {"wide": Space(0.99, 32, 135, 0.99, 6), "standard": Space(0.3, 10, 30, 0.9, 4)}


@register
def trivial(space: Literal["wide", "standard"] = "wide") -> Pixels:
    """One random operation of random strength an image (TrivialAugment, Mueller and Hutter 2021).

    Uniform over 14 operations (identity, shear and translate in x and y, rotate, brightness, color, contrast,
    sharpness, posterize, solarize, autocontrast, equalize), 31 strengths from none to the largest, and two directions.
    Pixels are those of Pillow: nearest neighbor, black outside of the image. In images with other than three channels,
    gray is the mean of the channels. Solarize without strength turns white to black, as Pillow's does.

    Args:
        space: the largest strengths. "wide": shear by 0.99, translate by 32 pixels, rotate by 135 degrees, enhance by
            0.99, posterize to 2 bits; "standard": 0.3, 10, 30, 0.9 and 4 bits.
    """

    def apply(key, images, mean):
        operation, strength, sign = jax.random.split(key, 3)
        batch = images.shape[:1]
        operation = jax.random.randint(operation, batch, 0, len(OPERATIONS))
        strength = jax.random.randint(strength, batch, 0, 31) / 30
        sign = jnp.where(jax.random.bernoulli(sign, 0.5, batch), 1, -1)
        return operate(images, operation, strength, sign, _SPACES[space])

    return Pixels(apply)


def operate(images: jax.Array, operation: jax.Array, strength: jax.Array, sign: jax.Array, space: Space) -> jax.Array:
    """Apply one operation to each image.

    Args:
        images: uint8 [B, H, W, C].
        operation: int [B], indices into `OPERATIONS`.
        strength: float [B], from 0 to 1.
        sign: int [B], 1 or -1: the direction, for operations that have two.
        space: the magnitude of each operation at strength 1.

    Returns:
        uint8 [B, H, W, C].
    """
    chosen = {name: operation == n for n, name in enumerate(OPERATIONS)}
    factor = 1 + sign * strength * space.enhance
    images = _affine(images, chosen, sign * strength, space)
    images = _looked_up(images, chosen, strength, factor, space)
    return _enhanced(images, chosen, factor)


def _affine(images, chosen, amount, space):
    """Shear about the upper left corner, translate by whole pixels, rotate about the middle."""
    height, width = images.shape[1:3]
    angle = jnp.where(chosen["rotate"], jnp.deg2rad(amount * space.rotate), 0)
    shift = jnp.trunc(amount * space.translate)
    middle = jnp.array([width / 2, height / 2])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.stack(
        [cos, jnp.where(chosen["shear_x"], amount * space.shear, -sin),
         jnp.where(chosen["shear_y"], amount * space.shear, sin), cos], -1,
    ).reshape(-1, 2, 2)  # fmt: skip
    offset = jnp.stack([jnp.where(chosen[f"translate_{axis}"], shift, 0) for axis in "xy"], -1)
    turned = middle - jnp.einsum("bij,j->bi", matrix, middle, precision="highest")
    offset = offset + jnp.where(chosen["rotate"][:, None], turned, 0)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5), -1)  # [H, W, 2], x and y
    source = jnp.einsum("bij,hwj->bhwi", matrix, grid, precision="highest") + offset[:, None, None]
    x, y = jnp.moveaxis(jnp.floor(source).astype(jnp.int32), -1, 0)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    moved = jax.vmap(lambda image, y, x: image[y, x])(images, y.clip(0, height - 1), x.clip(0, width - 1))
    return jnp.where(inside[..., None], moved, 0).astype(images.dtype)


def _looked_up(images, chosen, strength, factor, space):
    """Brightness, contrast, posterize, solarize, autocontrast and equalize: tables [B, C, 256] of new values."""
    value = jnp.arange(256)
    strength, factor = strength[:, None, None], factor[:, None, None]
    gray = jnp.floor(jnp.mean(_gray(images), (1, 2), dtype=jnp.float32) + 0.5)[:, None, None]
    bits = jnp.round(strength * space.bits).astype(jnp.int32)
    low, high = (reduce(images, (1, 2)).astype(jnp.int32)[..., None] for reduce in (jnp.min, jnp.max))
    tables = {
        "brightness": _mean(0, value, factor),
        "contrast": _mean(gray, value, factor),
        "posterize": value >> bits << bits,
        "solarize": jnp.where(value < 255 * (1 - strength), value, 255 - value),
        "autocontrast": jnp.where(high > low, (value - low) * 255 // jnp.maximum(high - low, 1), value),
        "equalize": _equalizing(images),
    }
    shape = (images.shape[0], images.shape[3], 256)
    table = jnp.broadcast_to(value, shape)
    for name, new in tables.items():
        table = jnp.where(chosen[name][:, None, None], new, table)
    table = table.clip(0, 255).astype(images.dtype)
    flat = jnp.moveaxis(images, -1, 1).reshape(*shape[:2], -1).astype(jnp.int32)
    found = jax.vmap(jax.vmap(lambda table, pixels: table[pixels]))(table, flat)
    return jnp.moveaxis(found.reshape(*shape[:2], *images.shape[1:3]), 1, -1)


def _equalizing(images):
    """Tables that make the histogram of each channel flat, by Pillow's whole numbers."""
    flat = jnp.moveaxis(images, -1, 1).reshape(images.shape[0], images.shape[3], -1)
    counts = jax.vmap(jax.vmap(lambda pixels: jnp.bincount(pixels, length=256)))(flat)
    last = jnp.take_along_axis(counts, jnp.max(flat, -1, keepdims=True).astype(jnp.int32), -1)
    step = (flat.shape[-1] - last) // 255
    table = (step // 2 + jnp.cumsum(counts, -1) - counts) // jnp.maximum(step, 1)
    return jnp.where(step > 0, table, jnp.arange(256))


def _enhanced(images, chosen, factor):
    """Color and sharpness: away from, or towards, a gray or a smooth copy."""
    chosen = {name: mask[:, None, None, None] for name, mask in chosen.items()}
    copy = jnp.where(chosen["color"], _gray(images)[..., None], jnp.where(chosen["sharpness"], _smooth(images), images))
    enhanced = _mean(copy, images.astype(jnp.int32), factor[:, None, None, None])
    return jnp.where(chosen["color"] | chosen["sharpness"], enhanced, images).astype(images.dtype)


def _mean(copy, value, factor):
    return (copy + factor * (value - copy)).clip(0, 255).astype(jnp.int32)


def _gray(images):
    """int32 [B, H, W]."""
    weights = {3: (19595, 38470, 7471)}.get(images.shape[-1])  # ITU-R 601, in 65536ths, as Pillow has it
    if weights is None:
        return jnp.round(jnp.mean(images, -1, dtype=jnp.float32)).astype(jnp.int32)
    return (jnp.sum(images.astype(jnp.int32) * jnp.array(weights), -1) + 32768) >> 16


def _smooth(images):
    """int32 [B, H, W, C]: each pixel five times and its eight neighbors once, over 13; the border stays."""
    images = images.astype(jnp.int32)
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    near = [images[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    return images.at[:, 1:-1, 1:-1].set((2 * (sum(near) + 4 * near[4]) + 13) // 26)
