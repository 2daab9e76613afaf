"""The runs of a table: those that are not made yet, several seeds at once where there are several devices."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lmjax.config import Config
from lmjax.console import say
from lmjax.errors import InputError
from lmjax.results.reproduce.tables import Table
from lmjax.training import Interruption, RunRecord, seeds
from lmjax.training.run_folder import describe
from lmjax.training.runs import train_groups


def folder_of(row: str) -> str:
    """The name of the folder of a row: "poly-2" for poly(2)."""
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
        at_once: seeds to train side by side, at most one a device; None: as many as there are devices.
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
    done = len(jobs) - len(missing)
    devices = jax.local_device_count()
    if at_once is not None and at_once > devices:
        raise InputError(f"--at-once {at_once}: there are {devices} devices: give at most as many")
    side_by_side = bool(jobs) and seeds.side_by_side(jobs[0][1])
    for row, group in _groups(missing, (at_once or devices) if side_by_side else 1):
        say(f"{done} of {len(jobs)} runs are finished")
        source = group[0].data.name, group[0].data.dir
        if source not in datasets:
            datasets[source] = group[0].data.load()
        now = describe(datasets[source])
        if images not in (None, now):
            raise InputError(f"{out}: its runs were trained on other images: give the same, or another --out")
        images = now
        trainers[row], found = train_groups(
            group, at_once, name=f"{row}, ", like=trainers.get(row), dataset=datasets[source], interruption=interruption
        )
        diverged += [f"{row}, seed {one.seed}" for one in group if one.seed not in found]
        done += len(found)
    say(f"{done} of {len(jobs)} runs are finished")
    return diverged


def _groups(jobs: list[tuple[str, Config]], at_once: int) -> Iterator[tuple[str, list[Config]]]:
    """The runs of a row from some seeds: from the first seeds those of every row, then from the next seeds."""
    numbers = sorted({config.seed for _, config in jobs})
    for i in range(0, len(numbers), at_once):
        wanted = numbers[i : i + at_once]
        for row in dict.fromkeys(row for row, _ in jobs):
            if found := [config for other, config in jobs if other == row and config.seed in wanted]:
                yield row, found


def _look(config: Config) -> dict[str, Any] | None:
    """The summary of a run; None if it is not finished, or not begun."""
    record = RunRecord(config.workdir)
    if record.started:
        record.require_same(config)
        return record.summary()
    try:
        record.require_none()
    except InputError as error:
        raise InputError(f"{record.directory}: holds a run without a config.json: move it away") from error
    return None
