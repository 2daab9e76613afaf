"""A trace of some steps of training: where their time goes."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import jax

from lmjax import files
from lmjax.console import say, warn
from lmjax.errors import InputError, reason
from lmjax.training.trainer import Trainer

WARM_UP = 10
"""So many steps are made before the trace begins, if the epoch has as many to spare."""

STEPS = 10
"""So many are traced, rounded up to whole programs."""


def require(directory: str | Path) -> None:
    """Check, before the work, that a trace can be written below a folder, which is not made yet.

    Raises:
        InputError: if it, or what it would be made in, is a file or cannot be written.
    """
    path = files.local(directory, "--profile").absolute()
    if not str(path).isprintable():
        raise InputError(f"--profile {directory}: the profiler cannot write to a name like this: choose another place")
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"--profile {directory}: {there} is not a folder: name another place")
        writable = os.access(there, os.W_OK)
    except OSError as error:
        raise InputError(f"--profile {directory}: cannot be a folder ({reason(error)}): name another place") from error
    if not writable:
        raise InputError(f"--profile {directory}: {there} cannot be written: name another place")


def window(programs: Sequence[int]) -> tuple[int, int]:
    """The steps to trace, (begin, end), counted from the first of these programs; both lie between two of them.

    Args:
        programs: how many steps each makes, one after another.
    """
    between = list(itertools.accumulate(programs, initial=0))
    last = between[-1]
    # In a short epoch, trace its end; in an epoch of a single program, all of it.
    wanted = min(WARM_UP, max(last - STEPS, 1), between[-2])
    begin = next(step for step in between if step >= wanted)
    return begin, next(step for step in between if step >= min(begin + STEPS, last))


class Profile:
    """A trace of the `window` of the first epoch, made by `jax.profiler`. If it fails, training goes on without it.

    Args:
        directory: below which it is written, in plugins/profile: for XProf, and for Perfetto. None: no trace.
    """

    def __init__(self, directory: str | Path | None):
        self.directory = None if directory is None else files.local(directory, "--profile")
        self._tracing = self._done = False
        self._step = contextlib.ExitStack()

    @contextlib.contextmanager
    def epoch(self, trainer: Trainer) -> Generator[Callable[[int], None], None, None]:
        """While this is entered, a trainer makes the rest of an epoch. No number changes but the time that it takes.

        Args:
            trainer: its images per second do not count what it takes to begin and to write the trace.

        Yields:
            To be called where `train_epoch` could pause, with the step.
        """
        if self.directory is None or self._done:
            yield lambda step: None
            return
        self._done = True
        first, seconds = trainer.step, 0.0
        programs = trainer.compiled.dispatches(trainer.steps_per_epoch - first % trainer.steps_per_epoch)
        begin, end = (first + step for step in window(programs))

        def between(step: int) -> None:
            nonlocal seconds
            if begin <= step <= end:
                jax.block_until_ready(trainer.state)  # let the steps before the trace finish
                start = time.perf_counter()
                self._at(step, begin, end)
                seconds += time.perf_counter() - start

        if begin == first:
            self._at(first, begin, end)
        try:
            yield between
        finally:
            for sums in trainer.sums:
                sums.seconds -= seconds
            if self._tracing:  # an interruption, or an error
                self._at(end, begin, end)

    def _at(self, step: int, begin: int, end: int) -> None:
        """End what was traced until this step, and begin what comes next."""
        try:
            self._step.close()
            if step == begin:
                jax.profiler.start_trace(str(self.directory), create_perfetto_trace=True)
                self._tracing = True
            if self._tracing and step == end:
                self._tracing = False
                jax.profiler.stop_trace()
                self._say_where(begin, end)
            if self._tracing:
                # A program of several steps is annotated with the number of its first.
                self._step.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step + 1))
        except Exception as error:  # no training ends because a trace cannot be written
            warn(f"--profile has failed ({reason(error)}): going on without it")

    def _say_where(self, begin: int, end: int) -> None:
        traces = Path(str(self.directory)).glob("plugins/profile/*/perfetto_trace.json.gz")
        newest = max(traces, key=lambda path: path.stat().st_mtime)
        say(
            f"a trace of steps {begin + 1} to {end}: open {newest} on https://ui.perfetto.dev, or all of it with "
            f"pip install xprof; xprof --logdir {self.directory}"
        )
