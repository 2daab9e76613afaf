"""Crops: the part of a photograph that becomes an image of the batch. The pixels are decode.py's."""

import math
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def random_box(rng: np.random.Generator, width: int, height: int, min_area: float = 0.08) -> Box:
    """A box of random area, shape and place, to be scaled to the input of the network (Szegedy et al. 2015, section 6).

    Its share of the image's area is uniform between `min_area` and 1, the logarithm of its width over its height
    uniform between those of 3/4 and 4/3. A box that does not fit is drawn again, ten times at most; then it is the
    largest box in the middle whose shape is allowed.

    Args:
        rng: where the draws come from.
        width, height: of the image, in pixels.
        min_area: from 0 to 1.
    """
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def middle(width: int, height: int, size: int, shorter: int) -> tuple[tuple[int, int], Box]:
    """The central crop of size x size: the shorter side is scaled, then the middle is cut out.

    Args:
        width, height: of the image, in pixels.
        size: side of what is cut out.
        shorter: what the shorter side is scaled to, at least `size`.

    Returns:
        The width and height after scaling, and the box to cut out of that.
    """
    side = min(width, height)
    w, h = (shorter * width) // side, (shorter * height) // side
    return (w, h), Box(round((w - size) / 2), round((h - size) / 2), size, size)


def shorter_side(size: int, streamed: bool) -> int:
    """The pixels to which an evaluation scales the shorter side of an image, before `size` of them are cut out.

    Args:
        size: side of what is cut out.
        streamed: True for photographs, which are read while training: their edges are cut off. False for images in
            memory: their largest square is kept.
    """
    return round(size * 256 / 224) if streamed else size
