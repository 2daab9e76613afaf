"""A run on Weights & Biases (wandb.ai)."""

import json
import os
from pathlib import Path
from typing import Any

from lmjax import files
from lmjax.config import Config, to_dict
from lmjax.errors import optional_import
from lmjax.training.trackers.tracker import histograms, scalars

_LIMITS = {"WANDB_LOGIN_TIMEOUT": "60", "WANDB_INIT_TIMEOUT": "60", "WANDB_FINISH_TIMEOUT": "60"}
"""Seconds to wait for an answer on the terminal, for the server, and for what is not uploaded yet at the end.

By W&B's own defaults a run without a network would not end. What the environment says already, counts.
"""


class WeightsAndBiases:
    """Scalars, histograms and the config: see `Tracker`.

    The project is "lmjax" unless WANDB_PROJECT names another; WANDB_MODE=offline keeps everything in the folder "wandb"
    of the run until `wandb sync`. A resumed run goes on under the same id, which is in wandb.json.

    W&B cannot delete a row that was sent, and ignores a second row for the same step. So the row of an epoch is sent
    only once a checkpoint contains it, and wandb.json has the last step that was sent: no epoch is sent that a kill or
    a rollback undoes later, and none is sent twice.
    """

    def __init__(self, directory: Path, config: Config):
        self._directory, self._config = directory, config
        self._note = directory / "wandb.json"
        self._run: Any = None
        self._told = -1
        self._waiting: list[dict[str, Any]] = []

    @staticmethod
    def require() -> None:
        _wandb()

    def begin(self, rows: list[dict[str, Any]]) -> None:
        if self._run is None:
            self._start()
        self._waiting = list(rows)
        self.saved()

    def log(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)

    def saved(self) -> None:
        wandb = _wandb()
        for row in self._waiting:
            if row["step"] > self._told:
                values = {name: wandb.Histogram(values) for name, values in histograms(row).items()}
                self._run.log(scalars(row) | values, step=row["step"])
                self._told = row["step"]
        self._waiting = []
        self._write_down()

    def close(self, finished: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if finished else 1)

    def _start(self) -> None:
        for name, seconds in _LIMITS.items():
            os.environ.setdefault(name, seconds)
        wandb = _wandb()
        before = json.loads(files.read(self._note)) if self._note.exists() else {}
        self._told = before.get("step", -1)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lmjax"),
            name="/".join(self._directory.parts[-2:]),
            dir=str(self._directory),
            config=to_dict(self._config),
            id=before.get("id"),
            resume="allow",
            reinit="create_new",  # the runs of several seeds are made at the same time
            settings=wandb.Settings(console="off"),
        )
        if self._run.disabled:
            raise RuntimeError("it is disabled, or nobody has logged in: wandb login, or WANDB_MODE=offline")
        self._write_down()

    def _write_down(self) -> None:
        files.write(self._note, json.dumps({"id": self._run.id, "step": self._told}) + "\n")


def _wandb() -> Any:
    return optional_import("wandb", package="wandb", purpose="--log wandb")
