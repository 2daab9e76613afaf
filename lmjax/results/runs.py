"""The runs in folders: read, checked, and named; those that differ only in the seed have one name."""

import collections
import dataclasses
import math
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.config import Config, differences, flatten, to_dict
from lmjax.console import printable
from lmjax.errors import InputError, optional_import
from lmjax.results.coefficients import LARGEST, Coefficients
from lmjax.training import RunRecord
from lmjax.training.run_record import seed_folders

_ROW = ("epoch", "train_loss", "test_accuracy", "images_per_second", "wall_seconds", "coefficients")
_SUMMARY = ("parameters", "images_per_second", "wall_seconds", "device", "versions", "zero_stability")


@dataclasses.dataclass(eq=False)
class Run:
    """One run, from one seed.

    Attributes:
        record: its folder.
        given: the folder that was asked for, which may be that of several seeds.
        config: of the run.
        epochs: the rows of metrics.jsonl.
        summary: None while it is unfinished.
        name: of this run and of those that differ only in the seed.
    """

    record: RunRecord
    given: Path
    config: Config
    epochs: list[dict[str, Any]]
    summary: dict[str, Any] | None
    name: str = ""

    @property
    def title(self) -> str:
        """Network and scheme: "resnet20, lm"."""
        return ", ".join(filter(None, (self.config.model.name, self.config.model.stepper)))

    @property
    def data(self) -> str:
        """The name of the data set."""
        name, folder = data_of(self.config)
        return f"{Path(folder).name} ({name})" if folder else name

    def coefficients(self, kind: type[Coefficients] = Coefficients) -> Any:
        """The learned coefficients; see `Coefficients.of`."""
        return kind.of(
            self.epochs, self.config.model.scheme(), self.record.directory, f"{self.title}, {self.config.data.name}"
        )

    def about(self) -> dict[str, Any]:
        """The name, seed, folder and config, for a table."""
        config = {key: x for key, x in flatten(to_dict(self.config)).items() if key != "workdir"}
        about = {"run": self.name, "seed": config.pop("seed"), "folder": str(self.record.directory), **config}
        return {key: printable(x) if isinstance(x, str) else x for key, x in about.items()}

    def result(self) -> dict[str, Any]:
        """The results so far: errors in percent, speed over all epochs; None where nothing is known."""
        summary = self.summary or {}
        best, epoch = min(((error_of(row), row["epoch"]) for row in self.epochs), default=(None, None))
        rates = [row["images_per_second"] for row in self.epochs if row["images_per_second"] > 0]
        found = {
            "images_per_second": statistics.harmonic_mean(rates) if rates else None,
            "test_error": error_of(summary) if summary else None,
            "best_error": best, "best_epoch": epoch,
            "epochs": len(self.epochs), "finished": self.summary is not None,
        } | {key: value for key, value in summary.items() if key not in ("seed", "epochs")}  # fmt: skip
        if summary and not self.epochs:
            found["epochs"] = self.config.train.epochs
        return found | {"wall_seconds": self.epochs[-1]["wall_seconds"] if self.epochs else summary.get("wall_seconds")}


def error_of(row: dict[str, Any]) -> float:
    """Test error in percent, of a row of metrics or a summary."""
    return 100 * (1 - row["test_accuracy"])


def metrics(runs: Iterable[Run]) -> Any:
    """A row a run and epoch; see `results.read`."""
    pandas = optional_import("pandas", package="pandas", purpose="a table of runs")
    rows = [run.about() | row | {"test_error": error_of(row)} for run in runs for row in run.epochs]
    return pandas.DataFrame(rows)


def summaries(runs: Iterable[Run]) -> Any:
    """A row a run; see `results.summaries`."""
    pandas = optional_import("pandas", package="pandas", purpose="a table of runs")
    return pandas.DataFrame([run.about() | run.result() for run in runs])


def find(directories: str | Path | Iterable[str | Path]) -> list[Run]:
    """The runs in folders, as `groups` has them."""
    return [run for group in groups(directories) for run in group]


def groups(directories: str | Path | Iterable[str | Path]) -> list[list[Run]]:
    """The runs in folders, in the order given, each once; those that differ only in the seed together, by the seed.

    Args:
        directories: each of one run, or of several seeds (`seed0/`, `seed1/`, ...); one alone need not be in a list.

    Raises:
        InputError: naming the folder that holds no run, or the file that cannot be read.
    """
    if isinstance(directories, (str, os.PathLike)):
        directories = [directories]
    found: list[list[Run]] = []
    seen = set()
    for directory in map(Path, directories):
        together: list[list[Run]] = []  # of this folder: another one has all of them, or none
        for path in seeds_of(directory):
            if (place := os.path.realpath(path)) not in seen:
                seen.add(place)
                _join([read_run(path, directory)], together)
        for runs in together:
            _join(runs, found)
    for name, group in zip(_names(found), found, strict=True):
        group.sort(key=lambda run: run.config.seed)
        for run in group:
            run.name = printable(name)
    return found


