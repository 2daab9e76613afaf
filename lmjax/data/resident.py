"""The feed of a data set that lives on the devices."""

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.config import Config
from lmjax.data import Dataset, Pipeline, epoch_order
from lmjax.devices import has_seeds, put, seed_array


class Resident:
    """A data set that lives on the devices as a whole, where one gather picks, crops and mirrors a batch."""

    longest = None

    def __init__(self, config: Config, dataset: Dataset, mesh: Mesh, test_batch: int, seeds: Sequence[int]):
        self._mesh = mesh
        self._augment = Pipeline(
            config.data.augment, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean
        )
        self.steps_per_epoch = len(dataset.train) // config.train.batch_size
        size = len(dataset.test)
        self._batch = test_batch
        self._starts = range(0, size, self._batch)
        several = has_seeds(mesh)
        self.train_specs, self.test_specs = (P("seed"), P(), P()), P()
        split = NamedSharding(mesh, P() if several else P("data"))
        # Seeds have a device each, and nothing to divide.
        self._split = (lambda x: x) if several else functools.partial(lax.with_sharding_constraint, shardings=split)
        everywhere = NamedSharding(mesh, P())
        self._train = tuple(put(x, everywhere) for x in (dataset.train.images, dataset.train.labels))
        padding = -size % self._batch
        images = np.concatenate([dataset.test.images, np.repeat(dataset.test.images[:1], padding, axis=0)])
        labels = np.concatenate([dataset.test.labels, np.full(padding, -1, np.int32)])
        self._test = tuple(put(x, everywhere) for x in (images, labels))

        def order(seed, epoch):
            # Its own stream of random numbers: those of the steps are folded from the seed itself.
            key = jax.random.fold_in(jax.random.key(seed), 2**31)
            return epoch_order(key, epoch, size=len(dataset.train), batch=config.train.batch_size)

        layout = NamedSharding(mesh, P("seed") if several else P(None, "data"))
        self._order = jax.jit(jax.vmap(order, (0, None)) if several else order, out_shardings=layout)
        self._seeds = seed_array(seeds, mesh)
        # Every process has met the same ones.
        self._broken = list(dataset.broken) if jax.process_index() == 0 else []
        first = jax.eval_shape(self._order, self._seeds, np.int32(0))
        self.train_example = (jax.ShapeDtypeStruct(first.shape, first.dtype, sharding=layout), *self._train)
        self.test_example = (*self._test, np.int32(0))

    def train_arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        order = self._order(self._seeds, np.int32(step // self.steps_per_epoch))
        return ((order, *self._train) for _ in dispatches)

    def test_arrays(self) -> Iterable[Any]:
        return ((*self._test, np.int32(start)) for start in self._starts)

    def train_batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        order, images, labels = arrays
        index = order[step % self.steps_per_epoch]
        return self._augment(key, images, labels, index, self._split)

    def test_batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        images, labels, start = arrays
        picked = lax.dynamic_slice_in_dim(images, start, self._batch)
        return self._split(picked), lax.dynamic_slice_in_dim(labels, start, self._batch)

    def reseeded(self, seeds: Sequence[int]) -> "Resident":
        other = copy.copy(self)  # with the same arrays on the devices
        other._seeds = seed_array(seeds, self._mesh)
        return other

    def take_broken(self) -> list[str]:
        return self._broken  # in every epoch, as images that are read in every epoch are reported

    def close(self) -> None:
        pass
