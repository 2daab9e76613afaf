"""The files in a folder of images, `<directory>/{train,test|val}/<class>/*.{jpg,png,webp,...}`."""

import collections
import errno
import os
import stat
from pathlib import Path

import numpy as np

from lmjax import files
from lmjax.console import note
from lmjax.data.decode import BrokenImage
from lmjax.data.source import Source, hold_out
from lmjax.errors import InputError, reason

# Formats that Pillow decodes by itself, from any source, without running a program; of an animation the first picture.
_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".tga",
)  # fmt: skip
_KINDS = 6  # of files that are not used, in a note


class Files:
    """The image files of one split, undecoded; what `lmjax.data.Stream` reads.

    Args:
        folder: holds a folder for each class, all of which must be in `classes` and the other way round.
        classes: their names; the label of a class is its position.

    Attributes:
        unused: the number of files and folders that are no images, by kind; hidden ones do not count.

    Raises:
        InputError: naming the class folder that is missing, empty or not in `classes`.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...]):
        for name in class_names(folder):
            if name not in classes:
                raise InputError(f"{folder / name}: a class that {folder.with_name('train')} does not have")
        paths, labels = [], []
        self.unused = collections.Counter(
            "files beside class folders"
            for name in _listed(folder)
            if not name.startswith(".") and not os.path.isdir(folder / name)
        )
        for label, name in enumerate(classes):
            if not (folder / name).is_dir():
                raise InputError(
                    f"{folder / name}: this class is missing here: every split needs a folder for every class"
                )
            listed = _listed(folder / name)
            found = sorted(filter(is_image, listed))
            others = (other for other in listed if not is_image(other) and not other.startswith("."))
            self.unused.update(_kind(folder / name / other) for other in others)
            if not found:
                raise InputError(f"{folder / name}: holds no images ({', '.join(_SUFFIXES)}){_hint(folder / name)}")
            paths += [os.path.join(name, file) for file in found]
            labels += [label] * len(found)
        self.folder = str(folder)
        # One array each: a million strings would be copied one by one to every process that decodes.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The content of a file, and its label.

        Raises:
            BrokenImage, InputError: as `content`.
        """
        return content(self.place(i)), int(self.labels[i])

    def place(self, i: int) -> str:
        """The path of image i."""
        return os.path.join(self.folder, os.fsdecode(self._paths[i]))


def content(path: str) -> bytes:
    """The content of an image file.

    Raises:
        BrokenImage: if it is a folder, a link to nothing, a pipe, a socket or a device: others can be used.
        InputError: if it cannot be read.
    """
    if "\0" in path:
        raise InputError(f"{path!r}: is no path, as it has a null character")
    try:
        with open(path, "rb", opener=files.without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may have no end
                raise BrokenImage("it is a pipe or a device")
            return file.read()
    except IsADirectoryError as error:
        raise BrokenImage("it is a folder") from error
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise BrokenImage("it is a link to nothing") from error
        if error.errno == errno.ENXIO:
            raise BrokenImage("it is a socket, or a device that is not there") from error
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


def open_folder(root: Path, tests: tuple[str, ...], val_split: float | None) -> tuple[tuple[str, ...], Source, Source]:
    """The classes, the training and the test images below a folder, undecoded.

    Args:
        root: holds `train`, and one of `tests`, with a folder for each class in both.
        tests: which folders may hold the test images, the best first.
        val_split: see `hold_out`.

    Raises:
        InputError: naming the folder that is missing or empty, or the class that only one split has.
    """
    if not os.path.isdir(root / "train"):
        raise InputError(f"{root}: holds no folder 'train' (train/<class>/*.jpg is expected)")
    classes = class_names(root / "train")
    found = [name for name in tests if os.path.isdir(root / name)][:1]
    train, *test = (Files(root / name, classes) for name in ("train", *found))
    if unused := sum((files.unused for files in (train, *test)), collections.Counter()):
        named = [f"{count} {kind}" for kind, count in unused.most_common(_KINDS)]
        rest = unused.total() - sum(count for _, count in unused.most_common(_KINDS))
        note(f"note: {root}: not used are {', '.join(named)}{f' and {rest} others' if rest else ''}")
    return classes, *hold_out(
        train, test[0] if test else None, val_split, root, f"folder {' or '.join(map(repr, found or tests))}"
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, in alphabetical order."""
    found = _listed(folder)
    names = tuple(sorted(name for name in found if os.path.isdir(folder / name) and not name.startswith(".")))
    if not names:
        flat = any(map(is_image, found))
        cure = f"put the images into {folder}/<class>/"
        if flat and folder.name == "val":
            cure += f"; if they are ImageNet's, `lmjax prepare sort-validation --images {folder}` does it"
        raise InputError(f"{folder}: holds {'images, but ' if flat else ''}no class folders: {cure}")
    return names


def _kind(path: Path) -> str:
    return "folders in class folders" if os.path.isdir(path) else f"{path.suffix.lower() or 'unnamed'} files"


def is_image(name: str) -> bool:
    """True if a file of this name is taken for an image."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _listed(folder: Path) -> list[str]:
    """The names in a folder."""
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({reason(error)})") from error


def _hint(folder: Path) -> str:
    """A hint for a class folder whose images are one folder deeper, as in Tiny-ImageNet."""
    for path in (folder / name for name in sorted(_listed(folder)) if not name.startswith(".")):
        if os.path.isdir(path) and any(map(is_image, _listed(path))):
            return f", but {path} does: move them one folder up, into {folder}"
    return ""


def require_directory(directory: str | Path) -> Path:
    """The directory that data.dir names, which must exist."""
    root = Path(os.path.expanduser(directory))
    if not os.path.isdir(root):  # unlike Path's, it takes any text for a name
        raise InputError(f"data.dir: there is no directory {root}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"data.dir: {root} cannot be read (Permission denied)")
    return root
