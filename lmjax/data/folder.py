"""A folder of images, `<directory>/{train,test|val}/<class>/*.{png,jpg,jpeg}`: its files, or all their pixels."""

import concurrent.futures
import os
import stat
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
            found = sorted(filter(is_image, _listed(folder / name)))
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
            BrokenImage: if it is a folder, a link to nothing, a pipe or a device: the others can still be used.
            InputError: if it cannot be read.
        """
        path = self.place(i)
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may have no end
                    raise BrokenImage("it is a pipe or a device")
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


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe, too, which otherwise waits for someone to write into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # not on Windows


def split_folder(root: Path, *names: str) -> Path:
    """The first of the folders `names` that exists below `root`."""
    for name in names:
        if os.path.isdir(root / name):
            return root / name
    raise InputError(
        f"{root}: holds no folder {' or '.join(repr(name) for name in names)} (train/<class>/*.jpg is expected)"
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, in alphabetical order."""
    found = _listed(folder)
    names = tuple(sorted(name for name in found if os.path.isdir(folder / name) and not name.startswith(".")))
    if not names:
        flat = any(map(is_image, found))
        cure = f"put the images into {folder}/<class>/"
        if flat and folder.name == "val":
            cure += f"; if they are ImageNet's, `python -m lmjax.prepare sort-validation --images {folder}` does it"
        raise InputError(f"{folder}: holds {'images, but ' if flat else ''}no class folders: {cure}")
    return names


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _listed(folder: Path) -> list[str]:
    """The names in a folder."""
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def _hint(folder: Path) -> str:
    """What to do about a class folder without images that has some one folder deeper, as in Tiny-ImageNet."""
    for path in (folder / name for name in sorted(_listed(folder)) if not name.startswith(".")):
        if os.path.isdir(path) and any(map(is_image, _listed(path))):
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
    if size is not None and not 1 <= size <= 65_535:  # beyond, Pillow cannot count all of an image's pixels
        raise InputError(f"data.size: must be from 1 to 65535 pixels, got {size}")
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
    root = Path(os.path.expanduser(directory))
    if not os.path.isdir(root):  # unlike Path's, it takes any text for a name
        raise InputError(f"data.dir: there is no directory {root}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"data.dir: {root} cannot be read (Permission denied)")
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
                    images = _room(files, image)
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


def _room(files: Files, image: np.ndarray) -> np.ndarray:
    """For as many images as there are files, like this one."""
    try:
        return np.empty((len(files), *image.shape), np.uint8)
    except MemoryError as error:
        raise InputError(
            f"{files.folder}: {len(files)} images of {_pixels(image)} do not fit into memory: make them smaller with "
            "--data.size, or read them while training with --data.name imagenet"
        ) from error


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"
