"""Makes the runs of a table, several at once where that is faster; what is done already is not done again."""

import contextlib
import dataclasses
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.reproduce.tables import Table
from lmjax.training import Diverged, Interruption, Record, Run, seeds
from lmjax.training.console import say, warn
from lmjax.training.run import describe


def folder_of(row: str) -> str:
    """What the folder of a row is called: "poly-2" for poly(2)."""
    return re.sub(r"\W+", "-", row).strip("-")


def place(config: Config, row: str, seed: int, out: Path, data: dict[str, str]) -> Config:
    """The run of a row from a seed: in `<out>/<row>/seed<N>`, as train.py would have it with --seeds."""
    config = dataclasses.replace(
        config, workdir=str(out / folder_of(row)), data=dataclasses.replace(config.data, **data)
    )
    return seeds.of_seed(config, seed)


def order(table: Table, count: int | None) -> Iterator[tuple[str, int]]:
    """(row, seed), seed by seed, so that whatever is there when one stops is paired.

    Args:
        table: the table.
        count: how many seeds of every row; None for as many as the table asks for.
    """
    wanted = {row: table.seeds[row] if count is None else count for row in table.rows}
    for seed in range(max(wanted.values())):
        yield from ((row, seed) for row in table.rows if seed < wanted[row])


def make(
    table: Table, out: Path, *, count: int | None = None, at_once: int | None = None, data: dict[str, str] | None = None
) -> list[str]:
    """Makes all runs of a table that are not there yet, and goes on with those that are not finished.

    Args:
        table: the table.
        out: the folder that holds them.
        count: see `order`.
        at_once: how many runs to make at the same time; None: `lmjax.training.seeds.at_once`.
        data: fields of `DataConfig` to replace, such as its name and folder.

    Returns:
        Which runs have diverged, and so are missing: that keeps no other from being made.

    Raises:
        InputError: for what the user has to mend.
        Stopped: if it was asked to stop; all is saved.
    """
    jobs = [(row, place(table.rows[row], row, seed, out, data or {})) for row, seed in order(table, count)]
    summaries = {config.workdir: _look(config) for _, config in jobs}  # before hours go into the first
    missing = [(row, config) for row, config in jobs if summaries[config.workdir] is None]
    images = next((s["data"] for s in summaries.values() if s is not None and "data" in s), None)
    interruption, trainers, datasets, diverged = Interruption(), {}, {}, []
    done, number = len(jobs) - len(missing), at_once or seeds.at_once()
    for group in (missing[i : i + number] for i in range(0, len(missing), number)):
        say(f"{done} of {len(jobs)} runs are finished")
        with contextlib.ExitStack() as stack:
            stories = {}
            for row, config in group:
                name = f"{row}, seed {config.seed}"
                say(f"{name}:")
                resume = Record(config.workdir).started
                like, source = trainers.get(row), (config.data.name, config.data.dir)
                run = Run(config, interruption, resume=resume, like=like, dataset=datasets.get(source), name=name)
                stories[name] = _unless_diverged(name, run.story())
                stack.callback(stories[name].close)
                trainers[row] = next(stories[name])
                datasets[source] = trainers[row].dataset
                now = describe(trainers[row].dataset)
                if images not in (None, now):
                    raise InputError(f"{out}: its runs were trained on other images: give the same, or another --out")
                images = now
            ended = dict(zip(stories, seeds.side_by_side(list(stories.values())), strict=True))
        diverged += [name for name in ended if ended[name] is None]
        done += sum(summary is not None for summary in ended.values())
    say(f"{done} of {len(jobs)} runs are finished")
    return diverged


def _look(config: Config) -> dict[str, Any] | None:
    """The summary of a run; None if it is not finished, or not begun."""
    record = Record(config.workdir)
    if record.started:
        record.require_same(config)
        return record.summary()
    try:
        record.require_none()
    except InputError as error:
        raise InputError(f"{record.directory}: holds a run without a config.json: move it away") from error
    return None


def _unless_diverged(name: str, story: Generator) -> Generator:
    """A run that returns None if it has diverged, which is to end no other."""
    try:
        return (yield from story)
    except Diverged as error:
        warn(f"{name}: {error}")
        return None
