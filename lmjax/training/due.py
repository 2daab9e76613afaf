"""Time for a checkpoint."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax.config import CheckpointConfig


class Due:
    """True, called with the step, once so many steps or minutes have passed since the last checkpoint.

    Several processes must agree, though their clocks do not: that of the first counts, and the others are told now and
    then, about ten times between two checkpoints, at steps that all know.

    Args:
        options: the steps or minutes.
        step: at which the run begins.
    """

    def __init__(self, options: CheckpointConfig, step: int):
        self._steps = options.steps
        self._seconds = None if options.minutes is None else 60 * options.minutes
        self.saved(step)

    def saved(self, step: int) -> None:
        """Note that there is a checkpoint of this step."""
        self._step, self._time = step, time.monotonic()
        self._ask = step + 1

    def __call__(self, step: int) -> bool:
        if self._steps is not None and step - self._step >= self._steps:
            return True
        if self._seconds is None:
            return False
        passed = time.monotonic() - self._time
        if jax.process_count() == 1:
            return passed >= self._seconds
        if step < self._ask:
            return False
        steps_in_a_tenth = (step - self._step) / max(passed, 1e-3) * self._seconds / 10
        due, wait = multihost_utils.broadcast_one_to_all(
            np.array([passed >= self._seconds, np.clip(steps_in_a_tenth, 1, 10_000)], np.int32)
        )
        self._ask = step + int(wait)
        return bool(due)
