"""A folder of images: `<directory>/{train,test|val}/<class>/*.{png,jpg,jpeg}`."""

import concurrent.futures
import os
from pathlib import Path

import numpy as np
from PIL import Image

from lmjax.data.dataset import Dataset, Split, channel_statistics
from lmjax.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_folder(directory: str | Path | None, size: int | None = None) -> Dataset:
    """Decodes every image once, into memory. Nothing is written to disk.

    The classes are the folders below `train`, in alphabetical order. Files with other endings and hidden ones are
    left alone; grey, palette and CMYK images become RGB, and transparency is dropped.

    Args:
        directory: holds `train` and `test` (or `val`), with a folder for each class in both.
        size: None takes the images as they are, all of one size. A number scales each image so that its shorter side
            has that many pixels (antialiased, bilinear), and cuts out the middle square.

    Raises:
        InputError: naming the folder that is missing or empty, the class that only one split has, the file that
            cannot be decoded, or two images of different sizes.
    """
    if directory is None:
        raise InputError("data.dir: a folder data set needs the folder: give --data.dir")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise InputError(f"data.dir: there is no directory {root}")
    if size is not None and size < 1:
        raise InputError(f"data.size: must be at least 1 pixel, got {size}")
    train_folder, test_folder = _child(root, "train"), _child(root, "test", "val")
    classes = _classes(train_folder)
    for name in _classes(test_folder):
        if name not in classes:
            raise InputError(f"{test_folder / name}: a class that {train_folder} does not have")
    train, test = (_split(folder, classes, size) for folder in (train_folder, test_folder))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{root}: training images are {_pixels(train.images[0])} and test images {_pixels(test.images[0])}: "
            "bring them to one size with --data.size"
        )
    return Dataset(root.name, train, test, classes, *channel_statistics(train.images))


def _child(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(
        f"{root}: holds no folder {' or '.join(repr(name) for name in names)} (train/<class>/*.jpg is expected)"
    )


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise InputError(f"{folder}: holds no class folders: put the images into {folder}/<class>/")
    return names


def _split(folder: Path, classes: tuple[str, ...], size: int | None) -> Split:
    paths, labels = [], []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise InputError(f"{folder / name}: this class is missing here: every split needs a folder for every class")
        with os.scandir(folder / name) as entries:
            found = sorted(e.path for e in entries if e.name.lower().endswith(_SUFFIXES) and not e.name.startswith("."))
        if not found:
            raise InputError(f"{folder / name}: holds no images ({', '.join(_SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    images = None
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        decoded = pool.map(lambda path: _decode(path, size), paths, chunksize=64)
        try:
            for i, image in enumerate(decoded):
                if images is None:
                    images = np.empty((len(paths), *image.shape), np.uint8)
                elif image.shape != images.shape[1:]:
                    raise InputError(
                        f"{paths[i]}: is {_pixels(image)}, but {paths[0]} is {_pixels(images[0])}: bring all images to "
                        "one size with --data.size"
                    )
                images[i] = image
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return Split(images, np.int32(labels))


def _decode(path: str, size: int | None) -> np.ndarray:
    """One image as uint8 [H, W, 3]."""
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise ValueError("it has more than 8 bits a channel; convert it to 8")  # Pillow would clip it to white
            image = image.convert("RGB")
    except Exception as error:  # Pillow's readers raise whatever a broken file made them stumble over
        raise InputError(f"{path}: cannot be decoded ({error}): replace or delete it") from error
    if size is not None and image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(image)


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"
