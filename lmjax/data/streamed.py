"""The feeds of photographs that are read and decoded while training."""

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
from lmjax.data.source import Source

_RESTARTS = 3  # of processes that have died, in a run: more deaths are probably no accident


class _Streamed:
    """The batches of one split, of which the next is on its way to the devices while they compute with one."""

    specs = None  # seeds are trained one after another

    def __init__(self, loader: Loader, dataset: Photographs, mesh: Mesh, batch: int, seed: int | None):
        sharding = NamedSharding(mesh, P("data"))
        places = sharding.addressable_devices_indices_map((batch,))
        rows = np.concatenate([np.arange(batch)[place] for place in places.values()])
        self._stream = Stream(loader, batch, seed=seed, rows=rows.tolist())
        self.example = (
            jax.ShapeDtypeStruct((batch, *dataset.shape), jnp.uint8, sharding=sharding),
            jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding),
        )
        workers, threads = _processes_and_threads(dataset.workers, dataset.threads)
        self._read = functools.partial(self._stream.read, workers=workers, threads=threads)
        self._reader = None
        self._ahead = collections.deque()
        self._restarts = _RESTARTS
        self._next = 0  # the batch that will be given next
        self._broken: list[str] = []

    def take_broken(self) -> list[str]:
        found, self._broken = self._broken, []
        return found

    def _batches(self, start: int, count: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """`count` batches beginning with `start`, each placed before the one before it is asked for.

        A caller may stop after any batch, and go on later with the next one: what was asked for already is kept.
        """
        if start != self._next:
            self.close()
            self._next = start
        end = start + count
        while self._next < end:
            while len(self._ahead) < min(2, end - self._next):
                try:
                    self._ahead.append(self._place(self._fetch()))
                except BaseException:
                    self.close()  # the reader is behind the batch that is lost: whoever tries again gets a new one
                    raise
            self._next += 1
            arrays, broken = self._ahead.popleft()
            self._broken += broken  # only now: what is ahead is read again after a resume
            yield arrays

    def _fetch(self):
        """The batch behind those that are ahead. If a process that makes them has died, others take over."""
        while True:
            if self._reader is None:
                self._reader = self._read(self._next + len(self._ahead))
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
        source = self._stream.loader.source
        arrays = tuple(
            jax.make_array_from_process_local_data(like.sharding, batch[key], like.shape)
            for key, like in zip(("image", "label"), self.example, strict=True)
        )
        return arrays, [source.place(int(i)) for i in batch["broken"] if i >= 0]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._ahead.clear()


class StreamedTraining(_Streamed):
    """Training photographs that are read and decoded while training: each process those of its devices."""

    longest: int | None = 1

    def __init__(self, config: Config, dataset: Photographs, mesh: Mesh, seeds: Sequence[int]):
        self._arguments = config, dataset, mesh
        self._augment = Pipeline(
            config.data.augment, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean, streamed=True
        )
        loader = _loader(dataset, dataset.train, min_area=self._augment.min_area)
        super().__init__(loader, dataset, mesh, config.train.batch_size, seeds[0])
        self.steps_per_epoch = len(self._stream)

    def arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        return self._batches(step, len(dispatches))

    def batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return self._augment(key, *arrays)

    def reseeded(self, seeds: Sequence[int]) -> "StreamedTraining":
        return StreamedTraining(*self._arguments, seeds)


class StreamedEvaluation(_Streamed):
    """Test photographs that are read and decoded in an evaluation."""

    def __init__(self, dataset: Photographs, mesh: Mesh, batch: int):
        super().__init__(_loader(dataset, dataset.test), dataset, mesh, batch, None)

    def arrays(self) -> Iterable[Any]:
        # One evaluation follows another in the stream: what is already under way is the beginning of this one.
        count = len(self._stream)
        start = self._next if self._next % count == 0 else 0
        self._broken = []  # of an evaluation that ended in an error
        return self._batches(start, count)

    def batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return arrays


def _loader(dataset: Photographs, source: Source, **how: Any) -> Loader:
    return Loader(source, dataset.size, dataset.decoder, skip=dataset.skip, classes=len(dataset.classes), **how)


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
