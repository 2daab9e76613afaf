"""The same run from several seeds: their folders, in which order they are trained, and their results together."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.results.statistics import spread
from lmjax.training.checkpoint_folder import checkpoint_steps
from lmjax.training.run_record import RunRecord, seed_folders


def of_seed(config: Config, seed: int) -> Config:
    """The run of one seed, in a folder of its own below that of all."""
    return dataclasses.replace(config, seed=seed, workdir=str(config.folder / f"seed{seed}"))


def side_by_side(config: Config) -> bool:
    """True if each seed trains on a device of its own.

    False where images are read from disk while training (each seed would decode images of its own), where parameters
    are divided over the devices, and where there are several processes: then each seed has all devices, in turn.
    """
    return not (in_turn(config) or jax.process_count() > 1)


def in_turn(config: Config) -> bool:
    """True if the config alone, whatever the processes, has the seeds take turns; see `side_by_side`."""
    return config.data.origin.streamed or config.train.shard_parameters


def groups(configs: Sequence[Config], at_once: int) -> Iterator[list[Config]]:
    """Groups of seeds to train side by side, of nearly equal size.

    Those of a group go on from the same step. First comes the seed with the lowest last step, with all that have that
    step among their last two checkpoints, as after a kill between the saves of two seeds. New seeds come last.
    """
    steps = {config.seed: checkpoint_steps(config.folder / "checkpoints") for config in configs}
    left = [config for config in configs if steps[config.seed]]
    cohorts = []
    while left:
        step = min(steps[config.seed][-1] for config in left)
        cohorts.append([config for config in left if step in steps[config.seed][-2:]])
        left = [config for config in left if config not in cohorts[-1]]
    cohorts.append([config for config in configs if not steps[config.seed]])
    for cohort in filter(None, cohorts):
        size = math.ceil(len(cohort) / math.ceil(len(cohort) / at_once))
        yield from (cohort[i : i + size] for i in range(0, len(cohort), size))


def require_seeds(record: RunRecord, config: Config, seeds: Sequence[int], *, resume: str | None) -> dict[int, dict]:
    """Check that a folder can hold the runs of these seeds, before hours go into the first.

    Args:
        record: of the folder of all seeds.
        config: of the run, from any seed.
        seeds: those to start or to resume.
        resume: "required" if the folder must hold seeds already, "auto" if it may, None if it must not.

    Returns:
        By seed, the summaries of finished runs in the folder from other seeds.

    Raises:
        InputError: if the folder holds another run, or `resume` does not fit what it holds.
    """
    directory = record.directory
    if record.started:
        raise InputError(f"{directory} holds a single run, not one of several seeds: choose another --workdir")
    held = [int(path.name[4:]) for path in seed_folders(directory)]
    if held and not resume:
        raise InputError(f"{directory} already holds seeds: go on with them by --resume, or choose another --workdir")
    if resume == "required" and not held:
        raise InputError(f"{directory} holds no run of several seeds to go on with")
    for seed in held:
        RunRecord(directory / f"seed{seed}").require_same(of_seed(config, seed), may_be_longer=seed in seeds)
    for seed in set(seeds) - set(held):
        RunRecord(directory / f"seed{seed}").require_none()
    multihost_utils.sync_global_devices("all have looked at the folders")
    others = {seed: RunRecord(directory / f"seed{seed}").summary() for seed in sorted(set(held) - set(seeds))}
    return {seed: summary for seed, summary in others.items() if summary is not None}


def together(summaries: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{"mean", "std", "values"} of everything about the test images, over the seeds."""
    results = {}
    shared = set.intersection(*(set(summary) for summary in summaries.values()))
    for key in [key for key in next(iter(summaries.values())) if key.startswith("test_") and key in shared]:
        values = [summary[key] for summary in summaries.values()]
        results[key] = spread(values)._asdict() | {"values": values}
    return results
