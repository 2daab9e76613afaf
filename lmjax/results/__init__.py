"""The records of runs: as tables, statistics and pictures, as one page, and next to what was published.

`read` and `summaries` give pandas tables. `statistics` has means over seeds and paired differences, `plots` the
pictures, `report` the page, `published` the published results, and `reproduce` the runs that repeat them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["read", "summaries"]


def read(runs: str | Path | Iterable[str | Path]) -> Any:
    """The metrics of runs as a pandas table: a row for each run and epoch.

    Args:
        runs: a folder, or several, each of one run or of several seeds.

    Returns:
        The columns are "run", which is the same for runs that differ only in the seed; "seed", "folder"; the keys of
        the config, as "model.stepper"; the metrics of metrics.jsonl; and "test_error", in percent.

    Raises:
        InputError: naming the folder that holds no run, or the file that cannot be read; if pandas is not installed.
    """
    from lmjax.results.runs import find, metrics

    return metrics(find(runs))


def summaries(runs: str | Path | Iterable[str | Path]) -> Any:
    """The results of runs as a pandas table: a row for each run, finished or not.

    Args:
        runs: a folder, or several, each of one run or of several seeds.

    Returns:
        The first columns are those of `read`. "finished" and "epochs" say how far the run is; "test_error" is the one
        of its end, "best_error" and "best_epoch" the least of all epochs, in percent. The others are those of
        summary.json, such as "parameters".

    Raises:
        InputError: see `read`.
    """
    from lmjax.results import runs as folders

    return folders.summaries(folders.find(runs))
