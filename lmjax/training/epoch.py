"""An epoch: its steps of training, and its evaluation."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmjax.data.feed import EvaluationFeed
from lmjax.errors import InputError
from lmjax.training.trainer import EpochSums, NonFiniteLoss, Trainer


def train_epoch(
    trainer: Trainer,
    progress: Callable[[int, float, float], None] = lambda images, loss, accuracy: None,
    pause: Callable[[int], bool] = lambda step: False,
) -> Any:
    """Train to the end of the epoch that the state is in.

    Args:
        progress: called as steps complete with (images since the last call, loss, accuracy), means over the seeds.
        pause: called with the step whenever there could be a pause, which is between two programs. Once it has
            returned true, the state is that of the step it was called with, and the next call goes on from there,
            as if there had been no pause. All processes must answer alike.

    Returns:
        `epoch_metrics`; None if there was a pause before the end of the epoch.

    Raises:
        NonFiniteLoss: naming the step, if no seed can go on, or one has to be rolled back. The state is then
            unusable.
    """
    if trainer.sums[0].steps == trainer.steps_per_epoch:
        trainer.sums = [EpochSums(skipped_in_a_row=sums.skipped_in_a_row) for sums in trainer.sums]
    first, before = trainer.step, trainer.sums[0].steps
    dispatches = trainer.compiled.dispatches(trainer.steps_per_epoch - before)
    programs = [trainer.compiled.train(steps) for steps in dispatches]
    step, paused, start = first, False, time.perf_counter()
    arrays = zip(programs, trainer.feed.arrays(first, dispatches), strict=True)
    try:
        with _InFlight(lambda metrics: _count(trainer, metrics, first - before, progress)) as pending:
            for train, batch in arrays:
                trainer.state, metrics = train(trainer.state, trainer.random_seeds, batch)
                pending.add(metrics)
                step += metrics["loss"].shape[-1]
                if paused := pause(step):
                    break
    finally:  # after an error in the data, too, the steps that were made are saved
        seconds = time.perf_counter() - start
        for sums in trainer.sums:
            sums.seconds += seconds
    if paused and trainer.sums[0].steps < trainer.steps_per_epoch:
        return None
    return epoch_metrics(trainer)


def _count(trainer, values, before_epoch, progress):
    """Add the metrics of a program, {name: [steps] or [seeds, steps]}, to the sums."""
    values = {name: np.reshape(value, (len(trainer.seeds), -1)).tolist() for name, value in values.items()}
    config = trainer.config.train
    for i, (seed, sums) in enumerate(zip(trainer.seeds, trainer.sums, strict=True)):
        for n in range(len(values["loss"][i])):
            metrics = {name: value[i][n] for name, value in values.items()}
            skipped = sums.skipped
            sums.add(metrics)
            limited = config.on_nan != "skip" or max(sums.skipped, sums.skipped_in_a_row) > config.nan_limit
            if sums.skipped > skipped and limited and seed not in trainer.diverged:
                step = before_epoch + sums.steps
                _diverge(trainer, NonFiniteLoss(f"the training loss is {metrics['loss']}", step, seed))
    sound = [i for i, seed in enumerate(trainer.seeds) if seed not in trainer.diverged]
    loss, accuracy = (float(np.mean([values[name][i][-1] for i in sound])) for name in ("loss", "accuracy"))
    progress(config.batch_size * len(values["loss"][0]), loss, accuracy)


def _diverge(trainer: Trainer, error: NonFiniteLoss) -> None:
    """Note that a seed has diverged; raise the error if it is to be rolled back, or if no other seed is left.

    `lmjax.training.loop.roll_back` decides what follows.
    """
    trainer.diverged[error.seed] = error
    if len(trainer.diverged) == len(trainer.seeds) or trainer.config.train.on_nan == "rollback":
        raise error


def epoch_metrics(trainer: Trainer) -> Any:
    """The means over the steps of this epoch so far; of several seeds, a list of them.

    Returns:
        {"train_loss", "train_accuracy"} and what else the step counts, the "learning_rate" of the last step,
        "images_per_second" without compilation, and "skipped_steps" where steps may be skipped. The loss and the
        accuracy are None if all were.
    """
    config, rate = trainer.config.train, float(np.asarray(trainer.learning_rate(trainer.step - 1)))
    found = [
        {"train_loss": None, "train_accuracy": None}
        | {f"train_{name}": value / (sums.steps - sums.skipped) for name, value in sums.metrics.items()}
        | {"learning_rate": rate, "images_per_second": sums.steps * config.batch_size / sums.seconds}
        | ({"skipped_steps": sums.skipped} if config.on_nan == "skip" else {})
        for sums in trainer.sums
    ]
    return found if trainer.several else found[0]


def require_finite(trainer: Trainer) -> None:
    """Mark seeds with infinite or NaN parameters as diverged: no loss has been computed since the last update.

    Raises:
        NonFiniteLoss: if no seed is left, or one has to be rolled back.
    """
    for seed, finite in zip(trainer.seeds, np.ravel(trainer.compiled.finite()(trainer.state.params)), strict=True):
        if not finite and seed not in trainer.diverged:
            _diverge(trainer, NonFiniteLoss("there are parameters that are not finite", trainer.step, seed))


def evaluate(trainer: Trainer, pause: Callable[[], bool] = lambda: False) -> Any:
    """{"test_loss", "test_accuracy"} over every test image, each counted once; of several seeds, a list of them.

    Where there are a hundred classes or more, "test_top5_accuracy", too.

    Args:
        pause: called between two programs; if it returns true, the evaluation is given up. All processes must
            answer alike.

    Returns:
        None if it was given up.

    Raises:
        NonFiniteLoss: if the last update has broken the parameters, which no training loss has seen yet, of all
            seeds, or of one that has to be rolled back.
    """
    found = mean_metrics(trainer.compiled.evaluate(), trainer.state.evaluated(), trainer.test_feed, pause)
    if found is None:
        return None
    for seed, means in zip(trainer.seeds, found, strict=True):
        loss = means["test_loss"]
        if not math.isfinite(loss) and seed not in trainer.diverged:
            _diverge(trainer, NonFiniteLoss(f"the test loss is {loss}", trainer.step, seed))
    return found if trainer.several else found[0]


def mean_metrics(
    program: Callable[..., dict[str, jax.Array]],
    evaluated: tuple[Any, Any],
    feed: EvaluationFeed,
    pause: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]] | None:
    """The means over the test images, a dictionary a seed.

    Args:
        program: `Evaluation.evaluate`, compiled, or that of several seeds.
        evaluated: parameters and statistics.
        feed: the images.
        pause: as in `evaluate`.
    """
    total: dict[str, np.ndarray] = {}

    def add(sums):
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + np.ravel(value).astype(float)

    with _InFlight(add) as pending:
        for arrays in feed.arrays():
            pending.add(program(*evaluated, arrays))
            if pause():
                return None
    count = total.pop("count")
    if not count[0]:
        raise InputError("none of the test images can be decoded")
    means = {f"test_{name}": (value / count).tolist() for name, value in total.items()}
    return [{name: values[i] for name, values in means.items()} for i in range(len(count))]


class _InFlight(contextlib.AbstractContextManager["_InFlight"]):
    """Results of programs, given to `collect` on the host in their order, two programs behind the devices.

    So the devices always have the next program waiting, and the host never runs far ahead. What is under way when an
    error of the data ends the loop is collected, too: it belongs to the state.
    """

    def __init__(self, collect: Callable[[Any], None]):
        self._collect, self._pending = collect, deque()

    def add(self, results: Any) -> None:
        self._pending.append(results)
        if len(self._pending) > 2:
            self._collect(jax.device_get(self._pending.popleft()))

    def __exit__(self, kind, *_) -> None:
        if kind is None or issubclass(kind, InputError):
            while self._pending:
                self._collect(jax.device_get(self._pending.popleft()))
