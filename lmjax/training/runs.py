"""A run, or the same run from several seeds: begun, gone on with, or found finished."""

from collections.abc import Collection, Sequence
from typing import Any

import jax

from lmjax.config import Config
from lmjax.console import say, warn
from lmjax.data import Dataset, Photographs
from lmjax.errors import InputError
from lmjax.results.statistics import spread
from lmjax.training import loop, profiling, seeds, trackers
from lmjax.training.interruption import Interruption
from lmjax.training.loop import Diverged, NoCommonStep
from lmjax.training.processes import require_alike
from lmjax.training.run_record import RunRecord, seed_folders
from lmjax.training.run_record_writer import RunRecordWriter
from lmjax.training.trainer import Trainer


def train(
    config: Config, *, resume: str | None = None, log: Collection[str] = (), profile: str | None = None
) -> dict[str, Any]:
    """Train a network, on all devices; returns the summary of the run.

    Args:
        config: the run.
        resume: "required" to go on with the one in its folder, "auto" to do so if there is one.
        log: the trackers to tell of it, of `trackers.NAMES`.
        profile: the folder for a trace of some of its steps, "" for one in its own folder; None for no trace.
    """
    _require(resume, log, profile)
    record = RunRecord(config.folder)
    require_alike(config, resume=resume, log=sorted(set(log)), started=record.started)
    goes_on = resume == "required" or (resume == "auto" and record.started)
    if goes_on and (summary := finished(config)) is not None:
        return summary
    _, summaries = loop.run([config], [f"seed {config.seed}"], resume=[goes_on], log=log, profile=profile)
    return summaries[config.seed]


def train_seeds(
    config: Config,
    wanted: Sequence[int],
    *,
    resume: str | None = None,
    log: Collection[str] = (),
    profile: str | None = None,
) -> dict[str, Any]:
    """Train the same network from several seeds; returns the mean and the standard deviation over them.

    Each has a folder of its own. Those that are trained at the same time have a device each (`seeds.side_by_side`). A
    seed that diverges ends no other. The trace is of the first.

    Args:
        config: the run.
        wanted: the seeds.
        resume, log, profile: as for `train`; with `resume`, the seeds that the folder holds already count, too.

    Raises:
        Diverged: when all others are finished, if a seed has diverged.
    """
    _require(resume, log, profile)
    record = RunRecordWriter(config.folder, writes=jax.process_index() == 0)
    started = list(map(str, seed_folders(config.folder)))
    require_alike(config, resume=resume, log=sorted(set(log)), seeds=list(wanted), started=started)
    summaries = seeds.require_seeds(record, config, wanted, resume=resume)
    missing = []
    for seed in wanted:
        one = seeds.of_seed(config, seed)
        if RunRecord(one.folder).started and (summary := finished(one)) is not None:
            summaries[seed] = summary
        else:
            missing.append(one)
    summaries |= train_groups(missing, log=log, profile=profile)[1]
    results = _together(record, summaries) if summaries else {}
    if diverged := [one.seed for one in missing if one.seed not in summaries]:
        verb = "is" if len(diverged) == 1 else "are"
        raise Diverged(f"seed {', seed '.join(map(str, diverged))} diverged, and {verb} not counted: see above")
    return results


def train_groups(
    configs: Sequence[Config],
    at_once: int | None = None,
    *,
    name: str = "",
    like: Trainer | None = None,
    dataset: Dataset | Photographs | None = None,
    interruption: Interruption | None = None,
    log: Collection[str] = (),
    profile: str | None = None,
) -> tuple[Trainer | None, dict[int, dict[str, Any]]]:
    """Train or go on with runs that differ in the seed alone, group after group; one that diverges ends no other.

    Args:
        configs: that of each run.
        at_once: how many to train side by side, where that is possible; None: one a device.
        name: put before "seed N" in messages, as "lm, ".
        like, dataset, interruption, log, profile: see `loop.run`; the trace is of the first group.

    Returns:
        The last trainer, without its state, and the summaries by seed; those of seeds that have diverged are missing.
    """
    interruption, summaries, left, before = interruption or Interruption(), {}, list(configs), None
    side_by_side = bool(configs) and seeds.side_by_side(configs[0])
    while left:
        group = next(seeds.groups(left, (at_once or jax.local_device_count()) if side_by_side else 1))
        names = [f"{name}seed {one.seed}" for one in group]
        say(f"{'; '.join(names)}:")
        try:
            like, found = loop.run(
                group, names, resume=[RunRecord(one.folder).started for one in group], side_by_side=side_by_side,
                like=like, dataset=dataset, interruption=interruption, log=log, profile=profile,
            )  # fmt: skip
            summaries |= found
        except Diverged as error:  # the other groups go on
            warn(f"{'; '.join(names)}: {error}")
        except NoCommonStep:  # damaged checkpoints are now set aside: divide the seeds into groups again
            if group == before:
                raise
            before = group
            continue
        profile, left = None, [one for one in left if one not in group]
    return like, summaries


def _require(resume: str | None, log: Collection[str], profile: str | None) -> None:
    if resume not in (None, "required", "auto"):
        raise InputError(f'resume: must be "auto", "required" or None, got {resume!r}')
    trackers.require(log)
    if profile:
        profiling.require(profile)


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of the run in the folder of a config; None if it has not come to its end, or is to be longer."""
    record = RunRecord(config.folder)
    record.require_same(config, may_be_longer=True)
    summary = record.summary() if config.train.epochs == record.config().train.epochs else None
    if summary is not None:
        say(f"{record.directory} is finished: test accuracy {summary['test_accuracy']:.2%}", result=True)
    return summary


def _together(record: RunRecordWriter, summaries: dict[int, dict[str, Any]]) -> dict[str, Any]:
    results = seeds.together(summaries)
    record.summarize({"seeds": list(summaries), **results})
    accuracy = spread(summary["test_accuracy"] for summary in summaries.values())
    count = f"{len(summaries)} seed" + "s" * (len(summaries) > 1)
    say(f"test accuracy of {count} {accuracy:.2%}; everything is in {record.directory}", result=True)
    return results
