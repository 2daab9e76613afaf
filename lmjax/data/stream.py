"""Batches of photographs from disk, on Grain: which images, in what order and cropped where follows from (seed, step).

Every image of a run has a number: position p of batch n is draw n * batch + p. A draw is a pure function of the seed
and that number, so that it matters neither which thread, worker or host makes it, nor where the run was resumed.
"""

import contextlib
import dataclasses
import errno
import functools
import gc
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from lmjax.data import shared_memory
from lmjax.data.crops import random_box, shorter_side
from lmjax.data.decode import DECODERS, BrokenImage, PillowImage
from lmjax.data.source import Source
from lmjax.errors import InputError, optional_import

_NO_ROOM = {errno.ENOSPC, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}


class WorkerDied(InputError):
    """A process that makes batches has ended, or was killed."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """From one image of a source to one of a batch.

    Attributes:
        source: the images.
        size: pixels of a side of the result.
        decoder: of random crops, "pillow" or "turbo".
        min_area: smallest share of the image that a random crop takes; None: the middle of the image.
        skip: replace what cannot be decoded by the next image that can, instead of stopping. In an evaluation it is
            left out.
        classes: how many there are; other labels are an error.
    """

    source: Source
    size: int
    decoder: str = "pillow"
    min_area: float | None = None
    skip: bool = False
    classes: int = 2**31

    def random(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Image `index`, cropped at random, or its middle."""
        cut, decode = self._middle, PillowImage
        if self.min_area is not None:
            cut, decode = functools.partial(self._crop, rng, self.min_area), DECODERS[self.decoder]
        tries = min(len(self.source), 100)
        for offset in range(tries):
            found = self._load((index + offset) % len(self.source), cut, decode)
            if found is not None:
                return found | {"broken": np.int64(index if offset else -1)}
        others = f"neither this image nor the {tries - 1} after it can be decoded"
        raise InputError(f"{self.source.place(index)}: {others if tries > 1 else 'cannot be decoded'}")

    def middle(self, index: int) -> dict[str, Any]:
        """Image `index`, its shorter side scaled to 256 / 224 of the size and the middle cut out.

        Behind the last image there are black ones with the label -1, which fill the last batch.
        """
        inside = index < len(self.source)
        found = self._load(index, self._middle, PillowImage) if inside else None
        if found is None:
            found = {"image": np.zeros((self.size, self.size, 3), np.uint8), "label": np.int32(-1)}
            return found | {"broken": np.int64(index if inside else -1)}
        return found | {"broken": np.int64(-1)}

    def _crop(self, rng, min_area, image):
        width, height = image.size
        return image.crop(random_box(rng, width, height, min_area), self.size)

    def _middle(self, image):
        return image.center(self.size, shorter_side(self.size, streamed=True))

    def _load(self, index, cut, decode):
        try:
            data, label = self.source[index]
            if not 0 <= label < self.classes:
                raise InputError(
                    f"{self.source.place(index)}: has the label {label}, but there are {self.classes} classes, "
                    "numbered from 0"
                )
            return {"image": cut(decode(data)), "label": np.int32(label)}
        except BrokenImage as error:
            if self.skip:
                return None
            raise InputError(
                f"{self.source.place(index)}: cannot be decoded ({error}): replace or delete it, or give "
                "--data.on-error skip"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Share:
    """The draws that one process makes, of all: the positions `rows` of every batch."""

    draws: Any
    batch: int
    rows: Sequence[int]

    def __len__(self):
        return len(self.draws) // self.batch * len(self.rows)

    def __getitem__(self, i):
        step, position = divmod(int(i), len(self.rows))
        return self.draws[step * self.batch + int(self.rows[position])]


class Stream:
    """Batches by their number: {"image": uint8 [B, size, size, 3], "label": int32 [B], "broken": int64 [B]}.

    A label is -1 where there is no image (only in an evaluation). "broken" is the number of an image that could not be
    decoded and was replaced or left out, else -1.

    Args:
        loader: what makes an image.
        batch: images in a batch, over all processes.
        seed: of the order and the crops, from 0 to 2**32 - 1: every epoch is in another order, and leaves out other
            images that do not fill a batch. None: each image once, in the order of the source, then all again, for
            evaluations.
        rows: which positions of each batch to load here; None for all.

    Raises:
        InputError: if Grain is not installed, or there are fewer images than a training batch has.
    """

    def __init__(self, loader: Loader, batch: int, *, seed: int | None, rows: Sequence[int] | None = None):
        grain = optional_import("grain", package="grain", purpose="reading images from disk during training")
        self.loader = loader
        size = len(loader.source)
        if seed is None:
            self.length = -(-size // batch)  # in batches: of the evaluation, or of an epoch
            draws = grain.MapDataset.range(self.length * batch).map(loader.middle).repeat()
        else:
            if batch > size:
                raise InputError(f"train.batch_size: {batch} is more than the {size} images there are")
            self.length = size // batch
            draws = grain.MapDataset.range(size).seed(seed).shuffle()[: self.length * batch].repeat()
            draws = draws.random_map(loader.random)
        share = _Share(draws, batch, range(batch) if rows is None else tuple(map(int, rows)))
        self._batches = grain.MapDataset.source(share).batch(len(share.rows))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`, made here and now."""
        return self._batches[step]

    def read(self, start: int = 0, *, workers: int = 0, threads: int = 1) -> "Reader":
        """The batches from `start` on, made in the background.

        Args:
            start: number of the first batch.
            workers: processes that make them; 0 for threads of this one.
            threads: in each process. Each makes a batch of its own.
        """
        return Reader(self._batches[start:], workers, threads)


class Reader(Iterator[dict[str, np.ndarray]], contextlib.AbstractContextManager["Reader"]):
    """Iterates over batches, for ever. Close it: then its processes end and their shared memory is given back."""

    def __init__(self, batches: Any, workers: int, threads: int):
        import grain

        # One batch is being made by each thread, and one more is ready.
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
        self._shared = workers > 0
        if workers:
            _parse_flags()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
            follow = functools.partial(_follow, os.getpid(), shared_memory.mark())
            dataset = dataset.mp_prefetch(options, worker_init_fn=follow)
        self._iterator = iter(dataset)
        self._first: queue.SimpleQueue | None = None  # receives the first batch while the workers start
        self._started = not workers
        self._unasked = workers  # how many workers have not been asked for a batch yet

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            # A worker's batch is in shared memory; it is copied, so that the memory is free before the program ends.
            return {key: np.array(value) if self._shared else value for key, value in self._next().items()}
        except (RuntimeError, OSError) as error:
            if (why := _died(error)) is None:
                raise
            raise WorkerDied(
                f"data.workers: a process that decodes images {why}. Is there memory for all of them?"
                f"{shared_memory.room()} Try fewer --data.workers; 0 decodes in threads"
            ) from error

    def _next(self) -> dict[str, Any]:
        if self._started:
            self._unasked -= 1
            return next(self._iterator)
        if self._first is None:
            self._first = self._start()
        batch, error = self._first.get()  # Ctrl-C can end this wait; its traceback must not keep a batch alive
        self._first, self._started = None, True
        self._unasked -= 1
        if error is not None:
            raise error
        return batch

    def _start(self) -> queue.SimpleQueue:
        """Start Grain's workers in a thread that blocks signals; the queue gets the first batch, or an error.

        Grain starts workers when it is asked for the first batch, and they import for seconds before `_follow` makes
        them ignore signals. Until then they ignore them because the signal mask of a thread is inherited by what it
        starts. The calling thread can be interrupted all the time.

        Returns:
            The queue; it gets one pair, (batch, None) or (None, error).
        """
        resource_tracker.ensure_running()  # before the thread: starting it there would unblock the signals
        first: queue.SimpleQueue = queue.SimpleQueue()

        def start(iterator):
            if hasattr(signal, "pthread_sigmask"):  # not on Windows
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
            try:
                first.put((next(iterator), None))
            except BaseException as error:
                first.put((None, error))

        threading.Thread(target=start, args=(self._iterator,), daemon=True).start()
        return first

    def close(self) -> None:
        """End what makes batches in the background."""
        if self._iterator is not None:
            if self._started or self._first is not None:
                for _ in range(self._unasked):  # Grain ends only the workers that it has asked for a batch
                    with contextlib.suppress(Exception):
                        self._next()
            self._iterator.close()
            self._iterator = None
            gc.collect()  # batches that nobody has taken are in shared memory, which goes with its last reference

    def __exit__(self, *_) -> None:
        self.close()


def _died(error: RuntimeError | OSError) -> str | None:
    """The end of a worker, in words; None if the error is something else."""
    if isinstance(error, OSError):
        return f"could not be started ({error.strerror})" if error.errno in _NO_ROOM else None
    found = re.search(r"terminated unexpectedly(?: with exit code (-?\d+))?", str(error))
    if found is None:
        return None
    if found[1] == str(-getattr(signal, "SIGBUS", 0)):
        return "has found no room in shared memory"
    return f"has died (exit code {found[1]})"


def _parse_flags() -> None:
    """Grain's workers want to know absl's flags, which only a program that uses absl has parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _follow(parent: int, name: str, *_: int) -> None:
    """In a worker: leave signals to the process that started it, and end when that is gone, even if it was killed.

    A terminal, or a cluster, sends them to all processes, but only that one knows how far the run may still go.

    Args:
        parent: that process.
        name: see `shared_memory.mark`.
    """
    shared_memory.use(name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
