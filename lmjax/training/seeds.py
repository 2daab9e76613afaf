"""The same run from several seeds: side by side where that is faster, and what their results are together."""

import contextlib
import dataclasses
import statistics
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.training.record import Record


def of_seed(config: Config, seed: int) -> Config:
    """The run of one seed, in a folder of its own below that of all."""
    return dataclasses.replace(config, seed=seed, workdir=str(Path(config.workdir, f"seed{seed}")))


def folders(directory: Path) -> list[Path]:
    """The runs of seeds that a folder holds, by increasing seed."""
    found = [path.parent for path in directory.glob("seed*/config.json") if path.parent.name[4:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[4:]))


def at_once() -> int:
    """How many runs are best trained at the same time.

    One network leaves a part of a CPU idle: two of them there make 1.3 times as many images a second as one by one, on
    two cores, where a program over both networks makes 0.3 times as many, and two processes 1.1 times (`python -m
    benchmarks --suite cpu --only seeds`). On other devices, and where a network is spread over several, it is one;
    `--suite gpu --only G6` measures what else could be done.
    """
    return 2 if jax.device_count() == 1 and jax.default_backend() == "cpu" else 1


def side_by_side(runs: list[Generator]) -> list[Any]:
    """Makes runs to their ends: what they yield is done at the same time, all else in turns.

    Args:
        runs: each yields a function without arguments to be called, and is sent what it returns, or is thrown what it
            raises.

    Returns:
        What the runs return.
    """
    ended, answers = {}, {run: run.__next__ for run in runs}
    pool = ThreadPoolExecutor(max(len(runs), 1))
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False)
        for run in runs:
            stack.callback(run.close)  # if one fails, the others end, too, and keep what they have
        while answers:
            wanted = {}
            for run, answer in answers.items():
                try:
                    wanted[run] = answer()
                except StopIteration as end:
                    ended[run] = end.value
            if len(wanted) == 1:  # in this thread, which is cheaper
                answers = {run: _answer(run, work) for run, work in wanted.items()}
            else:
                started = {run: pool.submit(work) for run, work in wanted.items()}
                answers = {run: _answer(run, future.result) for run, future in started.items()}
    return [ended[run] for run in runs]


def _answer(run, work):
    """Does the work, and returns what hands its outcome to the run."""
    try:
        result = work()
        return lambda: run.send(result)
    except Exception as error:
        raised = error  # the name `error` ends with this block
        return lambda: run.throw(raised)


def require_seeds(record: Record, config: Config, seeds: list[int], *, resume: str | None) -> dict[int, dict]:
    """Checks that a folder can hold the runs of these seeds, before hours go into the first.

    Args:
        record: of all seeds.
        config: of all seeds.
        seeds: to make, or to go on with.
        resume: "required" if there must be some already, "auto" if there may be.

    Returns:
        The summaries of the other seeds that have been made there before.
    """
    directory = record.directory
    if record.started:
        raise InputError(f"{directory} holds a single run, not one of several seeds: choose another --workdir")
    held = [int(path.name[4:]) for path in folders(directory)]
    if held and not resume:
        raise InputError(f"{directory} already holds seeds: go on with them by --resume, or choose another --workdir")
    if resume == "required" and not held:
        raise InputError(f"{directory} holds no run of several seeds to go on with")
    for seed in held:
        Record(directory / f"seed{seed}").require_same(of_seed(config, seed))
    for seed in set(seeds) - set(held):
        Record(directory / f"seed{seed}").require_none()
    multihost_utils.sync_global_devices("all have looked at the folders")
    others = {seed: Record(directory / f"seed{seed}").summary() for seed in sorted(set(held) - set(seeds))}
    return {seed: summary for seed, summary in others.items() if summary is not None}


def together(summaries: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{"mean", "std", "values"} of everything about the test images, over the seeds."""
    results = {}
    shared = set.intersection(*(set(summary) for summary in summaries.values()))
    for key in [key for key in next(iter(summaries.values())) if key.startswith("test_") and key in shared]:
        values = [summary[key] for summary in summaries.values()]
        # Of a sample: over n - 1, as is due where a few seeds stand for all.
        std = statistics.stdev(values) if len(values) > 1 else None
        results[key] = {"mean": statistics.mean(values), "std": std, "values": values}
    return results
