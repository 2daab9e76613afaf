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
from lmjax.data.resident import ResidentEvaluation, ResidentTraining
from lmjax.data.streamed import StreamedEvaluation, StreamedTraining
from lmjax.devices import has_seeds
from lmjax.errors import InputError


class Feed(Protocol):
    """The images of a split on their way to the devices.

    Attributes:
        example: the arrays that a program is given, or their shapes and dtypes.
        specs: with several seeds, P("seed") for an array of which every seed has its own, P() for one that all share;
            see `devices.spread`. None where seeds are not trained side by side.
    """

    example: Any
    specs: Any

    def take_broken(self) -> list[str]:
        """The images that this process could not decode since the last call; of a data set in memory always all."""
        ...

    def close(self) -> None:
        """End what goes on in the background."""
        ...


class TrainingFeed(Feed, Protocol):
    """The training images.

    Attributes:
        steps_per_epoch: how many batches an epoch has.
        longest: the most steps that one program may make; None for any number.
    """

    steps_per_epoch: int
    longest: int | None

    def arrays(self, step: int, dispatches: Sequence[int]) -> Iterable[Any]:
        """The arrays for each of some programs in turn, within an epoch.

        Args:
            step: the first step of the first program.
            dispatches: how many steps each program makes.
        """
        ...

    def batch(self, key: jax.Array, step: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        """Inside a program: uint8 [B, H, W, C] and int32 [B], the augmented images of a step and their labels.

        With a mixture float32 [B, H, W, C] and float32 [B, classes], the shares of the labels.
        """
        ...

    def reseeded(self, seeds: Sequence[int]) -> "TrainingFeed":
        """The same data in the order, and with the crops, of other seeds."""
        ...


class EvaluationFeed(Feed, Protocol):
    """The test images, on any number of devices."""

    def arrays(self) -> Iterable[Any]:
        """The arrays for each program of one evaluation."""
        ...

    def batch(self, arrays: Any) -> tuple[jax.Array, jax.Array]:
        """Inside a program: uint8 [B, H, W, C] and int32 [B]; where there is no image, the label is -1."""
        ...


def training_feed(config: Config, dataset: Dataset | Photographs, mesh: Mesh, seeds: Sequence[int]) -> TrainingFeed:
    """The feed of the training images, on the devices of a mesh with one axis, "data" or "seed".

    Raises:
        InputError: if there are fewer images than a batch has, or a batch cannot be split over the devices.
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
    if isinstance(dataset, Photographs):
        return StreamedTraining(config, dataset, mesh, seeds)
    return ResidentTraining(config, dataset, mesh, seeds)


def evaluation_feed(config: Config, dataset: Dataset | Photographs, mesh: Mesh) -> EvaluationFeed:
    """The feed of the test images, on the devices of a mesh with one axis, "data" or "seed"."""
    devices = 1 if has_seeds(mesh) else mesh.size
    # Every batch is full; what pads the last one is not counted.
    batch = math.ceil(min(config.train.eval_batch_size, len(dataset.test)) / devices) * devices
    if isinstance(dataset, Photographs):
        return StreamedEvaluation(dataset, mesh, batch)
    return ResidentEvaluation(dataset, mesh, batch)
