"""What a report is about: runs as their folders have them, those that differ only in the seed together."""

import dataclasses
import itertools
import math
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.config import Config, differences
from lmjax.errors import InputError
from lmjax.training import Record, seeds

_METRICS = ("epoch", "train_loss", "test_accuracy", "images_per_second", "wall_seconds")
_NUMBER = (int, float)
_SUMMARY = {
    "parameters": int,
    "images_per_second": _NUMBER,
    "wall_seconds": _NUMBER,
    "device": str,
    "versions": dict,
    "zero_stability": dict,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run: one seed.

    Attributes:
        record: its folder.
        config: of the run.
        epochs: the rows of metrics.jsonl.
        summary: None while it is unfinished.
        given: the folder that was asked for, which may be that of several seeds.
    """

    record: Record
    config: Config
    epochs: list[dict[str, Any]]
    summary: dict[str, Any] | None
    given: Path

    @property
    def error(self) -> float | None:
        """Test error after the last epoch, in percent; None while it is unfinished."""
        return None if self.summary is None else 100 * (1 - self.summary["test_accuracy"])

    @property
    def best(self) -> tuple[float, int] | None:
        """The lowest test error after an epoch, in percent, and the epoch; None before the first."""
        found = [(100 * (1 - row["test_accuracy"]), row["epoch"]) for row in self.epochs]
        return min(found, default=None)

    def speed(self) -> float | None:
        """Images a second in training, over all epochs."""
        if self.summary and "images_per_second" in self.summary:
            return self.summary["images_per_second"]
        rates = [row["images_per_second"] for row in self.epochs if row["images_per_second"] > 0]
        return statistics.harmonic_mean(rates) if rates else None

    def seconds(self) -> float | None:
        """From the start to the end of the last epoch."""
        return self.epochs[-1]["wall_seconds"] if self.epochs else (self.summary or {}).get("wall_seconds")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """Runs that differ only in the seed.

    Attributes:
        name: what the report calls them.
        runs: by increasing seed.
    """

    name: str
    runs: list[Run]

    @property
    def config(self) -> Config:
        """Of the first seed."""
        return self.runs[0].config

    @property
    def network(self) -> str:
        """What the table calls it."""
        model = self.config.model
        return model.name if model.width == 1 else f"{model.name}, width {model.width:g}"

    @property
    def finished(self) -> list[Run]:
        """Those that have come to their end."""
        return [run for run in self.runs if run.summary is not None]

    @property
    def data(self) -> tuple[str, str | None]:
        """The data set, to be compared with that of other rows: only what was tested on the same is drawn together."""
        return data_of(self.config)

    def error(self) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation of the test error over the finished seeds, in percent."""
        values = [run.error for run in self.finished]
        return (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None) if values else None

    def best_run(self) -> Run | None:
        """The seed with the lowest test error; among unfinished ones, the lowest so far."""
        runs = self.finished or [run for run in self.runs if run.best]
        return min(runs, key=lambda run: run.best[0] if run.error is None else run.error, default=None)


def data_of(config: Config) -> tuple[str, str | None]:
    """What data a run is about: its name, and the folder, where that says which images they are."""
    directory = config.data.dir
    named = directory and config.data.origin.takes.get("directory")
    return config.data.name, os.path.abspath(directory) if named else None


def data_title(config: Config) -> str:
    """What to call the data set."""
    return f"{Path(config.data.dir).name} ({config.data.name})" if data_of(config)[1] else config.data.name


def read(directories: Sequence[str | Path]) -> list[Row]:
    """The runs in folders, in the order given, grouped.

    Args:
        directories: each of one run, or of several seeds (`seed0/`, `seed1/`, ...).

    Raises:
        InputError: naming the folder that holds no run, or the file that cannot be read.
    """
    groups: list[list[Run]] = []
    seen = set()
    for directory in map(Path, directories):
        for run in _runs_in(directory):
            place = os.path.realpath(run.record.directory)
            if place in seen:
                continue
            seen.add(place)
            home = next((group for group in groups if _belongs(run, group)), None)
            groups.append([run]) if home is None else home.append(run)
    for group in groups:
        group.sort(key=lambda run: run.config.seed)
    return [Row(name, group) for name, group in zip(_names(groups), groups, strict=True)]


def _belongs(run: Run, group: list[Run]) -> bool:
    first = group[0].config
    same = not differences(first, run.config).keys() - {"seed"} and data_of(first) == data_of(run.config)
    return same and run.config.seed not in {other.config.seed for other in group}  # the same seed again is no new draw


def _runs_in(directory: Path) -> list[Run]:
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such folder: give that of a run")
    if Record(directory).started:
        return [_read(directory, directory)]
    found = seeds.folders(directory)
    if not found:
        raise InputError(
            f"{directory}: holds no run: neither config.json nor seed0/config.json, ...; give the folder of a run, or "
            "of several seeds"
        )
    return [_read(path, directory) for path in found]


def _read(directory: Path, given: Path) -> Run:
    record = Record(directory)
    config, summary = record.config(), record.summary()
    epochs = record.read_rows() if record.metrics_path.exists() else []
    for number, row in enumerate(epochs, start=1):
        for key in _METRICS:
            if not _is(row.get(key), _NUMBER) or (key == "test_accuracy" and not math.isfinite(row[key])):
                raise InputError(f"{record.metrics_path}: line {number} has no {key}: mend or delete it")
        _require_numbers(row.get("coefficients", {}), f"{record.metrics_path}: line {number}: coefficients")
    for key, kind in _SUMMARY.items():
        if summary and key in summary and not _is(summary[key], kind):
            raise InputError(f"{record.summary_path}: {key} is not what it should be: delete the file")
    _require_numbers((summary or {}).get("zero_stability", {}), f"{record.summary_path}: zero_stability")
    return Run(record, config, epochs, summary, given)


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _require_numbers(values: Any, what: str) -> None:
    try:
        for value in values.values():
            np.asarray(value, np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{what} are not numbers by stage: mend or delete it") from error


def _names(groups: list[list[Run]]) -> list[str]:
    """The last parts of the folders' paths, as many as it takes to tell them apart."""
    places = [_place(group) for group in groups]
    for count in range(1, max((len(place.parts) for place in places), default=0) + 1):
        # "seed0" says too little, whatever the others are.
        counts = [max(count, 1 + bool(re.fullmatch(r"seed\d+", place.name))) for place in places]
        names = [str(Path(*place.parts[-n:])) for place, n in zip(places, counts, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"{place.name} ({number})" for number, place in enumerate(places, start=1)]  # one seed, made twice


def _place(group: list[Run]) -> Path:
    """What the folders of a row have in common: runs/x-seed0, runs/x-seed1 -> runs/x."""
    given = list(dict.fromkeys(Path(os.path.abspath(run.given)) for run in group))
    if len(given) == 1:
        return given[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*map(str, given), strict=False))
    common = "".join(letters[0] for letters in same)
    shared = Path(re.sub(r"[-_. ]*(seed)?[-_. \d]*$", "", common)) if common else given[0]
    if shared == given[0].parent and not re.match(r"seed\d", given[0].name):
        return given[0].with_name(f"{given[0].name} and {len(given) - 1} more")
    return shared
