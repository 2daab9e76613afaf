"""Augmentation by name, as pure functions inside `jax.jit`: from the data set to what a network trains on.

    --data.augment "crop(4)" "flip" "cutmix(1.0)"

A list is applied from left to right. The draws of a part follow from the seed, the step and its place in the list: what
comes after it changes nothing for it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from lmjax.errors import InputError
from lmjax.promotion import lenient
from lmjax.registry import Registry

_CHOICE = 2**30  # folded into the key that draws which of several `Mixing` a batch gets; the network's key has 2**31


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One augmentation of a list: `Geometry`, `Pixels`, `Mixing` or `Area`.

    Attributes:
        smallest: the least height and width, in pixels, of the images that it takes.
    """

    smallest: int = dataclasses.field(default=1, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Geometry(Augmentation):
    """An augmentation that moves rows and columns. Consecutive ones, and the picking of the batch, become one gather.

    Attributes:
        source: `source(key, rows, columns, (H, W)) -> rows, columns` maps rows, int32 [B, H], and columns, int32
            [B, W], of the augmented image to those of the original. Positions outside of the original are black.
    """

    source: Callable[[jax.Array, jax.Array, jax.Array, tuple[int, int]], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Pixels(Augmentation):
    """An augmentation that changes the pixels of each image by itself.

    Attributes:
        apply: `apply(key, images, mean) -> images`, uint8 [B, H, W, C]; `mean`, float32 [C], is the mean pixel of the
            training images, which normalization maps to 0.
    """

    apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Mixing(Augmentation):
    """An augmentation that mixes each image and its target with another. Last in a list; a batch gets one of several.

    Attributes:
        apply: `apply(key, images, targets) -> images, targets`: float32 [B, H, W, C] from 0 to 255, and float32
            [B, classes], each row a distribution over the classes.
    """

    apply: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Area(Augmentation):
    """Random crops of photographs, made by the host while it decodes them and not within the compiled step.

    Attributes:
        min_area: smallest share of a photograph that a crop takes.
    """

    min_area: float


augmentations: Registry[Augmentation] = Registry(
    "augmentation", (Geometry, Pixels, Mixing, Area), example="crop(4)",
    returns="a Geometry, Pixels, Mixing or Area of lmjax.data.augment",
)  # fmt: skip
register = augmentations.register


@register
def crop(pad: int, *, padding: Literal["zero", "reflect"] = "zero") -> Geometry:
    """Crops of the original size at random places, after padding by `pad` pixels on every side (He et al. 2016).

    Each image is moved by two independent whole numbers, uniform from -pad to pad. For what is in memory: photographs
    have `crop_area`.

    Args:
        pad: 0 or more pixels.
        padding: "zero" pads with black (before normalization), "reflect" mirrors the image at its outermost pixels.
    """
    if not 0 <= pad < 2**30:
        raise InputError(f"crop: pad must be 0 or more pixels, and below 2^30, got {pad}")

    def source(key, rows, columns, shape):
        shift = jax.random.randint(key, (rows.shape[0], 2), -pad, pad + 1)
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
        if padding == "reflect":
            rows, columns = _reflect(rows, shape[0]), _reflect(columns, shape[1])
        return rows, columns

    return Geometry(source, smallest=pad + 1 if padding == "reflect" else 1)


@register
def flip() -> Geometry:
    """Images mirrored left to right, each with probability 1/2."""

    def source(key, rows, columns, shape):
        mirrored = jax.random.bernoulli(key, 0.5, (rows.shape[0], 1))
        return rows, jnp.where(mirrored, shape[1] - 1 - columns, columns)

    return Geometry(source)


@register
def crop_area(min_area: float = 0.08) -> Area:
    """Crops of photographs of random area, shape and place, scaled to the input (Szegedy et al. 2015, section 6).

    The area is uniform from `min_area` to all of the photograph, the logarithm of width over height uniform between
    those of 3/4 and 4/3. The host does this while it decodes, from (seed, number of the image), before the compiled
    step: it comes first in a list. Without it, one trains on the middle of each photograph.

    Args:
        min_area: above 0 and at most 1.
    """
    if not 0 < min_area <= 1:
        raise InputError(f"crop_area: min_area must be above 0 and at most 1, got {min_area}")
    return Area(min_area)


@register
def cutout(size: int) -> Pixels:
    """Squares that are replaced by the mean pixel, one an image (DeVries and Taylor 2017).

    The center is uniform over the pixels of the image, so that a part of the square may be outside. The mean pixel of
    the training images, rounded to a whole number, is what is 0 (to 0.5 / std) after normalization.

    Args:
        size: of a side, in pixels, at most that of the image.
    """
    if size < 1:
        raise InputError(f"cutout: size must be at least 1 pixel, got {size}")

    def apply(key, images, mean):
        center = jax.random.randint(key, (images.shape[0], 2), 0, jnp.array(images.shape[1:3]))
        top, left = (center - size // 2).T
        return jnp.where(_box(images, top, left, size, size), jnp.round(mean).astype(images.dtype), images)

    return Pixels(apply, smallest=size)


@register
def erase(probability: float = 0.5, *, fill: Literal["random", "mean"] = "random") -> Pixels:
    """Rectangles that are erased, one in each image that is drawn for it (Zhong et al. 2020).

    The area is uniform from 2% to 33% of the image, the logarithm of height over width uniform between those of 0.3 and
    3.3, the place uniform among those within the image. A rectangle that does not fit is drawn again, ten times at
    most; then the image stays whole.

    Args:
        probability: from 0 to 1.
        fill: "random", each value of each pixel uniform from 0 to 255; "mean", as in `cutout`.
    """
    if not 0 <= probability <= 1:
        raise InputError(f"erase: probability must be from 0 to 1, got {probability}")

    def apply(key, images, mean):
        chosen, area, ratio, place, noise = jax.random.split(key, 5)
        batch, height, width, _ = images.shape
        area = height * width * jax.random.uniform(area, (batch, 10), minval=0.02, maxval=0.33)
        ratio = jnp.exp(jax.random.uniform(ratio, (batch, 10), minval=math.log(0.3), maxval=math.log(3.3)))
        sides = jnp.round(jnp.sqrt(jnp.stack([area * ratio, area / ratio], -1))).astype(jnp.int32)
        fits = jnp.all((sides > 0) & (sides < jnp.array([height, width])), -1)
        h, w = jnp.take_along_axis(sides, jnp.argmax(fits, -1)[:, None, None], 1)[:, 0].T  # the first that fits
        top, left = jax.random.randint(place, (2, batch), 0, jnp.maximum(jnp.stack([height - h, width - w]) + 1, 1))
        erased = jax.random.bernoulli(chosen, float(probability), (batch,)) & jnp.any(fits, -1)
        if fill == "random":
            new = jax.random.bits(noise, images.shape, jnp.uint8).astype(images.dtype)
        else:
            new = jnp.round(mean).astype(images.dtype)
        return jnp.where(_box(images, top, left, h, w) & erased[:, None, None, None], new, images)

    return Pixels(apply)


@register
def mixup(alpha: float) -> Mixing:
    """Weighted means of two images and of their labels (Zhang et al. 2018): w x[i] + (1 - w) x[i - 1].

    One w ~ Beta(alpha, alpha) a batch, as in the authors' code. The other image is the one before in the batch, whose
    order is random.

    Args:
        alpha: from 1e-6 to 1e6: 0.2 mixes little, 1 uniformly.
    """
    _check_alpha("mixup", alpha)

    def apply(key, images, targets):
        weight = _share(key, alpha)
        return _mean(weight, images), _mean(weight, targets)

    return Mixing(apply)


@register
def cutmix(alpha: float = 1.0) -> Mixing:
    """A rectangle of another image in each image; labels are mixed by area (Yun et al. 2019).

    One rectangle a batch, as in the authors' code: its share of the area is 1 - w, w ~ Beta(alpha, alpha), its shape
    that of the image, its center uniform; what is outside of the image is cut off, and w is then the share of the
    image that is left. The other image is the one before in the batch, whose order is random.

    Args:
        alpha: from 1e-6 to 1e6.
    """
    _check_alpha("cutmix", alpha)

    def apply(key, images, targets):
        share, place = jax.random.split(key)
        shape = jnp.array(images.shape[1:3])
        sides = (shape * jnp.sqrt(1 - _share(share, alpha))).astype(jnp.int32)
        top, left = jax.random.randint(place, (2,), 0, shape) - sides // 2
        box = _box(images[:1], top[None], left[None], *sides)
        return jnp.where(box, jnp.roll(images, 1, 0), images), _mean(1 - jnp.mean(box, dtype=jnp.float32), targets)

    return Mixing(apply)


def _check_alpha(name, alpha):
    if not 1e-6 <= alpha <= 1e6:  # beyond, float32 has NaN
        raise InputError(f"{name}: alpha must be from 1e-6 to 1e6, got {alpha}")


def _share(key, alpha):
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def _mean(weight, x):
    return weight * x + (1 - weight) * jnp.roll(x, 1, 0)  # from the neighbor, which costs devices little to exchange


def _box(images, top, left, height, width):
    """bool [B, H, W, 1]: within boxes, of which each argument is int [B] or one for all."""
    rows, columns = (jnp.arange(size)[None] for size in images.shape[1:3])
    top, left, height, width = (jnp.reshape(x, (-1, 1)) for x in (top, left, height, width))
    rows, columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _reflect(i, size):
    i = jnp.abs(i)
    return jnp.where(i >= size, 2 * (size - 1) - i, i)


def _inside(i, size):
    return (i >= 0) & (i < size)


def parse(texts: Sequence[str], *, streamed: bool) -> tuple[Augmentation, ...]:
    """The parts of a list, checked for what goes together.

    Args:
        texts: names and calls, in the order in which they are applied.
        streamed: whether the images are photographs that are read while training, or else in memory.

    Raises:
        InputError: for what is no augmentation, not for such images, or not at its place.
    """
    parts = tuple(map(augmentations.get, texts))
    for n, (text, part) in enumerate(zip(texts, parts, strict=True)):
        if streamed and augmentations.normalize(text).startswith("crop("):
            raise InputError(f"data.augment: {text} is for images in memory: photographs have crop_area(0.08)")
        if isinstance(part, Area) and not streamed:
            raise InputError(f"data.augment: {text} is for photographs: images in memory have crop(4)")
        if isinstance(part, Area) and n:
            raise InputError(f"data.augment: {text} is done while decoding: let it come first, and once")
        if n and isinstance(parts[n - 1], Mixing) and not isinstance(part, Mixing):
            raise InputError(f"data.augment: {texts[n - 1]} mixes images: let {text} come before it")
    return parts


class Pipeline:
    """A list of augmentations as one function, for use inside of `jax.jit`.

    Args:
        texts: as in `data.augment`.
        shape: (H, W, C) of the images.
        classes: how many labels there are.
        mean: float32 [C], the mean pixel of the training images.
        streamed: as in `parse`.

    Attributes:
        min_area: of the crops that the host is to make; None for none.

    Raises:
        InputError: as in `parse`, and if the images are too small for a part.
    """

    def __init__(
        self, texts: Sequence[str], *, shape: tuple[int, int, int], classes: int, mean: Any, streamed: bool = False
    ):
        parts = tuple(enumerate(parse(texts, streamed=streamed)))
        for text, (_, part) in zip(texts, parts, strict=True):
            if part.smallest > min(shape[:2]):
                raise InputError(
                    f"data.augment: {text} needs images of {part.smallest} pixels a side or more, got "
                    f"{shape[0]} x {shape[1]}: choose a smaller number"
                )
        self.min_area = next((part.min_area for _, part in parts if isinstance(part, Area)), None)
        self._shape, self._classes, self._mean = shape, classes, np.asarray(mean, np.float32)
        one_by_one = [(n, part) for n, part in parts if isinstance(part, Geometry | Pixels)]
        self._leading = list(itertools.takewhile(_is_geometry, one_by_one))
        self._rest = one_by_one[len(self._leading) :]
        self._mixing = [(n, part) for n, part in parts if isinstance(part, Mixing)]

    @lenient()
    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        index: jax.Array | None = None,
        placed: Callable[[jax.Array], jax.Array] = lambda images: images,
    ) -> tuple[jax.Array, jax.Array]:
        """Augment a batch.

        Args:
            key: the random key of the step.
            images: uint8 [N, H, W, C]; flattened to [N, H W C] if there is an index.
            labels: int32 [N].
            index: int [B], the images of the batch; None takes all, B = N.
            placed: applied to the batch once it is picked, for a sharding constraint.

        Returns:
            The images, uint8 [B, H, W, C], and their labels, int32 [B]; with a `Mixing` float32 [B, H, W, C] and
            float32 [B, classes].
        """
        move = functools.partial(_move, self._leading, key)
        if index is not None:
            labels = labels[index]

            def rows_first(images, index):
                return move(images[index].reshape(-1, *self._shape))

            def at_once(images, index):
                return move(images.reshape(-1, *self._shape), index)

            images = lax.platform_dependent(images, index, tpu=rows_first, default=at_once)
        else:
            images = move(images)
        images = placed(images)
        for geometry, group in itertools.groupby(self._rest, _is_geometry):
            if geometry:
                images = _move(list(group), key, images)
                continue
            for n, part in group:
                if isinstance(part, Pixels):
                    images = part.apply(jax.random.fold_in(key, n), images, jnp.asarray(self._mean))
        if not self._mixing:
            return images, labels
        mixtures = [functools.partial(part.apply, jax.random.fold_in(key, n)) for n, part in self._mixing]
        chosen = jax.random.randint(jax.random.fold_in(key, _CHOICE), (), 0, len(mixtures))
        targets = jax.nn.one_hot(labels, self._classes, dtype=jnp.float32)
        return lax.switch(chosen, mixtures, images.astype(jnp.float32), targets)


def _is_geometry(place):
    return isinstance(place[1], Geometry)


def _move(parts, key, images, index=None):
    """Picks images, and applies several `Geometry` at their places in the list, all in one gather."""
    if not parts:
        return images if index is None else images[index]
    height, width = images.shape[1:3]
    batch = len(images) if index is None else len(index)
    rows, columns = (jnp.broadcast_to(jnp.arange(size)[None], (batch, size)) for size in (height, width))
    seen_rows, seen_columns = jnp.array(True), jnp.array(True)
    for n, part in reversed(parts):  # from a pixel of the result back to one of the data set
        rows, columns = part.source(jax.random.fold_in(key, n), rows, columns, (height, width))
        seen_rows, seen_columns = seen_rows & _inside(rows, height), seen_columns & _inside(columns, width)
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    if index is None:  # image by image, so that a device needs only its own
        picked = lax.platform_dependent(images, rows, columns, tpu=_by_products, default=_by_gather)
    else:
        picked = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return jnp.where(seen_rows[:, :, None, None] & seen_columns[:, None, :, None], picked, jnp.zeros((), picked.dtype))


def _by_gather(images, rows, columns):
    return jax.vmap(lambda image, r, c: image[r[:, None], c[None]])(images, rows, columns)


def _by_products(images, rows, columns):
    """The same by two matrix products, for a TPU, which reads single pixels one after another.

    Each number is one pixel times 1, which bfloat16 holds exactly, and zeros. Rows are picked whole, before the three
    channels are an axis: a TPU would pad that, and copy the batch.
    """
    height, width = images.shape[1:3]
    row, column = jax.nn.one_hot(rows, height, dtype=jnp.bfloat16), jax.nn.one_hot(columns, width, dtype=jnp.bfloat16)
    whole = images.reshape(*images.shape[:2], -1).astype(jnp.bfloat16)
    picked = jnp.einsum("bij,bjr->bir", row, whole, preferred_element_type=jnp.bfloat16).reshape(images.shape)
    picked = jnp.einsum("bkw,biwc->bikc", column, picked, preferred_element_type=jnp.bfloat16)
    return picked.astype(images.dtype)


def epoch_order(key: jax.Array, epoch: jax.Array | int, size: int, batch: int) -> jax.Array:
    """The order of one epoch, a pure function of the key and the epoch.

    Returns:
        int32 [size // batch, batch], indices without repetition. What does not fill a batch is left out, other images
        in every epoch.
    """
    steps = size // batch
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    return order[: steps * batch].reshape(steps, batch)


@lenient()
def normalize(images: jax.Array, mean: ArrayLike, std: ArrayLike, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """(images - mean) / std for each channel: uint8 [..., C] -> dtype [..., C], computed in float32."""
    return ((images.astype(jnp.float32) - mean) / std).astype(dtype)
