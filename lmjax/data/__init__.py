"""Data sets, in memory or read from disk while training, and the augmentation that runs on the device."""

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
    normalize,
)
from lmjax.data.dataset import Dataset, Split
from lmjax.data.datasets import Origin, load
from lmjax.data.folder import Files
from lmjax.data.photographs import Photographs
from lmjax.data.source import Source
from lmjax.data.stream import Loader, Reader, Stream, WorkerDied

__all__ = [
    "Area",
    "Augmentation",
    "Dataset",
    "Files",
    "Geometry",
    "Loader",
    "Mixing",
    "Origin",
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
    "normalize",
]