def seeds_of(directory: Path) -> list[Path]:
    """The folder itself if it holds a run, else those of its seeds.

    Raises:
        InputError: if it holds neither.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory}: there is no such folder: give that of a run")
    if RunRecord(directory).started:
        return [directory]
    if found := seed_folders(directory):
        return found
    raise InputError(
        f"{directory}: holds no run: neither config.json nor seed0/config.json, ...; give the folder of a run, or of "
        "several seeds"
    )


def read_run(directory: Path, given: Path | None = None) -> Run:
    """The run in a folder.

    Args:
        directory: the folder of one seed.
        given: the folder that was asked for, if it is another; see `Run`.

    Raises:
        InputError: if a file, or a line of metrics.jsonl, is not what a run writes; names it.
    """
    record = RunRecord(directory)
    config, summary = record.config(), record.summary()
    epochs = [_finite(row) for row in (record.read_rows() if record.metrics_path.exists() else [])]
    for number, row in enumerate(epochs, start=1):
        _require({"coefficients": {}} | row, _ROW, f"{record.metrics_path}: line {number}")
    if summary is not None:
        summary = _finite(summary)
        _require(summary, [key for key in _SUMMARY if key in summary], str(record.summary_path))
    return Run(record, directory if given is None else given, config, epochs, summary)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with NaN for what is not known, and for numbers that no table or picture can hold."""
    return {key: math.nan if x is None or (_number(x) and not abs(x) <= LARGEST) else x for key, x in values.items()}


def _require(values: dict[str, Any], keys: Iterable[str], place: str) -> None:
    for key in keys:
        if not _fits(key, values.get(key)):
            raise InputError(f"{place}: {key} is not what a run writes: mend or delete it")


def _fits(key: str, value: Any) -> bool:
    if key in ("coefficients", "zero_stability"):
        try:
            return all(array.ndim and array.size for array in (np.asarray(x, np.float64) for x in value.values()))
        except (AttributeError, TypeError, ValueError, OverflowError):
            return False
    kind = {"epoch": int, "parameters": int, "device": str, "versions": dict}.get(key, (int, float))
    fits = isinstance(value, kind) and not isinstance(value, bool)
    return fits and (
        key == "train_loss" or not _number(value) or 0 <= value <= (1 if key == "test_accuracy" else math.inf)
    )


def _number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _join(runs: list[Run], groups: list[list[Run]]) -> None:
    """Put runs into the first group where all of them belong, or make them a group."""
    home = next((group for group in groups if all(_belongs(run, group) for run in runs)), None)
    groups.append(runs) if home is None else home.extend(runs)


def _belongs(run: Run, group: list[Run]) -> bool:
    first = group[0].config
    same = not differences(first, run.config).keys() - {"seed"} and data_of(first) == data_of(run.config)
    return same and run.config.seed not in {other.config.seed for other in group}  # the same seed again is no new draw


def data_of(config: Config) -> tuple[str, str | None]:
    """The name of the data, and the folder, where that says which images they are."""
    directory = config.data.dir
    named = directory and config.data.origin.takes.get("directory")
    return config.data.name, os.path.abspath(directory) if named else None


def _names(groups: list[list[Run]]) -> list[str]:
    places = [_place(group) for group in groups]
    names = distinct(places)
    if len(set(names)) == len(names):
        return names
    return [f"{place.name} ({number})" for number, place in enumerate(places, start=1)]  # one seed, made twice


def _place(group: list[Run]) -> Path:
    """The common part of the folders of a group: runs/x-seed0, runs/x-seed1 -> runs/x."""
    given = list(dict.fromkeys(Path(os.path.abspath(run.given)) for run in group))
    if len(given) == 1:
        return given[0]
    shared = Path(re.sub(r"[-_. ]*(seed)?[-_. \d]*$", "", os.path.commonprefix([*map(str, given)])) or given[0])  # noqa: RUF071
    others = re.compile(r"[-_. \d]*(seed)?[-_. \d]*(/seed\d+)?")  # what the seeds may differ in
    named = all(others.fullmatch(str(each).removeprefix(str(shared))) for each in given)
    if not named:
        return given[0].with_name(f"{given[0].name} and {len(given) - 1} more")
    return shared


def distinct(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths of different folders, as many as it takes to tell them apart."""
    places = [Path(os.path.abspath(folder)) for folder in folders]
    least = [2 if re.fullmatch(r"seed\d+", place.name) else 1 for place in places]  # "seed0" alone says too little
    for count in range(1, max((len(place.parts) for place in places), default=1) + 1):
        names = [str(Path(*place.parts[-max(count, n) :])) for place, n in zip(places, least, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def labels(runs: Sequence[Run], titles: Sequence[str]) -> list[str]:
    """The titles of runs, such as "resnet20, lm", each with the name of the run where others have the same title."""
    pairs = [(title, run.name) for title, run in zip(titles, runs, strict=True)]
    count = collections.Counter(title for title, _ in set(pairs))
    return [title if count[title] == 1 else f"{title} ({name})" for title, name in pairs]
