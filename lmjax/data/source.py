"""Encoded images, wherever they are, and the test images that are held out where there are none."""

from pathlib import Path
from typing import Protocol

import numpy as np

from lmjax.errors import InputError


class Source(Protocol):
    """Encoded images, such as `Files` of a folder, `Records` that tensorflow-datasets has prepared, or a `Subset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The content of an image file, and its label. Raises `BrokenImage` if only this one cannot be had."""
        ...

    def place(self, i: int) -> str:
        """The name of image i in messages."""
        ...


class Absent:
    """So many images of which nothing else is known."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        raise IndexError(i)

    def place(self, i: int) -> str:
        return f"image {i}"


class Subset:
    """Some images of a source, in their order there.

    Args:
        source: all images; also an attribute.
        numbers: which of them, int [N].
    """

    def __init__(self, source: Source, numbers: np.ndarray):
        self.source, self._numbers = source, np.sort(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        return self.source[int(self._numbers[i])]

    def place(self, i: int) -> str:
        return self.source.place(int(self._numbers[i]))


def hold_out(train: Source, test: Source | None, share: float | None, where: Path, part: str) -> tuple[Source, Source]:
    """Training and test images, the latter taken from the former where a data set has none.

    The draw is always the same. Where the labels are known without reading (`train.labels`), each class gives its
    share, up to one image.

    Args:
        train, test: the images that there are.
        share: of the training images that is held out, at least one image; None for none.
        where: the folder, for messages.
        part: what has or should have the test images: "folder 'test' or 'val'".

    Raises:
        InputError: if there are test images and a share is given, or neither.
    """
    if test is not None:
        if share is None:
            return train, test
        raise InputError(f"{where}: holds the {part} to test on: leave out val_split={share:g}")
    if share is None:
        raise InputError(
            f"{where}: holds no {part}: add it, or give the data set val_split=0.1 in data.name, which holds out a "
            "tenth of the training images"
        )
    size = len(train)
    count = min(max(1, round(share * size)), size - 1)
    if not count:
        raise InputError(f"{where}: val_split={share:g} needs at least 2 training images, and there are {size}")
    shuffled = np.random.default_rng(0).permutation(size)
    by_class = shuffled[np.argsort(getattr(train, "labels", np.zeros(size))[shuffled], kind="stable")]
    chosen = np.zeros(size, bool)
    chosen[((np.arange(count) + 0.5) * size / count).astype(int)] = True  # evenly spread, and so over the classes
    return Subset(train, by_class[~chosen]), Subset(train, by_class[chosen])
