"""ImageNet's validation images, sorted into a folder for each class, which their archive does not do."""

import collections
import importlib.resources
import os
import re
from pathlib import Path

from lmjax import files
from lmjax.console import show
from lmjax.errors import InputError, optional_import

_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def sort(folder: Path) -> None:
    """Sort ImageNet's validation images, or any of them, into folders named after their classes.

    Args:
        folder: holds the images, or those that an earlier run has not yet sorted.

    Raises:
        InputError: before anything is moved, if there is anything else in the folder that is not hidden, or an image in
            the wrong place, or if the folder of a class is a link.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise InputError(f"--images: there is no folder {folder}")
    labels = _labels()
    moves: dict[Path, Path] = {}
    counts: collections.Counter[str] = collections.Counter()
    for path in _visible(folder):
        sorted_before = path.is_dir() and path.name in labels
        for image in _visible(path) if sorted_before else [path]:
            match = _IMAGE.fullmatch(image.name)
            if not match or not 1 <= int(match[1]) <= len(labels) or image.is_dir():
                raise InputError(
                    f"{image}: is not one of ImageNet's validation images (ILSVRC2012_val_00000001.JPEG to "
                    f"ILSVRC2012_val_{len(labels):08}.JPEG): nothing was moved"
                )
            label = labels[int(match[1]) - 1]
            if sorted_before and path.name != label:
                raise InputError(f"{image}: its class is {label}: nothing was moved")
            counts[label] += 1
            if not sorted_before:
                moves[image] = target = files.inside(folder, label) / image.name
                if os.path.lexists(target):
                    raise InputError(f"{image}: is also {target}: delete one of them; nothing was moved")
    if not counts:
        raise InputError(f"{folder}: holds no images")
    try:
        for image, target in moves.items():
            target.parent.mkdir(exist_ok=True)
            image.rename(target)
    except OSError as error:
        raise InputError(f"{folder}: cannot be sorted ({error}): run it again when that is mended") from error
    show(
        f"{folder}: {len(moves):,} images were sorted; now {counts.total():,} of {len(labels):,} are in the folders of "
        f"{len(counts):,} classes"
    )


def _visible(folder: Path) -> list[Path]:
    """The content of a folder without hidden files, as .DS_Store."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _labels() -> list[str]:
    """The classes of ImageNet's validation images, as tensorflow-datasets has them: image n at n - 1."""
    tfds = optional_import(
        "tensorflow_datasets", package="tensorflow-datasets", purpose="knowing the classes of the images"
    )
    file = importlib.resources.files(tfds) / "datasets" / "imagenet2012" / "validation_labels.txt"
    return file.read_text().split()
