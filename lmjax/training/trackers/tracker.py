"""The interface of a tracker, and the names under which it has the numbers of an epoch."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmjax.config import Config


class Tracker(Protocol):
    """Is told of a run by the process that writes. What it raises ends it, and not the run.

    Args:
        directory: the folder of the run, in which it may have one of its own.
        config: of the run.
    """

    def __init__(self, directory: Path, config: Config): ...

    @staticmethod
    def require() -> None:
        """Raise InputError if a package that it needs is not installed."""

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """The run goes on after these epochs: when it starts, when it is resumed, and when it is rolled back.

        Whatever was logged of later ones is void, since they are made once more.
        """

    def log(self, row: dict[str, Any]) -> None:
        """An epoch is made.

        Args:
            row: as in metrics.jsonl, with "zero_stability", the margins of the steps by stage, in addition.
        """

    def saved(self) -> None:
        """A checkpoint holds what was logged, so that it will not be made once more."""

    def close(self, finished: bool) -> None:
        """Write what is left. `finished`: the run has come to its end; else it may be resumed."""


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The single numbers of a row, named so that what belongs together is shown together.

    "train_loss" and "test_loss" become "loss/train" and "loss/test", and so on. "zero_stability/smallest" is the
    smallest margin of all learned steps: below 0, one of them is not zero-stable. The step is left out: it is what
    all is drawn against.
    """
    found = {}
    for key, value in row.items():
        split, _, rest = key.partition("_")
        if isinstance(value, (int, float)) and key != "step":
            found[f"{rest}/{split}" if split in ("train", "test") else key] = float(value)
    if margins := list(_flat(row, "zero_stability").values()):
        found["zero_stability/smallest"] = float(np.concatenate(margins).min())
    return found


def histograms(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """The learned coefficients and the zero-stability margins of a row by stage, each as one dimension, float64.

    "coefficients/stage1" has k of all steps of the first stage (and of all channels, where each has its own).
    """
    return _flat(row, "coefficients") | _flat(row, "zero_stability")


def _flat(row, kind):
    return {f"{kind}/{stage}": np.ravel(np.asarray(x, np.float64)) for stage, x in row.get(kind, {}).items()}
