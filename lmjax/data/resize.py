"""A smaller copy of a set of photographs, for machines whose processors cannot feed their accelerator."""

import concurrent.futures
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmjax.data.decode import BrokenImage, PillowImage
from lmjax.data.folder import Files, class_names, is_image
from lmjax.data.photographs import RESIZED, Photographs
from lmjax.data.prepared import Records
from lmjax.data.stream import Source
from lmjax.errors import InputError

_ORIGINALS = ".originals.json"  # in the folders of a copy: what its images were made of; hidden files are no images
_LONGEST = 65500  # pixels of a side of a JPEG file, to libjpeg


def resize(
    photographs: Photographs,
    target: Path,
    shorter_side: int,
    *,
    quality: int = 90,
    skip: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Writes every photograph whose shorter side is longer than `shorter_side` with that size, the others as they are.

    The copy is a folder {train,val}/<class>/*.JPEG, which `load_photographs` reads like any other, and whose size is
    noted in checkpoints. A call that was interrupted goes on where it stopped: a file is either whole or not there.
    Another call with the same photographs brings the copy up to date with them: what has changed since is written anew,
    and what is gone is deleted.

    Args:
        photographs: the originals.
        target: the folder to write; made if it is not there.
        shorter_side: in pixels, after which the images are resampled with Lanczos' filter.
        quality: of the JPEG files, 1 to 95.
        skip: leave out what cannot be decoded, or not encoded, instead of stopping.
        progress: called now and then with how many images are done, and how many there are.

    Returns:
        What was left out, and why.

    Raises:
        InputError: if an image cannot be decoded or encoded, the photographs are smaller copies themselves, or the
            folder cannot be written, or holds something else, a copy of other photographs for example.
    """
    _require(shorter_side >= 1, f"--shorter-side: must be at least 1 pixel, got {shorter_side}")
    _require(1 <= quality <= 95, f"--quality: must be from 1 to 95, got {quality}")
    _require(
        photographs.resized is None or shorter_side <= photographs.resized,
        f"--shorter-side {shorter_side}: {photographs.directory} is a smaller copy itself, of {photographs.resized} "
        "pixels: make this one from the originals",
    )
    note = {"shorter_side": shorter_side, "quality": quality, "source": photographs.directory}
    marker = target / RESIZED
    classes = photographs.classes
    splits = ((target / "train", photographs.train), (target / "val", photographs.test))

    def write(item):
        folder, source, index = item
        return _write(folder, source, index, classes, shorter_side, quality, skip)

    items = ((folder, source, i) for folder, source in splits for i in range(len(source)))
    total = sum(len(source) for _, source in splits)
    left_out = []
    try:
        _begin(target, marker, note)
        for folder, source in splits:
            _delete_outdated(folder, source, classes)
        for done, problem in enumerate(_in_threads(write, items), start=1):
            if problem is not None:
                left_out.append(problem)
            if done % 100 == 0 or done == total:
                progress(done, total)
        _put(marker, _json(note | {"complete": True}))
    except OSError as error:
        raise InputError(
            f"{error.filename or target}: cannot be written ({error.strerror or error}); when that is mended, the same "
            "command goes on from here"
        ) from error
    return left_out


def count(folder: Path) -> int:
    """How many images a copy holds."""
    splits = folder / "train", folder / "val"
    return sum(len(_images(split / name)) for split in splits for name in class_names(split))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _begin(target: Path, marker: Path, note: dict) -> None:
    """Claims the folder, or finds that it is a copy of the same photographs, made in the same way."""
    if marker.exists():
        try:
            before = dict(json.loads(marker.read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{marker}: cannot be read: delete {target}, or name another folder") from error
        made, asked = ({key: each.get(key) for key in ("shorter_side", "quality")} for each in (before, note))
        if made != asked:
            raise InputError(f"{target}: holds a copy made with {made}, not {asked}: name another folder")
        if "source" not in before:
            raise InputError(
                f"{target}: holds a copy made by an earlier version, which did not note of what: train on it if it is "
                "finished; otherwise delete it, or name another folder"
            )
        if before["source"] != note["source"]:
            raise InputError(
                f"{target}: holds a copy of {before['source']}, not of {note['source']}: name another folder (if the "
                f"images were only moved, write where they are now into {marker})"
            )
    elif target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty, and holds no copy that was begun here: name another folder")
    target.mkdir(parents=True, exist_ok=True)
    _put(marker, _json(note | {"complete": False}))


def _delete_outdated(folder: Path, source: Files | Records, classes: tuple[str, ...]) -> None:
    """Makes a split's folders, without the copies of what has changed or is gone since they were made.

    What they are made of is noted beside them: the size and the time of each file.
    """
    folder.mkdir(exist_ok=True)
    if isinstance(source, Files):
        for path in folder.iterdir():
            if path.name not in classes and (path / _ORIGINALS).exists():
                shutil.rmtree(path)
        ends = np.searchsorted(source.labels, np.arange(len(classes) + 1))

        def update(label):
            _update(folder / classes[label], [source.place(i) for i in range(ends[label], ends[label + 1])])

        for _ in _in_threads(update, iter(range(len(classes)))):
            pass
        return
    # A prepared image is known by its number only: if a file has changed, any may be another.
    now, before = _stamps(source.files) | {"classes": list(classes)}, _noted(folder)
    if now != before:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        _put(folder / _ORIGINALS, _json(now))
    for name in classes:
        (folder / name).mkdir(exist_ok=True)


def _update(folder: Path, originals: list[str]) -> None:
    """Deletes the copies in a class's folder whose originals have changed or are gone, and notes those of now."""
    folder.mkdir(exist_ok=True)
    now, before = _stamps(originals), _noted(folder)
    if now == before:
        return
    if before is None:
        outdated = _images(folder)
    else:
        outdated = [_jpeg(name) for name, stamp in before.items() if now.get(name) != stamp]
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
    _put(folder / _ORIGINALS, _json(now))


def _stamps(files: Iterable[str]) -> dict[str, Any]:
    """The size in bytes and the time of modification in nanoseconds of each file, None if it is not there."""
    stamps: dict[str, Any] = {}
    for file in files:
        try:
            stat = os.stat(file)
            stamps[os.path.basename(file)] = [stat.st_size, stat.st_mtime_ns]
        except OSError:  # a link to nothing; what else it may be is found when it is read
            stamps[os.path.basename(file)] = None
    return stamps


def _noted(folder: Path) -> dict[str, Any] | None:
    """What was noted in a folder about the originals, None if nothing was that can be read."""
    try:
        return dict(json.loads((folder / _ORIGINALS).read_text()))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


def _images(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if is_image(name)]


def _json(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


def _put(path: Path, data: bytes) -> None:
    """Writes a file, which is whole whenever it is there."""
    part = path.with_name(f".{path.name}.part")  # hidden files are no images to lmjax
    part.write_bytes(data)
    os.replace(part, path)


def _in_threads(function: Callable, items: Iterator) -> Iterator:
    """The results in order; only some are under way at a time, since there may be a million."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter's lock
        while batch := list(itertools.islice(items, 256)):
            yield from pool.map(function, batch)


def _write(folder, source: Source, index: int, classes, shorter_side, quality, skip) -> str | None:
    """Writes one image, unless it is there; returns which and why if it was left out."""
    # A folder's files keep their names; prepared ones have none that are sure to differ.
    name = os.path.basename(source.place(index)) if isinstance(source, Files) else f"{index:08d}"
    if isinstance(source, Files) and (folder / classes[int(source.labels[index])] / _jpeg(name)).exists():
        return None
    try:
        data, label = source[index]
        path = folder / classes[label] / _jpeg(name)
        if path.exists():
            return None
        data = _smaller(data, shorter_side, quality)
    except BrokenImage as error:
        verb = "encoded" if isinstance(error, _NotEncoded) else "decoded"
        problem = f"{source.place(index)}: cannot be {verb} ({error})"
        if skip:
            return problem
        raise InputError(f"{problem}: replace or delete it, or give --on-error skip") from error
    _put(path, data)
    return None


class _NotEncoded(BrokenImage):
    """The image can be decoded, but what is made of it is no possible JPEG file."""


def _jpeg(name: str) -> str:
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.JPEG"


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
    except (OSError, ValueError) as error:  # a BytesIO has room: it is the image
        raise _NotEncoded(str(error)) from error
    return file.getvalue()
