"""Train a network whose blocks are steps of a numerical scheme.

python train.py --config configs/digits.py
python train.py --config configs/cifar10.py:lm_resnet56 --train.epochs 40 --seed 1
python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/imagenet
python train.py --config configs/digits.py --seeds 0 1 2
python train.py --config configs/digits.py --workdir runs/a --resume auto
python train.py --config configs/digits.py --evaluate runs/a
python train.py --config configs/digits.py --log tensorboard wandb --profile

It ends with 0 when the run is finished, 2 when there is a mistake to mend, 130, 143 or 129 when SIGINT, SIGTERM or
SIGHUP has stopped it with all saved, and 75 when another process of the run is lost. After everything but 0 and 2, the
same command with --resume auto goes on.
"""

import dataclasses
import json
import re
import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax import command_line, runtime
from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.training import Interruption, Record, Run, open_run, profiling, program, seeds, trackers
from lmjax.training.console import say
from lmjax.training.run import report_broken


def train(config: Config, *, resume: str | None = None, log: Collection[str] = (), profile: str | None = None) -> dict:
    """A whole run; returns its summary.

    Args:
        config: the run.
        resume: "required" to go on with the one in its folder, "auto" to do so if there is one.
        log: what to tell of it, of `trackers.NAMES`.
        profile: the folder for a trace of some of its steps, "" for one in its own folder; None for no trace.
    """
    trackers.require(log)
    if profile:
        profiling.require(profile)
    goes_on = resume == "required" or (resume == "auto" and Record(config.workdir).started)
    if goes_on and (summary := finished(config)) is not None:
        return summary
    story = Run(config, Interruption(), resume=goes_on, log=log, profile=profile).story()
    next(story)
    return seeds.side_by_side([story])[0]


def finished(config: Config) -> dict | None:
    """The summary of the run in the folder of a config; None if it has not come to its end."""
    record = Record(config.workdir)
    record.require_same(config)
    summary = record.summary()
    if summary is not None:
        say(f"{record.directory} is finished: test accuracy {summary['test_accuracy']:.2%}")
    return summary


def train_seeds(
    config: Config,
    wanted: list[int],
    *,
    resume: str | None = None,
    log: Collection[str] = (),
    profile: str | None = None,
) -> dict:
    """The same run from several seeds, each in a folder of its own: the mean and the standard deviation over them.

    All use the programs of the first, and `seeds.at_once` of them are trained at the same time. With `resume`, the
    seeds that the folder holds already count, too. The trace is of the first.
    """
    trackers.require(log)
    if profile:
        profiling.require(profile)
    record = Record(config.workdir, writes=jax.process_index() == 0)
    summaries = seeds.require_seeds(record, config, wanted, resume=resume)
    interruption, first, number = Interruption(), None, seeds.at_once()
    for group in (wanted[i : i + number] for i in range(0, len(wanted), number)):
        stories = {}
        for seed in group:
            say(f"seed {seed}:")
            one = seeds.of_seed(config, seed)
            started = Record(one.workdir).started
            if started and (summary := finished(one)) is not None:
                summaries[seed] = summary
                continue
            stories[seed] = Run(one, interruption, resume=started, like=first, log=log, profile=profile).story()
            first, profile = next(stories[seed]), None
        summaries |= zip(stories, seeds.side_by_side(list(stories.values())), strict=True)
    results = seeds.together(summaries)
    record.summarise({"seeds": list(summaries), **results})
    accuracy = results["test_accuracy"]
    spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.2%}"
    count = f"{len(summaries)} seed" + "s" * (len(summaries) > 1)
    say(f"test accuracy of {count} {accuracy['mean']:.2%}{spread}; everything is in {record.directory}")
    return results


def evaluate(config: Config, directory: str, at: str | int = "latest") -> dict:
    """The test loss and accuracy of a checkpoint of a run: "latest", "best", or that of a step."""
    with open_run(directory, at=at, config=config) as trained:
        found = {"step": trained.step} | trained.trainer.evaluate()
        if config.data.on_error == "skip":
            found["broken_images"] = report_broken(trained.trainer)
        return found


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; returns the exit code."""
    return program.run(lambda: work(arguments))


def work(arguments: list[str] | None) -> None:
    """Does what the command line says."""
    config, choices = command_line.parse(arguments, description=__doc__)
    notes = runtime.start(deterministic=choices.deterministic)
    if choices.evaluate is not None:
        say(json.dumps(evaluate(config, choices.evaluate, choices.at), indent=2))
        return
    for note in notes:
        say(note)
    if config.workdir is None:
        if choices.resume:
            raise InputError("--resume: give the --workdir of the run to go on with")
        numbers = [config.seed] if choices.seeds is None else choices.seeds
        words = [command_line.stem(choices.config), config.model.stepper, f"seed{'-'.join(map(str, numbers))}"]
        name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, words))) + f"-{time_of_first():%Y%m%d-%H%M%S}"
        config = dataclasses.replace(config, workdir=str(Path("runs", name)))
    how = {"resume": choices.resume, "log": choices.log, "profile": choices.profile}
    if choices.seeds is None:
        train(config, **how)
    else:
        train_seeds(config, choices.seeds, **how)


def time_of_first() -> datetime:
    """Now, by the clock of the first process: all must name the same folder."""
    return datetime.fromtimestamp(int(multihost_utils.broadcast_one_to_all(np.uint32(time.time()))))


if __name__ == "__main__":
    program.end(main())
