"""A data set in memory."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from lmjax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N], from 0 to classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        for name in ("images", "labels"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.labels)


def _left_out() -> np.ndarray:
    return np.empty(0, np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification that fits in memory.

    Attributes:
        name: what to call it in logs.
        train, test: its two splits, of one image shape.
        classes: the name of each label.
        mean, std: of the training images' channels, in the units of a pixel (0 to 255); float32 [C]; computed if both
            are left out.
        broken: the places of images that could not be decoded, and were left out.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: np.ndarray = dataclasses.field(default_factory=_left_out)
    std: np.ndarray = dataclasses.field(default_factory=_left_out)
    broken: tuple[str, ...] = ()

    def __post_init__(self):
        check_parts(self)
        for kind, split in (("training", self.train), ("test", self.test)):
            if split.images.dtype != np.uint8 or split.images.ndim != 4 or len(split.images) != len(split):
                raise InputError(
                    f"{self.name}: the {kind} images must be uint8 [{len(split)}, H, W, C], one a label, got "
                    f"{split.images.dtype} {list(split.images.shape)}"
                )
            if split.labels.ndim != 1 or not np.issubdtype(split.labels.dtype, np.integer):
                raise InputError(
                    f"{self.name}: the {kind} labels must be whole numbers [N], got {split.labels.dtype} "
                    f"{list(split.labels.shape)}"
                )
            if split.labels.min() < 0 or split.labels.max() >= len(self.classes):
                raise InputError(
                    f"{self.name}: the {kind} labels run from {split.labels.min()} to {split.labels.max()}, "
                    f"but there are {len(self.classes)} classes, numbered from 0"
                )
            object.__setattr__(split, "labels", split.labels.astype(np.int32, copy=False))
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise InputError(
                f"{self.name}: training images are {self.train.images.shape[1:]} and test images "
                f"{self.test.images.shape[1:]} (height, width, channels): bring them to one size, as in folder(32)"
            )
        if not np.size(self.mean) and not np.size(self.std):
            for key, value in zip(("mean", "std"), _channel_statistics(self.train.images), strict=True):
                object.__setattr__(self, key, value)
        check_statistics(self, "leave out both mean and std to have them computed")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.train.images.shape[1:]

    def describe(self) -> dict[str, Any]:
        """All that a network trained on it depends on, as plain data, to be kept with a checkpoint."""
        return {
            "classes": utf8(self.classes),
            "shape": list(self.shape),
            "training_images": len(self.train),
            "test_images": len(self.test),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }


def check_parts(dataset: Any) -> None:
    """Raise InputError unless a data set has two names of classes at least, and images in both splits."""
    name, classes = dataset.name, dataset.classes
    if len(classes) < 2:
        raise InputError(f"{name}: there is nothing to tell apart with {len(classes)} class")
    if others := [each for each in classes if not isinstance(each, str)]:
        raise InputError(f"{name}: classes must be names, got {others[0]!r}")
    for kind, split in (("training", dataset.train), ("test", dataset.test)):
        if not len(split):
            raise InputError(f"{name}: the {kind} split is empty")


def check_statistics(dataset: Any, cure: str) -> None:
    """Make mean and std of a data set float32 [C]; InputError if one cannot normalize images by them."""
    for key in ("mean", "std"):
        value = np.asarray(getattr(dataset, key), np.float32)
        if value.shape != dataset.shape[-1:]:
            got = f"got the shape {list(value.shape)}" if value.size else "and is left out"
            raise InputError(
                f"{dataset.name}: {key} must be one number for each of the {dataset.shape[-1]} channels, {got}; {cure}"
            )
        if not np.isfinite(value).all() or (key == "std" and not (value > 0).all()):
            above = " above 0" if key == "std" else ""
            raise InputError(f"{dataset.name}: {key} must be finite numbers{above}, got {value.tolist()}")
        object.__setattr__(dataset, key, value)


def utf8(names: Iterable[str]) -> list[str]:
    """Names of folders as UTF-8 has them, also where the locale is ASCII."""
    return [name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") for name in names]


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of uint8 [N, H, W, C], exactly, from its histogram."""
    mean, std = [], []
    for channel in range(images.shape[-1]):
        pixels = images[..., channel]
        parts = np.array_split(pixels, min(len(pixels), math.ceil(pixels.size / 2**22)))  # bincount makes them int64
        counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in parts], axis=0, dtype=np.float64)
        values = np.arange(256)
        m = counts @ values / counts.sum()
        mean.append(m)
        std.append(np.sqrt(counts @ (values - m) ** 2 / counts.sum()))
    # A channel that never varies carries nothing; dividing by 1 leaves it at zero.
    return np.array(mean, np.float32), np.array([s if s > 0 else 1.0 for s in std], np.float32)
