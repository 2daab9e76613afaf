"""Trackers: other tools that are told of each epoch (TensorBoard, Weights & Biases, MLflow, Trackio).

They only look on: a run goes on from its `RunRecord` and its checkpoints. So the choice of trackers is no part of a
`Config`, may be made anew at each --resume, and changes no number.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lmjax.config import Config
from lmjax.console import warn
from lmjax.errors import reason, unknown
from lmjax.training.trackers.mlflow import MLflow
from lmjax.training.trackers.tensorboard import TensorBoard
from lmjax.training.trackers.tracker import Tracker, histograms, scalars
from lmjax.training.trackers.trackio import Trackio
from lmjax.training.trackers.weights_and_biases import WeightsAndBiases

__all__ = [
    "NAMES", "MLflow", "TensorBoard", "Tracker", "Trackers", "Trackio", "WeightsAndBiases", "histograms", "require",
    "scalars",
]  # fmt: skip

_KINDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}

NAMES = tuple(_KINDS)
"""The choices of `--log`."""


def require(names: Collection[str]) -> None:
    """Check that these trackers exist and that their packages are installed.

    Raises:
        InputError: naming the first that does not, or the pip command that installs it.
    """
    for name in names:
        if name not in _KINDS:
            raise unknown("tracker", name, NAMES)
        _KINDS[name].require()


class Trackers(contextlib.AbstractContextManager["Trackers"]):
    """The trackers of one run. One that fails is reported once, and not told anything any more; the run goes on.

    Args:
        names: of `NAMES`.
        directory: the folder of the run, below which they write.
        config: of the run.
        writes: whether this process is the one that tells them.

    Use it as a context manager: they are closed at its end, and told whether the run has come to its own.

    Attributes:
        wanted: whether there are any, in this process or in the one that writes.
    """

    def __init__(self, names: Collection[str], directory: Path, config: Config, *, writes: bool = True):
        self.wanted = bool(names)
        self._trackers = {name: _KINDS[name](directory, config) for name in names if writes}

    def __exit__(self, kind, error, traceback) -> None:
        self.end(finished=kind is None)

    def end(self, *, finished: bool) -> None:
        """Close them; see `Tracker.close`."""
        self._tell("close", finished)
        self._trackers = {}

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """See `Tracker.begin`."""
        self._tell("begin", rows)

    def log(self, row: dict[str, Any]) -> None:
        """See `Tracker.log`."""
        self._tell("log", row)

    def saved(self) -> None:
        """See `Tracker.saved`."""
        self._tell("saved")

    def _tell(self, what: str, *arguments: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, what)(*arguments)
            except Exception as error:  # whatever it is: no training ends because somebody cannot look on
                del self._trackers[name]
                warn(f"--log {name} has failed ({reason(error)}): going on without it")
                with contextlib.suppress(Exception):
                    tracker.close(False)
