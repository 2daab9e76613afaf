"""Data sets, in memory or read from disk while training, and the augmentation that runs on the device."""

from pathlib import Path

from lmjax.data import trivial  # noqa: F401  registers itself
from lmjax.data.augment import (
    Area,
    Augmentation,
    Geometry,
    Mixing,
    Pipeline,
    Pixels,
    augmentations,
    epoch_order,
    normalise,
)
from lmjax.data.cifar import ARCHIVES, load_cifar
from lmjax.data.dataset import Dataset, Split
from lmjax.data.digits import load_digits
from lmjax.data.folder import Files, load_folder
from lmjax.data.photographs import Photographs, load_photographs
from lmjax.data.stream import Loader, Reader, Source, Stream, WorkerDied
from lmjax.errors import InputError, unknown

__all__ = [
    "Area",
    "Augmentation",
    "Dataset",
    "Files",
    "Geometry",
    "Loader",
    "Mixing",
    "Photographs",
    "Pipeline",
    "Pixels",
    "Reader",
    "Source",
    "Split",
    "Stream",
    "WorkerDied",
    "augmentations",
    "epoch_order",
    "load",
    "load_cifar",
    "load_digits",
    "load_folder",
    "load_photographs",
    "normalise",
]


def load(name: str, *, directory: str | Path | None = None, size: int | None = None) -> Dataset | Photographs:
    """Loads a data set by name: "digits", "cifar10", "cifar100" or "folder" into memory, "imagenet" not.

    Args:
        name: which.
        directory: for CIFAR where to look or to download into, for a folder and for ImageNet the folder itself.
        size: for a folder, the pixels of a side to bring its images to; for ImageNet, those of its crops.

    Raises:
        InputError: for another name, and where the data set cannot be read.
    """
    if name == "digits":
        return load_digits()
    if name == "folder":
        return load_folder(directory, size)
    if name == "imagenet":
        if size is None:
            raise InputError("data.size: imagenet needs the side of its crops (224)")
        return load_photographs(directory, size)
    if name not in ARCHIVES:
        raise unknown("data set", name, ("digits", "folder", "imagenet", *ARCHIVES))
    return load_cifar(name, directory)
