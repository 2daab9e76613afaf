"""The test images that a trained network takes for others."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

import lmjax
from lmjax.config import Config
from lmjax.data import prepared
from lmjax.data.cifar import ARCHIVES
from lmjax.errors import InputError, optional_import
from lmjax.results.runs import Run


class Mistake(NamedTuple):
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


class Predictions(NamedTuple):
    """The predictions of one checkpoint.

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
    """Evaluate the newest checkpoint of a run, image by image. Nothing is downloaded.

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
    with lmjax.load(run.record.directory, data_dir=data_dir) as trained:
        images, labels = trained.test_sample(limit)
        classes = trained.classes
        shares, guesses = trained.predict(images)
        sure = shares.max(-1)
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(confusion, (labels, guesses), 1)
        wrong = np.flatnonzero(guesses != labels)
        worst = wrong[np.argsort(-sure[wrong], kind="stable")][:keep]
        mistakes = [Mistake(float(sure[i]), int(labels[i]), int(guesses[i]), images[i]) for i in worst]
        return Predictions(tuple(classes), confusion, mistakes, trained.step, len(trained.dataset.test))


def _require_data(config: Config, data_dir: str | None) -> None:
    """Raise InputError where loading the data would have to fetch it first."""
    name, directory = config.data.name, data_dir or config.data.dir
    if name not in ARCHIVES:
        return
    if directory is None:
        folder = Path(optional_import("pooch", package="pooch", purpose="finding CIFAR").os_cache("lmjax"))
    else:
        folder = Path(os.path.expanduser(directory))
    if not (folder / ARCHIVES[name].filename).exists() and not (directory and prepared.find(name, folder)):
        raise InputError(f"the data is not there ({name} is not in {folder}): lmjax report --data-dir says where it is")
