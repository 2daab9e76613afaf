"""Photographs that are read from disk while training, ImageNet's for example."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import files
from lmjax.data import prepared
from lmjax.data.dataset import check_parts, check_statistics, utf8
from lmjax.data.decode import DECODERS
from lmjax.data.folder import open_folder
from lmjax.data.source import Absent, Source
from lmjax.errors import InputError, unknown

# ImageNet's channel means and standard deviations as most recipes have them.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255

RESIZED = "resized.json"  # what `lmjax prepare resize` leaves in a folder that it has written


@dataclasses.dataclass(frozen=True, eq=False)
class Photographs:
    """A data set for classification whose images stay on disk, encoded and of their own sizes.

    Attributes:
        name: what to call it in logs.
        train, test: its two splits.
        classes: the name of each label.
        size: pixels of a side of what the network sees.
        mean, std: of the channels, in the units of a pixel (0 to 255); ImageNet's, float32 [3].
        resized: the shorter side in pixels that the images were brought to beforehand; None for the originals.
        directory: where they are, without symbolic links.
        decoder: of random crops, "pillow" or "turbo".
        skip: take another image instead of one that cannot be decoded, and leave it out of an evaluation.
        workers, threads: processes that decode, 0 for none, and threads in each; None: as many as the cores allow.
    """

    name: str
    train: Source
    test: Source
    classes: tuple[str, ...]
    size: int
    mean: np.ndarray = dataclasses.field(default_factory=_MEAN.copy)
    std: np.ndarray = dataclasses.field(default_factory=_STD.copy)
    resized: int | None = None
    directory: str = ""
    decoder: str = "pillow"
    skip: bool = False
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self):
        check_parts(self)
        check_statistics(self, "leave it out for ImageNet's")
        if self.decoder not in DECODERS:
            raise unknown("decoder", self.decoder, DECODERS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the network sees."""
        return self.size, self.size, 3

    def describe(self) -> dict[str, Any]:
        """All that a network trained on it depends on, as plain data, to be kept with a checkpoint."""
        return {
            "classes": utf8(self.classes),
            "shape": list(self.shape),
            "training_images": len(self.train),
            "test_images": len(self.test),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "resized": self.resized,
        }


def load_photographs(
    root: Path, size: int, *, name: str | None = None, val_split: float | None = None, **options: Any
) -> Photographs:
    """Find photographs; none is read yet.

    Args:
        root: holds `train/<class>/*.JPEG` and `val/<class>/*.JPEG` (or `test`), or a data set that TFDS has prepared,
            at any of its levels (`<root>/imagenet2012/<version>`).
        size: pixels of a side of what the network will see.
        name: of the prepared data set; None for whichever is there.
        val_split: see `hold_out`.
        options: of `Photographs`.

    Raises:
        InputError: if it holds neither, or something is missing in it.
    """
    if name is None and os.path.isdir(root / "train"):
        path, resized = root.resolve(), _resized(root)
        classes, train, test = open_folder(root, ("val", "test"), val_split)
        return Photographs(path.name, train, test, classes, size, resized=resized, directory=str(path), **options)
    found = prepared.find(name, root)
    if found is None:
        raise InputError(f"data.dir: {root} holds neither train/<class>/*.JPEG nor a prepared data set{_hint(root)}")
    data = prepared.load(found, name=name, val_split=val_split)
    path = str(found.resolve())
    return Photographs(data.name, data.train, data.test, data.classes, size, directory=path, **options)


def imagenet_outline(size: int) -> Photographs:
    """As many photographs as ImageNet has (Russakovsky et al. 2015), none of which can be read."""
    return Photographs("imagenet2012", Absent(1_281_167), Absent(50_000), tuple(map(str, range(1000))), size)


def _hint(root: Path) -> str:
    """A hint for a directory that has nearly the right layout."""
    if list(root.glob("ILSVRC2012_img_*.tar")):
        return f": lmjax prepare imagenet2012 --archives {root} --data-dir ... prepares the archives"
    if list(root.glob("n[0-9]*")):
        return ": it seems to be a folder of classes itself: name the folder above, which holds train and val"
    return ""


def _resized(root: Path) -> int | None:
    path = root / RESIZED
    if not path.exists():
        return None
    try:
        note = json.loads(files.read(path))
        shorter_side, complete = int(note["shorter_side"]), bool(note["complete"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is not what lmjax prepare resize writes: write the folder again") from error
    if not complete:
        raise InputError(f"{root}: this smaller copy is not finished: run the same `lmjax prepare resize` again")
    return shorter_side
