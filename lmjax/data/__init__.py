"""Data sets in memory, and the augmentation that runs on the device."""

from pathlib import Path

from lmjax.data.augment import crop_and_flip, epoch_order, normalise
from lmjax.data.cifar import ARCHIVES, load_cifar
from lmjax.data.dataset import Dataset, Split
from lmjax.data.digits import load_digits
from lmjax.data.folder import load_folder
from lmjax.errors import unknown

__all__ = [
    "Dataset",
    "Split",
    "crop_and_flip",
    "epoch_order",
    "load",
    "load_cifar",
    "load_digits",
    "load_folder",
    "normalise",
]


def load(name: str, *, directory: str | Path | None = None, size: int | None = None) -> Dataset:
    """Loads a data set by name: "digits", "cifar10", "cifar100" or "folder".

    Args:
        name: which.
        directory: for CIFAR where to look or to download into, for a folder the folder itself.
        size: for a folder, the pixels of a side to bring its images to.

    Raises:
        InputError: for another name, and where the data set cannot be read.
    """
    if name == "digits":
        return load_digits()
    if name == "folder":
        return load_folder(directory, size)
    if name not in ARCHIVES:
        raise unknown("data set", name, ("digits", "folder", *ARCHIVES))
    return load_cifar(name, directory)
