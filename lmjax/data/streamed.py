"""The feed of photographs that are read and decoded while training."""

import collections
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax import devices
from lmjax.config import Config
from lmjax.console import warn
from lmjax.data import Loader, Photographs, Pipeline, Stream, WorkerDied

_RESTARTS = 3  # of processes that have died, in a run: what kills them may not be chance


class Streamed:
    """Photographs that are read and decoded while training: each process those of its devices.

    The next batch is on its way to the devices while they compute with one.
    """

    longest: int | None = 1
    train_specs = test_specs = None  # seeds are trained one after another

    def __init__(self, config: Config, dataset: Photographs, mesh: Mesh, test_batch: int, seeds: Sequence[int]):
        self._arguments = config, dataset, mesh, test_batch
        loader = functools.partial(Loader, size=dataset.size, decoder=dataset.decoder, skip=dataset.skip)
        processes_and_threads = _processes_and_threads(dataset.workers, dataset.threads)

        def channel(loader, batch, seed):
            return _Channel(loader, batch, seed, NamedSharding(mesh, P("data")), *processes_and_threads)

        self._augment = Pipeline(
            config.data.augment, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean, streamed=True
        )
        train = loader(dataset.train, min_area=self._augment.min_area)
        self._train = channel(train, config.train.batch_size, seeds[0])
        self._test = channel(loader(dataset.test), test_batch, None)
        self.steps_per_epoch = len(self._train.stream)
        self.train_example, self.test_example = self._train.example, self._test.example

    def train_arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        return self._train.batches(step, len(dispatches))

    def test_arrays(self) -> Iterable[Any]:
        # One evaluation follows another in the stream: what is already under way is the beginning of this one.
        count = len(self._test.stream)
        start = self._test.next if self._test.next % count == 0 else 0
        return self._test.batches(start, count)

    def train_batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return self._augment(key, *arrays)

    def test_batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return arrays

    def reseeded(self, seeds: Sequence[int]) -> "Streamed":
        return Streamed(*self._arguments, seeds)

    def take_broken(self) -> list[str]:
        found = self._train.broken + self._test.broken
        self._train.broken, self._test.broken = [], []
        return found

    def close(self) -> None:
        self._train.close()
        self._test.close()


class _Channel:
    """The batches of one stream, brought to the devices."""

    def __init__(self, loader, batch, seed, sharding, workers, threads):
        places = sharding.addressable_devices_indices_map((batch,))
        self._devices = list(places)
        rows = np.concatenate([np.arange(batch)[place] for place in places.values()])
        self.stream = Stream(loader, batch, seed=seed, rows=rows.tolist())
        shape = (batch, loader.size, loader.size, 3)
        self.example = (
            jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding),
            jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding),
        )
        self._read = functools.partial(self.stream.read, workers=workers, threads=threads)
        self._reader = None
        self._ahead = collections.deque()
        self._restarts = _RESTARTS
        self.next = 0  # the batch that will be given next
        self.broken: list[str] = []

    def batches(self, start: int, count: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """`count` batches beginning with `start`, each placed before the one before it is asked for.

        Who stops in between, and goes on later from the next one, finds everything still under way.
        """
        if start != self.next:
            self.close()
            self.next = start
        end = start + count
        while self.next < end:
            while len(self._ahead) < min(2, end - self.next):
                self._ahead.append(self._place(self._fetch()))
            self.next += 1
            yield self._ahead.popleft()

    def _fetch(self):
        """The batch behind those that are ahead. If a process that makes them has died, others take over."""
        while True:
            if self._reader is None:
                self._reader = self._read(self.next + len(self._ahead))
            try:
                return next(self._reader)
            except WorkerDied as error:
                if not self._restarts:
                    raise
                self._restarts -= 1
                self._reader.close()
                self._reader = None
                warn(f"{error}. Starting new ones, {self._restarts} more times")

    def _place(self, batch):
        source = self.stream.loader.source
        self.broken += [source.place(int(i)) for i in batch["broken"] if i >= 0]
        return tuple(
            jax.make_array_from_single_device_arrays(
                like.shape,
                like.sharding,
                [
                    jax.device_put(part, device)
                    for part, device in zip(np.split(batch[key], len(self._devices)), self._devices, strict=True)
                ],
            )
            for key, like in zip(("image", "label"), self.example, strict=True)
        )

    def close(self):
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._ahead.clear()


def _processes_and_threads(workers: int | None, threads: int | None) -> tuple[int, int]:
    """The processes and threads that decode, where the config leaves them open.

    One process serves about four cores; then the interpreter's lock is in the way.
    """
    cores = devices.cores()
    if workers is None:
        workers = cores // 4 if cores > 4 else 0
    if threads is None:
        threads = max(1, min(4, cores // max(workers, 1)))
    return workers, threads
