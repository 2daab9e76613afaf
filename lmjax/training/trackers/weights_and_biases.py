"""A run on Weights & Biases (wandb.ai)."""

import os

from lmjax.config import to_dict
from lmjax.training.trackers.appending import Appending

_LIMITS = {"WANDB_LOGIN_TIMEOUT": "60", "WANDB_INIT_TIMEOUT": "60", "WANDB_FINISH_TIMEOUT": "60"}
"""Seconds to wait for an answer on the terminal, for the server, and for what is not uploaded yet at the end.

By W&B's own defaults a run without a network would not end. A variable that is already set stays.
"""


class WeightsAndBiases(Appending):
    """Scalars, histograms and the config: see `Tracker`.

    The project is "lmjax" unless WANDB_PROJECT names another; WANDB_MODE=offline keeps everything in the folder "wandb"
    of the run until `wandb sync`. W&B cannot delete a row that was sent, and ignores a second row for the same step.
    """

    NAME = "wandb"

    def _start(self, name: str, before: str | None) -> str:
        for variable, seconds in _LIMITS.items():
            os.environ.setdefault(variable, seconds)
        wandb = self._module()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lmjax"),
            name=name,
            dir=str(self._directory),
            config=to_dict(self._config),
            id=before,
            resume="allow",
            reinit="create_new",  # the runs of several seeds are made at the same time
            settings=wandb.Settings(console="off"),
        )
        if self._run.disabled:
            raise RuntimeError("it is disabled, or nobody has logged in: wandb login, or WANDB_MODE=offline")
        return self._run.id

    def _finish(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
