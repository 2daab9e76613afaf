"""What the runs of a table have come to: errors over seeds, and paired differences with their uncertainty."""

import dataclasses
import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

from scipy import stats

from lmjax.errors import InputError
from lmjax.reproduce.runs import folder_of
from lmjax.reproduce.tables import Table
from lmjax.training import Record

CONFIDENCE = 0.95
_ABOUT = "about.json"  # beside the rows
_FILES = ("config.json", "metrics.jsonl", "summary.json")


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean difference of two rows over the seeds that both have, in percentage points of test error.

    Attributes:
        count: how many seeds.
        mean: negative where the row is better than its baseline.
        half_width: of the two-sided 95% confidence interval, from Student's t distribution with count - 1 degrees of
            freedom; None for a single seed.
    """

    count: int
    mean: float
    half_width: float | None


def describe(out: Path, table: str, data: str | None, *, default: str) -> None:
    """Writes into the folder of a table's runs which table they are of, and what to say of their data.

    Args:
        out: the folder.
        table: the name of the table.
        data: what to say; None for what was said before.
        default: what to say if nothing was.

    Raises:
        InputError: if it holds the runs of another table.
    """
    said = about(out) if (out / _ABOUT).exists() else {"table": table, "data": default}
    if said["table"] != table:
        raise InputError(f"{out}: holds the runs of the table {said['table']!r}: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / _ABOUT).write_text(json.dumps({"table": table, "data": data or said["data"]}, indent=2) + "\n")


def about(out: Path) -> dict[str, str]:
    """{"table", "data"}, as `describe` has written them.

    Raises:
        InputError: if the folder holds no runs of a table.
    """
    try:
        said = json.loads((out / _ABOUT).read_text())
        return {"table": said["table"], "data": said["data"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out}: holds no runs of a table ({_ABOUT}: {error})") from error


def collect(table: Table, out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """The summaries of the finished runs of a table, by row and seed.

    Raises:
        InputError: if a run there is not that of the table.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row, config in table.rows.items():
        found[row] = {}
        for path in sorted((out / folder_of(row)).glob("seed*/summary.json"), key=lambda path: _seed(path.parent)):
            record = Record(path.parent)
            record.require_same(config, ("model", "optimizer", "train"))
            found[row][_seed(path.parent)] = record.summary()
    return found


def _seed(folder: Path) -> int:
    number = folder.name.removeprefix("seed")
    if not number.isdecimal():
        raise InputError(f"{folder}: is not the folder of a seed: move it away")
    return int(number)


def errors(summaries: dict[int, dict[str, Any]]) -> dict[int, float]:
    """Test error in percent, after the last epoch, by seed."""
    return {seed: 100 * (1 - summary["test_accuracy"]) for seed, summary in summaries.items()}


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Of a sample: the standard deviation is over n - 1, and None for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def difference(ours: dict[int, float], baseline: dict[int, float]) -> Difference | None:
    """`ours` minus `baseline` over the seeds that both have; None if there is none."""
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return None
    mean, std = mean_and_std([ours[seed] - baseline[seed] for seed in seeds])
    if std is None:
        return Difference(1, mean, None)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)
    return Difference(len(seeds), mean, float(quantile) * std / math.sqrt(len(seeds)))


def export(table: Table, out: Path, to: Path) -> int:
    """Copies what the finished runs have recorded, without checkpoints and pictures; returns how many there are.

    Where the data lay is left out: that is of one machine.
    """
    count = 0
    for row, summaries in collect(table, out).items():
        for seed in summaries:
            source, target = (folder / folder_of(row) / f"seed{seed}" for folder in (out, to))
            target.mkdir(parents=True, exist_ok=True)
            for name in _FILES:
                shutil.copyfile(source / name, target / name)
            config = json.loads((source / "config.json").read_text())
            config["data"]["dir"] = None
            (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            count += 1
    shutil.copyfile(out / _ABOUT, to / _ABOUT)
    return count
