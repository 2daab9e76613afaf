"""A folder of images, `<directory>/{train,test|val}/<class>/*.{png,jpg,jpeg}`: its files, or all their pixels."""

import concurrent.futures
import os
from pathlib import Path

import numpy as np

from lmjax.data.dataset import Dataset, Split, channel_statistics
from lmjax.data.decode import BrokenImage, PillowImage
from lmjax.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")


class Files:
    """The image files of one split, undecoded; what `lmjax.data.Stream` reads.

    Args:
        folder: holds a folder for each class, all of which must be in `classes` and the other way round.
        classes: their names; the label of a class is its position.

    Raises:
        InputError: naming the class folder that is missing, empty or not in `classes`.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...]):
        for name in class_names(folder):
            if name not in classes:
                raise InputError(f"{folder / name}: a class that {folder.with_name('train')} does not have")
        paths, self.labels = [], []
        for label, name in enumerate(classes):
            if not (folder / name).is_dir():
                raise InputError(
                    f"{folder / name}: this class is missing here: every split needs a folder for every class"
                )
            with os.scandir(folder / name) as entries:
                found = sorted(e.name for e in entries if is_image(e.name))
            if not found:
                raise InputError(f"{folder / name}: holds no images ({', '.join(_SUFFIXES)}){_hint(folder / name)}")
            paths += [os.path.join(name, file) for file in found]
            self.labels += [label] * len(found)
        self.folder = str(folder)
        # One array each: a million strings would be copied one by one to every process that decodes.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self.labels = np.int32(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The content of a file, and its label.

        Raises:
            BrokenImage: if it is a folder, or a link to nothing: with either, the others can still be used.
            InputError: if it cannot be read.
        """
        path = self.place(i)
        try:
            with open(path, "rb") as file:
                return file.read(), int(self.labels[i])
        except IsADirectoryError as error:
            raise BrokenImage("it is a folder") from error
        except OSError as error:
            if os.path.islink(path) and not os.path.exists(path):
                raise BrokenImage("it is a link to nothing") from error
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def place(self, i: int) -> str:
        """Where image i is: its path."""
        return os.path.join(self.folder, os.fsdecode(self._paths[i]))


def split_folder(root: Path, *names: str) -> Path:
    """The first of the folders `names` that exists below `root`."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(
        f"{root}: holds no folder {' or '.join(repr(name) for name in names)} (train/<class>/*.jpg is expected)"
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, in alphabetical order."""
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        flat = any(is_image(p.name) for p in folder.iterdir())
        cure = f"put the images into {folder}/<class>/"
        if flat and folder.name == "val":
            cure += f"; if they are ImageNet's, `python -m lmjax.prepare sort-validation --images {folder}` does it"
        raise InputError(f"{folder}: holds {'images, but ' if flat else ''}no class folders: {cure}")
    return names


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _hint(folder: Path) -> str:
    """What to do about a class folder without images that has some one folder deeper, as in Tiny-ImageNet."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and any(is_image(inner.name) for inner in path.iterdir()):
            return f", but {path} does: move them one folder up, into {folder}"
    return ""


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
    root = require_directory(directory)
    if size is not None and size < 1:
        raise InputError(f"data.size: must be at least 1 pixel, got {size}")
    train_folder, test_folder = split_folder(root, "train"), split_folder(root, "test", "val")
    classes = class_names(train_folder)
    train, test = (_decoded(Files(folder, classes), size) for folder in (train_folder, test_folder))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{root}: training images are {_pixels(train.images[0])} and test images {_pixels(test.images[0])}: "
            "bring them to one size with --data.size"
        )
    return Dataset(root.name, train, test, classes, *channel_statistics(train.images))


def require_directory(directory: str | Path | None) -> Path:
    """The directory that data.dir names, which must exist."""
    if directory is None:
        raise InputError("data.dir: a folder data set needs the folder: give --data.dir")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise InputError(f"data.dir: there is no directory {root}")
    return root


def _decoded(files: Files, size: int | None) -> Split:
    def decode(i):
        try:
            image = PillowImage(files[i][0])
            return image.whole() if size is None else image.centre(size, size)
        except BrokenImage as error:
            raise InputError(f"{files.place(i)}: cannot be decoded ({error}): replace or delete it") from error

    images = None
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter's lock
        try:
            for i, image in enumerate(pool.map(decode, range(len(files)))):
                if images is None:
                    images = np.empty((len(files), *image.shape), np.uint8)
                elif image.shape != images.shape[1:]:
                    raise InputError(
                        f"{files.place(i)}: is {_pixels(image)}, but {files.place(0)} is {_pixels(images[0])}: bring "
                        "all images to one size with --data.size"
                    )
                images[i] = image
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return Split(images, files.labels)


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"
