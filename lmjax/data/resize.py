"""A smaller copy of a set of photographs, for machines whose processors cannot feed their accelerator."""

import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lmjax import files
from lmjax.console import few
from lmjax.data.decode import BrokenImage, PillowImage
from lmjax.data.folder import Files, class_names, is_image
from lmjax.data.photographs import RESIZED, Photographs
from lmjax.data.source import Source, Subset
from lmjax.data.threads import in_threads
from lmjax.errors import InputError

_LONGEST = 65500  # pixels of a side of a JPEG file, to libjpeg


def resize(
    photographs: Photographs,
    target: Path,
    shorter_side: int,
    *,
    quality: int = 90,
    skip: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str] | None:
    """Write every photograph whose shorter side is longer than `shorter_side` with that size, the others as they are.

    The copy is a folder {train,val}/<class>/*.JPEG, which `photographs` reads like any other, and whose size is
    noted in checkpoints. A call that was interrupted goes on where it stopped; what has changed meanwhile is written
    anew. Nothing is deleted, no link is followed, and a copy that is finished stays as it is.

    Args:
        photographs: the originals.
        target: the folder to write: an unfinished copy of the same photographs, empty, or not there.
        shorter_side: in pixels, after which the images are resampled with Lanczos' filter.
        quality: of the JPEG files, 1 to 95.
        skip: leave out what cannot be decoded, or not encoded, instead of stopping.
        progress: called now and then with how many images are done, and how many there are.

    Returns:
        What was left out, and why; None if the copy was finished before.

    Raises:
        InputError: if an image cannot be decoded or encoded, the photographs are smaller copies themselves, or the
            folder cannot be written, or holds something else, a copy of other photographs for example.
    """
    copy, left_out = _Copy(photographs, target, shorter_side, quality, skip), []
    try:
        if copy.finished():
            return None
        copy.begin()
        for done, problem in enumerate(in_threads(copy.write, copy.images()), start=1):
            if problem is not None:
                left_out.append(problem)
            if done % 100 == 0 or done == copy.total:
                progress(done, copy.total)
        copy.finish()
    except OSError as error:
        raise InputError(
            f"{error.filename2 or error.filename or target}: cannot be written ({error.strerror or error}); when that "
            "is mended, the same command goes on from here"
        ) from error
    return left_out


class _Copy:
    """A smaller copy that is being written; arguments and errors are those of `resize`."""

    def __init__(self, photographs: Photographs, target: Path, shorter_side: int, quality: int, skip: bool):
        source, classes = Path(photographs.directory), photographs.classes
        _require(shorter_side >= 1, f"--shorter-side: must be at least 1 pixel, got {shorter_side}")
        _require(1 <= quality <= 95, f"--quality: must be from 1 to 95, got {quality}")
        _require(
            photographs.resized is None or shorter_side <= photographs.resized,
            f"--shorter-side {shorter_side}: {source} is a smaller copy itself, of {photographs.resized} pixels: make "
            "this one from the originals",
        )
        _require(
            source not in Path(os.path.realpath(target)).parents,
            f"--to {target}: lies in the photographs themselves, {source}",
        )
        _require(
            len(set(classes)) == len(classes), f"{photographs.name}: several classes have the same name: rename them"
        )
        self._target, self._classes, self._skip = target, classes, skip
        self._size, self._quality = shorter_side, quality
        self._splits = {"train": photographs.train, "val": photographs.test}
        counts = {split: len(source) for split, source in self._splits.items()}
        self.total = sum(counts.values())
        self._labels = {split: np.full(count, -1) for split, count in counts.items()}  # of what is in the copy
        self._note = {
            "shorter_side": shorter_side, "quality": quality, "source": photographs.directory, "images": counts,
        }  # fmt: skip
        self._changed = {  # the images of a prepared data set have no times of their own
            split: max(map(_changed, _files(source)))
            for split, source in self._splits.items()
            if not isinstance(source, Files)
        }

    @property
    def _marker(self) -> Path:
        return files.inside(self._target, RESIZED)

    def finished(self) -> bool:
        return _finished(self._target, self._marker, self._note)

    def images(self) -> Iterator[tuple[str, int]]:
        """Each image by its split and its number there."""
        return ((split, i) for split, source in self._splits.items() for i in range(len(source)))

    def begin(self) -> None:
        """Make the folders, and mark them as unfinished."""
        folders = [files.inside(self._target, split, name) for split in self._splits for name in self._classes]
        files.make_folder(self._target)
        files.write(self._marker, json.dumps(self._note | {"complete": False}) + "\n")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        places = [self._target / split for split in self._splits]
        _compare((place, set(self._classes), class_names(place)) for place in places)

    def write(self, image: tuple[str, int]) -> str | None:
        """Write an image, unless it is there; returns why it was left out."""
        split, i = image
        source = self._splits[split]
        try:
            self._labels[split][i] = _write(
                self._target / split, source, i, self._classes, self._changed.get(split, 0), self._size, self._quality
            )
        except BrokenImage as error:
            verb = "encoded" if isinstance(error, _NotEncoded) else "decoded"
            problem = f"{source.place(i)}: cannot be {verb} ({error})"
            if self._skip:
                return problem
            raise InputError(f"{problem}: replace or delete it, or give --on-error skip") from error
        return None

    def finish(self) -> None:
        """Check that each class has images and nothing else is there, and mark the copy as finished."""
        for split, labels in self._labels.items():
            without = [self._classes[i] for i in np.setdiff1d(np.arange(len(self._classes)), labels)]
            why = "mend those left out, and give the same command again" if -1 in labels else "the originals have none"
            _require(
                not without, f"{self._target / split}: has no image of {few(without)}, so that it cannot be used: {why}"
            )
        _compare(
            (folder, {_name(source, int(i)) for i in np.flatnonzero(self._labels[split] == label)}, _images(folder))
            for split, source in self._splits.items()
            for label, folder in enumerate(self._target / split / name for name in self._classes)
        )
        if hasattr(os, "sync"):  # not on Windows; to sync a million files one by one would take hours
            os.sync()
        files.write(self._marker, json.dumps(self._note | {"complete": True}) + "\n")


