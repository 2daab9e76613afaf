"""A smaller copy of a set of photographs, for machines whose processors cannot feed their accelerator."""

import concurrent.futures
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from lmjax.data.decode import BrokenImage, PillowImage
from lmjax.data.folder import Files
from lmjax.data.photographs import RESIZED, Photographs
from lmjax.data.stream import Source
from lmjax.errors import InputError


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

    Args:
        photographs: the originals.
        target: the folder to write; made if it is not there.
        shorter_side: in pixels, after which the images are resampled with Lanczos' filter.
        quality: of the JPEG files, 1 to 95.
        skip: leave out what cannot be decoded, instead of stopping.
        progress: called now and then with how many images are done, and how many there are.

    Returns:
        What was left out.

    Raises:
        InputError: if an image cannot be decoded, the folder cannot be written, or holds something else.
    """
    _require(shorter_side >= 1, f"--shorter-side: must be at least 1 pixel, got {shorter_side}")
    _require(1 <= quality <= 95, f"--quality: must be from 1 to 95, got {quality}")
    note = {"shorter_side": shorter_side, "quality": quality}
    marker = target / RESIZED
    _begin(target, marker, note)
    splits = (("train", photographs.train), ("val", photographs.test))
    for split, name in itertools.product(("train", "val"), photographs.classes):
        (target / split / name).mkdir(parents=True, exist_ok=True)

    def write(item):
        folder, source, index = item
        return _write(folder, source, index, photographs.classes, shorter_side, quality, skip)

    items = ((target / split, source, i) for split, source in splits for i in range(len(source)))
    total = sum(len(source) for _, source in splits)
    left_out = []
    try:
        for done, place in enumerate(_in_threads(write, items), start=1):
            if place is not None:
                left_out.append(place)
            if done % 100 == 0 or done == total:
                progress(done, total)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}); the same command goes on from here"
        ) from error
    marker.write_text(json.dumps(note | {"complete": True}) + "\n")
    return left_out


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _begin(target: Path, marker: Path, note: dict) -> None:
    """Claims the folder, or finds that it is ours already."""
    try:
        if not marker.exists():
            if target.exists() and any(target.iterdir()):
                raise InputError(f"{target}: is not empty, and holds no copy that was begun here: name another folder")
            target.mkdir(parents=True, exist_ok=True)
            marker.write_text(json.dumps(note | {"complete": False}) + "\n")
        before = dict(json.loads(marker.read_text()))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{marker}: cannot be read: delete {target}, or name another folder") from error
    before.pop("complete", None)
    if before != note:
        raise InputError(f"{target}: holds a copy made with {before}, not {note}: name another folder")


def _in_threads(function: Callable, items: Iterator) -> Iterator:
    """The results in order; only some are under way at a time, since there may be a million."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter's lock
        while batch := list(itertools.islice(items, 256)):
            yield from pool.map(function, batch)


def _write(folder, source: Source, index: int, classes, shorter_side, quality, skip) -> str | None:
    """Writes one image, unless it is there; returns where it came from if it was left out."""
    # A folder's files keep their names; prepared ones have none that are sure to differ.
    name = os.path.basename(source.place(index)) if isinstance(source, Files) else f"{index:08d}"
    if isinstance(source, Files) and (folder / classes[int(source.labels[index])] / _jpeg(name)).exists():
        return None
    data, label = source[index]
    path = folder / classes[label] / _jpeg(name)
    if path.exists():
        return None
    try:
        data = _smaller(data, shorter_side, quality)
    except BrokenImage as error:
        if skip:
            return source.place(index)
        raise InputError(
            f"{source.place(index)}: cannot be decoded ({error}): replace or delete it, or give --on-error skip"
        ) from error
    part = path.with_name(f".{path.name}.part")  # hidden files are no images to lmjax
    part.write_bytes(data)
    os.replace(part, path)
    return None


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
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=quality)
    return file.getvalue()
