"""From the data set on the device to a batch of network inputs, as pure functions to be used inside `jax.jit`."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def epoch_order(key: jax.Array, epoch: jax.Array | int, size: int, batch: int) -> jax.Array:
    """The order of one epoch, a pure function of the key and the epoch.

    Returns:
        int32 [size // batch, batch], indices without repetition. What does not fill a batch is left out, other images
        in every epoch.
    """
    steps = size // batch
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    return order[: steps * batch].reshape(steps, batch)


def crop_and_flip(
    key: jax.Array, images: jax.Array, index: jax.Array, *, pad: int, padding: str = "zero", flip: bool = True
) -> jax.Array:
    """Picks images, crops them at random after padding, and mirrors half of them, all in one gather.

    Args:
        key: where the random decisions come from, independent for every image.
        images: uint8 [N, H, W, C], the whole data set.
        index: int [B], which to pick.
        pad: pixels added on every side before a crop of the original size; 0 leaves the position alone.
        padding: "zero" pads with black (before normalisation), "reflect" mirrors the image at its outermost pixels.
        flip: mirror left to right with probability 1/2.

    Returns:
        uint8 [B, H, W, C].
    """
    batch, (height, width) = index.shape[0], images.shape[1:3]
    shift_key, flip_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (batch, 2), -pad, pad + 1)
    rows = jnp.arange(height)[None] + shift[:, :1]  # [B, H], the source row of every row
    columns = jnp.broadcast_to(jnp.arange(width)[None], (batch, width))
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
        columns = jnp.where(mirrored, width - 1 - columns, columns)
    columns = columns + shift[:, 1:]
    if padding == "reflect":
        rows, columns = _reflect(rows, height), _reflect(columns, width)
    inside = _inside(rows, height)[:, :, None, None] & _inside(columns, width)[:, None, :, None]
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    picked = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return jnp.where(inside, picked, jnp.zeros((), picked.dtype))


def _reflect(i, size):
    i = jnp.abs(i)
    return jnp.where(i >= size, 2 * (size - 1) - i, i)


def _inside(i, size):
    return (i >= 0) & (i < size)


def normalise(images: jax.Array, mean: jax.Array, std: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """(images - mean) / std for each channel: uint8 [..., C] -> dtype [..., C], computed in float32."""
    return ((images.astype(jnp.float32) - mean) / std).astype(dtype)