def count(folder: Path) -> int:
    """The number of images that a copy holds."""
    splits = folder / "train", folder / "val"
    return sum(len(_images(split / name)) for split in splits for name in class_names(split))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _finished(target: Path, marker: Path, note: dict) -> bool:
    """Tell a finished copy of the same photographs, made in the same way, from a folder that is to be written."""
    if not marker.exists():
        if target.exists() and any(target.iterdir()):
            raise InputError(f"{target}: is not empty, and holds no copy that was begun here: name another folder")
        return False
    try:
        before = dict(json.loads(files.read(marker)))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{marker}: cannot be read: delete {target}, or name another folder") from error
    made, asked = ({key: each.get(key) for key in ("shorter_side", "quality")} for each in (before, note))
    if made != asked:
        raise InputError(f"{target}: holds a copy made with {made}, not {asked}: name another folder")
    if not {"source", "images"} <= before.keys():
        raise InputError(
            f"{target}: holds a copy made by an earlier version, which did not note of what: train on it if it is "
            "finished; otherwise delete it, or name another folder"
        )
    if before["source"] != note["source"]:
        raise InputError(
            f"{target}: holds a copy of {before['source']}, not of {note['source']}: name another folder (if the "
            f"images were only moved, write where they are now into {marker})"
        )
    if not before.get("complete"):
        return False
    if before["images"] != note["images"]:
        raise InputError(
            f"{target}: holds a finished copy of {before['images']} images, and {note['source']} has changed since, to "
            f"{note['images']}: name another folder, or delete this one"
        )
    return True


def _compare(folders: Iterable[tuple[Path, set[str], Iterable[str]]]) -> None:
    """Refuse folders in which other names are found than those that belong there."""
    strangers: list[Path] = []
    lost: list[Path] = []
    for folder, expected, found in folders:
        strangers += [folder / name for name in sorted({*found} - expected)]
        lost += [folder / name for name in sorted(expected - {*found})]
    for paths, problem in (
        (strangers, "not in the photographs (any more): delete it from the copy, and run the same command again"),
        (
            lost,
            "missing after it was written; perhaps the file system takes a and A for the same name: use another one",
        ),
    ):
        if paths:
            raise InputError(f"{few(paths)}: {problem}")


def _images(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if is_image(name)]


def _write(
    folder: Path, source: Source, index: int, classes: Sequence[str], changed: float, shorter_side: int, quality: int
) -> int:
    """Write one image, unless it is there; returns its label."""
    data = None
    if isinstance(source, Files):
        label, changed = int(source.labels[index]), _changed(source.place(index))
    else:
        data, label = source[index]
    path = folder / classes[label] / _name(source, index)
    if not _is_whole(path, changed):
        if data is None:
            data, _ = source[index]
        files.write(path, _smaller(data, shorter_side, quality), durable=False)
    return label


def _name(source: Source, index: int) -> str:
    """The name of an image in its class of the copy, which no other one there has."""
    if not isinstance(source, Files):  # the images of a prepared data set may have no unique names
        return f"{index:08d}.JPEG"
    name = os.path.basename(source.place(index))
    stem, suffix = os.path.splitext(name)
    # "a.png.JPEG" is what "a.png" becomes.
    return name if suffix.lower() in (".jpg", ".jpeg") and not is_image(stem) else f"{name}.JPEG"


def _files(source: Source) -> Iterable[str]:
    """The files that the images of a source come from."""
    if isinstance(source, Subset):
        return _files(source.source)
    return getattr(source, "files", None) or map(source.place, range(len(source)))


def _changed(file: str) -> float:
    """The time at which a file, or its place, last changed, in nanoseconds; a missing one is always new."""
    try:
        status = os.stat(file)
    except OSError:  # the reason is reported when the image is read
        return math.inf
    return max(status.st_mtime_ns, status.st_ctime_ns)  # a file that is moved there keeps its mtime


def _is_whole(path: Path, changed: float) -> bool:
    """True if a copy is there, is not older than its original, and begins and ends as a JPEG file does.

    A power cut may leave an empty file, or zeros.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size < 4 or status.st_mtime_ns < changed:
            return False
        with path.open("rb") as file:
            begin = file.read(2)
            file.seek(-2, os.SEEK_END)
            return begin + file.read() == b"\xff\xd8\xff\xd9"
    except FileNotFoundError:
        return False


class _NotEncoded(BrokenImage):
    """The image can be decoded, but what is made of it is no possible JPEG file."""


def _smaller(data: bytes, shorter_side: int, quality: int) -> bytes:
    image = PillowImage(data)
    width, height = image.size
    pixels = Image.fromarray(image.whole())  # decoded even if it is kept as it is, so that broken files are found
    side = min(width, height)
    if side <= shorter_side:
        if data[:2] == b"\xff\xd8":
            return data
    else:
        size = round(shorter_side * width / side), round(shorter_side * height / side)
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    if max(pixels.size) > _LONGEST:
        width, height = pixels.size
        raise _NotEncoded(f"it would have {width} x {height} pixels, and JPEG allows {_LONGEST} a side")
    file = io.BytesIO()
    try:
        pixels.save(file, "JPEG", quality=quality)
    except (OSError, ValueError) as error:  # not for lack of space, in a BytesIO: the image is to blame
        raise _NotEncoded(str(error)) from error
    return file.getvalue()
