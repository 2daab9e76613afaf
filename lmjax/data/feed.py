"""The way of a data set to the devices: all of it at once, or batch by batch from disk.

A feed has two sides. Outside of the compiled programs it hands out arrays, one set for each program that is run;
inside, it makes the batch of a step out of them. The programs and the trainer know nothing else about the data.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from lmjax.config import Config
from lmjax.data import Dataset, Photographs
from lmjax.data.resident import Resident
from lmjax.data.streamed import Streamed
from lmjax.devices import has_seeds
from lmjax.errors import InputError


class Feed(Protocol):
    """A data set on its way to the devices.

    Attributes:
        steps_per_epoch: how many training batches an epoch has.
        train_example, test_example: what a program of training, or of the evaluation, will be given: arrays, or their
            shapes.
        longest: the most training steps that one program may make; None for any number.
        train_specs, test_specs: for several seeds, which of these arrays each seed has of its own; see
            `placement.spread`.
    """

    steps_per_epoch: int
    train_example: Any
    test_example: Any
    longest: int | None
    train_specs: Any
    test_specs: Any

    def train_arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        """For programs that make so many steps each, beginning at `step`, within an epoch."""
        ...

    def test_arrays(self) -> Iterable[Any]:
        """For the programs of one evaluation."""
        ...

    def train_batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        """Inside a program: uint8 [B, H, W, C] and int32 [B], the augmented images of a step and their labels.

        With a mixture float32 [B, H, W, C] and float32 [B, classes], the shares of the labels.
        """
        ...

    def test_batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        """Inside a program: as `train_batch`, not augmented; where there is no image, the label is -1."""
        ...

    def reseeded(self, seeds: Sequence[int]) -> "Feed":
        """The same data in the order, and with the crops, of other seeds."""
        ...

    def take_broken(self) -> list[str]:
        """The images of this process that could not be decoded, of an epoch: since the last call, or in memory all."""
        ...

    def close(self) -> None:
        """End what goes on in the background."""
        ...


def create_feed(config: Config, dataset: Dataset | Photographs, mesh: Mesh, seeds: Sequence[int]) -> Feed:
    """The feed of a data set, on the devices of a mesh with one axis, "data" or "seed".

    Raises:
        InputError: if there are fewer training images than a batch has, or a batch cannot be split over the devices.
    """
    batch, devices = config.train.batch_size, 1 if has_seeds(mesh) else mesh.size
    if batch > len(dataset.train):
        raise InputError(
            f"train.batch_size: {batch} is more than the {len(dataset.train)} training images of {dataset.name}"
        )
    if batch % devices:
        raise InputError(
            f"train.batch_size: {batch} cannot be split evenly over {devices} devices: choose a multiple of that"
        )
    # Every batch of the evaluation is full; what pads the last one is not counted.
    test_batch = math.ceil(min(config.train.eval_batch_size, len(dataset.test)) / devices) * devices
    if isinstance(dataset, Photographs):
        return Streamed(config, dataset, mesh, test_batch, seeds)
    return Resident(config, dataset, mesh, test_batch, seeds)
