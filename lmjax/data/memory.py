"""All images of a data set, decoded once, into memory."""

from typing import Any

import numpy as np

from lmjax.console import few
from lmjax.data.crops import shorter_side
from lmjax.data.dataset import Dataset, Split
from lmjax.data.decode import BrokenImage, PillowImage
from lmjax.data.source import Source
from lmjax.data.threads import in_threads
from lmjax.errors import InputError

_NAMED = 10  # images that cannot be decoded
_RESIZE = 'as in --data.name "folder(32)" or "tfds(NAME, 32)"'


def into_memory(
    name: str,
    train: Source,
    test: Source,
    classes: tuple[str, ...],
    *,
    size: int | None = None,
    on_error: str = "stop",
    **statistics: Any,
) -> Dataset:
    """Decode the training and the test images of a data set, on all cores.

    Args:
        name, classes: of the data set.
        train, test: its images.
        size: None takes the images as they are, all of one size. A number scales each so that its shorter side has that
            many pixels, and cuts out the middle square.
        on_error: "stop", or "skip" to leave out what cannot be decoded.
        statistics: `mean` and `std` of a `Dataset`.

    Raises:
        InputError: naming the images that cannot be decoded, or two of different sizes.
    """
    (train_split, lost), (test_split, also) = (_decoded(source, size) for source in (train, test))
    broken = sorted(lost + also)
    if broken and on_error != "skip":
        named = few([f"{place}: cannot be decoded ({reason})" for place, reason in broken], _NAMED)
        them = "it" if len(broken) == 1 else "them"
        raise InputError(f"{named}: replace or delete {them}, or give --data.on-error skip")
    return Dataset(name, train_split, test_split, classes, broken=tuple(place for place, _ in broken), **statistics)


def _decoded(source: Source, size: int | None) -> tuple[Split, list[tuple[str, str]]]:
    """The images that can be decoded, and the places of the others, with what is wrong."""

    def decode(i):
        try:
            data, label = source[i]
            image = PillowImage(data)
            return image.whole() if size is None else image.center(size, shorter_side(size, streamed=False)), label
        except BrokenImage as error:
            return None, str(error)

    images, labels, broken, first = np.zeros((0, 1, 1, 3), np.uint8), [], [], 0
    for i, (image, label) in enumerate(in_threads(decode, range(len(source)))):
        if image is None:
            broken.append((source.place(i), label))
            continue
        if not labels:
            first, images = i, _room(source, image)
        elif image.shape != images.shape[1:]:
            raise InputError(
                f"{source.place(i)}: is {_pixels(image)}, but {source.place(first)} is {_pixels(images[0])}: bring all "
                f"images to one size, {_RESIZE}"
            )
        images[len(labels)] = image
        labels.append(label)
    return Split(images[: len(labels)], np.array(labels, np.int32)), broken


def _room(source: Source, image: np.ndarray) -> np.ndarray:
    """For as many images as a source has, like this one."""
    try:
        return np.empty((len(source), *image.shape), np.uint8)
    except MemoryError as error:
        raise InputError(
            f"{source.place(0)}: {len(source)} images of {_pixels(image)} do not fit into memory: make them smaller, "
            f"{_RESIZE}, or read them while training, by photographs(224)"
        ) from error


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"
