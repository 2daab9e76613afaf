"""Images of any kind and size that a user gives, as a trained network takes them."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from lmjax.data.decode import BrokenImage, PillowImage, center
from lmjax.data.folder import content
from lmjax.data.threads import in_threads
from lmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The preparation of an image for a network: scaled and cut as in an evaluation, not normalized.

    Attributes:
        shape: height, width and channels that the network takes.
        shorter: see `lmjax.data.crops.shorter_side`. If the shape is no square, images must have its size.
    """

    shape: tuple[int, int, int]
    shorter: int

    def batches(self, images: Any, size: int) -> Iterator[np.ndarray]:
        """Batches [n, H, W, C] of one image, a list of images, or an array [N, h, w, c], decoded on all cores.

        Raises:
            InputError: if there is none, or as `__call__`.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)):
            images = [images]
        elif not isinstance(images, (list, tuple)):
            images = _checked(images, "images")
            if images.ndim < 4:
                images = [images]
            elif images.shape[1:] == self.shape and len(images):
                yield from (images[start : start + size] for start in range(0, len(images), size))
                return
        if not len(images):
            raise InputError("images: give at least one")
        names = [f"image {number}" for number in range(len(images))]
        prepared = in_threads(lambda given: self(*given), zip(images, names, strict=True))
        while batch := list(itertools.islice(prepared, size)):
            yield np.stack(batch)

    def __call__(self, image: Any, name: str = "the image") -> np.ndarray:
        """One image as [H, W, C]: uint8, or float32 if it was floating-point.

        Args:
            image: the path of a file, an image of Pillow, or an array [h, w, c] or [h, w] of pixels, 0 to 255; one of
                the shape of the network stays as it is. Where that takes one or three channels, colors become gray or
                gray three channels, and transparency is dropped; floating-point arrays must have the channels.
            name: how messages name an image that is no file.

        Raises:
            InputError: if it cannot be read or decoded, has other channels, or other values.
        """
        try:
            if isinstance(image, (str, os.PathLike)):
                name = os.fspath(image)
                return self._decoded(PillowImage(content(name)), name)
            if isinstance(image, Image.Image):
                return self._decoded(PillowImage(image), name)
        except BrokenImage as error:
            raise InputError(f"{name}: cannot be decoded ({error})") from error
        return self._of_pixels(_checked(image, name), name)

    def _decoded(self, image: PillowImage, name: str) -> np.ndarray:
        if self.shape[-1] not in (1, 3):
            raise InputError(f"{name}: the network takes {self.shape[-1]} channels: give arrays that have them")
        size = self._size(*image.size, name)
        pixels = image.whole() if size is None else image.center(size, self.shorter)
        return pixels if self.shape[-1] == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]

    def _of_pixels(self, array: np.ndarray, name: str) -> np.ndarray:
        if array.shape == self.shape:
            return array
        array = array[..., None] if array.ndim == 2 else array
        channels = array.shape[-1] if array.ndim == 3 else 0
        if array.dtype == np.uint8 and self.shape[-1] in (1, 3) and channels in (1, 3, 4):
            return self._decoded(PillowImage(Image.fromarray(array[..., 0] if channels == 1 else array)), name)
        if channels != self.shape[-1]:
            raise InputError(f"{name}: has the shape {list(array.shape)}, and must be [h, w, {self.shape[-1]}]")
        size = self._size(array.shape[1], array.shape[0], name)
        if size is None:
            return array
        scaled = [center(Image.fromarray(array[..., i]), size, self.shorter) for i in range(channels)]
        return np.stack(list(map(np.asarray, scaled)), axis=-1)

    def _size(self, width: int, height: int, name: str) -> int | None:
        """The side of the square to cut out; None to take the whole image."""
        if not (width and height):
            raise InputError(f"{name}: has no pixels")
        if self.shape[0] == self.shape[1]:
            return self.shape[0]
        if (height, width) != self.shape[:2]:
            wanted = f"{self.shape[1]} x {self.shape[0]}"
            raise InputError(f"{name}: is {width} x {height} pixels, and the network takes {wanted}: scale it to that")
        return None


def _checked(pixels: Any, name: str) -> np.ndarray:
    """Pixels as uint8, or as float32 if they are floating-point."""
    try:
        array = np.asarray(pixels)
    except ValueError as error:  # lists of several lengths
        raise InputError(f"{name}: is no array of pixels ({error})") from error
    if array.dtype == np.uint8:
        return array
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if not floating and not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{name}: must be a path, an image of Pillow, or an array of pixels, got {array.dtype}")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 255):
        raise InputError(f"{name}: pixels must be from 0 to 255, not normalized, got {low:g} to {high:g}")
    if floating and 0 < high <= 1:
        raise InputError(
            f"{name}: pixels must be from 0 to 255, got at most {high:g}: multiply what runs from 0 to 1 by 255"
        )
    return array.astype(np.float32 if floating else np.uint8)
