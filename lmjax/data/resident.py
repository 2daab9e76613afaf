"""The feeds of a data set that lives on the devices."""

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.config import Config
from lmjax.data import Dataset, Pipeline, epoch_order
from lmjax.devices import has_seeds, put, seed_array


class ResidentTraining:
    """Training images that live on the devices as a whole, where one gather picks, crops and mirrors a batch."""

    longest = None
    specs = P("seed"), P(), P()

    def __init__(self, config: Config, dataset: Dataset, mesh: Mesh, seeds: Sequence[int]):
        self._mesh, self._split = mesh, _division(mesh)
        self._augment = Pipeline(
            config.data.augment, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean
        )
        self.steps_per_epoch = len(dataset.train) // config.train.batch_size
        images = dataset.train.images.reshape(len(dataset.train), -1)  # flat: a TPU can gather image by image
        self._images = put((images, dataset.train.labels), mesh)

        def order(seed, epoch):
            # A random stream of its own: the keys of the steps are folded from that of the seed itself.
            key = jax.random.fold_in(jax.random.key(seed), 2**31)
            return epoch_order(key, epoch, size=len(dataset.train), batch=config.train.batch_size)

        several = has_seeds(mesh)
        layout = NamedSharding(mesh, P("seed") if several else P(None, "data"))
        self._order = jax.jit(jax.vmap(order, (0, None)) if several else order, out_shardings=layout)
        self._seeds = seed_array(seeds, mesh)
        first = jax.eval_shape(self._order, self._seeds, np.int32(0))
        self.example = (jax.ShapeDtypeStruct(first.shape, first.dtype, sharding=layout), *self._images)

    def arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        order = self._order(self._seeds, np.int32(step // self.steps_per_epoch))
        return ((order, *self._images) for _ in dispatches)

    def batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        order, images, labels = arrays
        index = order[step % self.steps_per_epoch]
        return self._augment(key, images, labels, index, self._split)

    def reseeded(self, seeds: Sequence[int]) -> "ResidentTraining":
        other = copy.copy(self)  # with the same arrays on the devices
        other._seeds = seed_array(seeds, self._mesh)
        return other

    def take_broken(self) -> list[str]:
        return []  # `ResidentEvaluation` names those of the whole data set

    def close(self) -> None:
        pass


class ResidentEvaluation:
    """Test images that live on the devices as a whole."""

    specs = P()

    def __init__(self, dataset: Dataset, mesh: Mesh, batch: int):
        size = len(dataset.test)
        self._size, self._starts, self._split = batch, range(0, size, batch), _division(mesh)
        padding = -size % batch
        images = np.concatenate([dataset.test.images, np.repeat(dataset.test.images[:1], padding, axis=0)])
        labels = np.concatenate([dataset.test.labels, np.full(padding, -1, np.int32)])
        self._images = put((images, labels), mesh)
        # Every process has loaded the same images: only the first reports them.
        self._broken = list(dataset.broken) if jax.process_index() == 0 else []
        self.example = (*self._images, np.int32(0))

    def arrays(self) -> Iterable[Any]:
        return ((*self._images, np.int32(start)) for start in self._starts)

    def batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        images, labels, start = arrays
        picked = lax.dynamic_slice_in_dim(images, start, self._size)
        return self._split(picked), lax.dynamic_slice_in_dim(labels, start, self._size)

    def take_broken(self) -> list[str]:
        return self._broken  # in every epoch, as with images that are read from disk in every epoch

    def close(self) -> None:
        pass


def _division(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Divide images over the devices; seeds have a device each, and nothing to divide."""
    if has_seeds(mesh):
        return lambda x: x
    return functools.partial(lax.with_sharding_constraint, shardings=NamedSharding(mesh, P("data")))
