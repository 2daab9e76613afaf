"""What a trained network takes the test images for."""

import dataclasses
import heapq
import os
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from lmjax.config import Config
from lmjax.data import prepared
from lmjax.data.cifar import ARCHIVES
from lmjax.errors import InputError, optional_import
from lmjax.report.runs import Run
from lmjax.training import Trained, open_run


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test image that was taken for another class.

    Attributes:
        confidence: the probability that the network gives to the class it chose.
        truth, guess: labels.
        pixels: uint8 [H, W, C].
    """

    confidence: float
    truth: int
    guess: int
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of one checkpoint.

    Attributes:
        classes: the names of the labels.
        confusion: int64 [classes, classes]: how many images of the class of the line were taken for that of the column.
        mistakes: the most confident ones, the most confident first.
        step: of the checkpoint.
        total: test images that there are; the confusion may be of a part of them.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    mistakes: list[Mistake]
    step: int
    total: int


def predict(run: Run, *, data_dir: str | None, limit: int, keep: int) -> Predictions:
    """Evaluates the newest checkpoint of a run, image by image. Nothing is downloaded.

    Args:
        run: whose.
        data_dir: where the data is, if not where it was.
        limit: at most so many test images, drawn at random if there are more.
        keep: how many mistakes.

    Raises:
        InputError: if there is no checkpoint that can be read, or the data is not there.
    """
    if not (run.record.directory / "checkpoints").is_dir():
        raise InputError("there is no checkpoint")
    _require_data(run.config, data_dir)
    with open_run(run.record.directory, data_dir=data_dir) as trained:
        return _predict(trained, limit, keep)


def _require_data(config: Config, data_dir: str | None) -> None:
    """Raises InputError where loading the data would have to fetch it first."""
    name, directory = config.data.name, data_dir or config.data.dir
    if name not in ARCHIVES:
        return
    if directory is None:
        folder = Path(optional_import("pooch", package="pooch", purpose="finding CIFAR").os_cache("lmjax"))
    else:
        folder = Path(os.path.expanduser(directory))
    if not (folder / ARCHIVES[name].filename).exists() and not (directory and prepared.find(name, folder)):
        raise InputError(f"the data is not there ({name} is not in {folder}): lmjax report --data-dir says where it is")


def _predict(trained: Trained, limit: int, keep: int) -> Predictions:
    classes, total = trained.dataset.classes, len(trained.dataset.test)
    graph, state = nnx.split(trained.model())

    @jax.jit
    def probabilities(state, pixels):
        return jax.nn.softmax(trained.logits(nnx.merge(graph, state), pixels))

    chosen = np.ones(total, bool)
    if total > limit:
        chosen[:] = False
        chosen[np.random.default_rng(0).choice(total, limit, replace=False)] = True
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    worst: list[tuple[float, int, Mistake]] = []
    start, batch = 0, 0
    for images, labels in trained.test_batches():
        picked = chosen[start : start + len(labels)]
        start += len(labels)
        images, labels = images[picked], labels[picked]
        if not len(labels):
            continue
        batch = max(batch, len(labels))
        padded = np.zeros((batch, *images.shape[1:]), images.dtype)  # of one size: compiled once
        padded[: len(images)] = images
        found = np.asarray(probabilities(state, padded))[: len(images)]
        guesses = found.argmax(-1)
        np.add.at(confusion, (labels, guesses), 1)
        for i in np.flatnonzero(guesses != labels):
            mistake = Mistake(float(found[i].max()), int(labels[i]), int(guesses[i]), images[i].copy())
            heapq.heappush(worst, (mistake.confidence, -(start + int(i)), mistake))
            if len(worst) > keep:
                heapq.heappop(worst)
    mistakes = [mistake for *_, mistake in sorted(worst, key=lambda entry: entry[:2], reverse=True)]
    return Predictions(tuple(classes), confusion, mistakes, trained.step, total)
