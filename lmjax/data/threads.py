"""Images handled on all cores."""

import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lmjax.devices import cores

_AHEAD = 256  # items under way at a time: there may be a million


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results of a function that releases the interpreter's lock, as Pillow does, for some items, in order."""
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        while batch := list(itertools.islice(items, _AHEAD)):
            yield from pool.map(function, batch)
