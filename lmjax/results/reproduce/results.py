"""The finished runs of a table: collected, and copied to be kept."""

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmjax import files, networks
from lmjax.config import Config, to_dict
from lmjax.console import printable
from lmjax.errors import InputError
from lmjax.results.reproduce.cost import outline
from lmjax.results.reproduce.runs import folder_of, place
from lmjax.results.reproduce.tables import Table
from lmjax.results.runs import Run, error_of, read_run
from lmjax.training import RunRecord, learning_rate
from lmjax.training.checkpoint_folder import newest_about
from lmjax.training.run_record import seed_folders

_AGAIN = "move its folder away, and make the run again"
_ABOUT = "about.json"  # beside the folders of the rows: a description of the data


def note(out: Path) -> str | None:
    """The description of the data that is kept beside the runs in a folder; None if there is none.

    Raises:
        InputError: if it cannot be read.
    """
    path = out / _ABOUT
    try:
        said = json.loads(files.read(path))["data"]
        if not isinstance(said, str):
            raise ValueError("data is no text")
        return " ".join(printable(said).split())  # one line of a page
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise InputError(f"{out}: is a file, or below one: choose another --out") from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: says nothing of the data ({error}): delete it, and give --data-note again"
        ) from error


def write_note(out: Path, data: str) -> None:
    """Keep a description of the data beside the runs in a folder.

    Args:
        out: the folder of the runs.
        data: the description, such as the text of --data-note.

    Raises:
        InputError: if it cannot be written.
    """
    with files.writing(out):
        files.make_folder(out)
        files.write(out / _ABOUT, json.dumps({"data": data}, indent=2) + "\n")


def collect(table: Table, out: Path) -> dict[str, dict[int, Run]]:
    """The finished runs of a table, by row and seed.

    Raises:
        InputError: if a run there is not what the table says, or was trained on other images than the rest.
    """
    found: dict[str, dict[int, Run]] = {}
    images: dict[Path, Any] = {}
    for row, config in table.rows.items():
        found[row] = {}
        for folder in seed_folders(out / folder_of(row)):
            if RunRecord(folder).summary() is None:  # then its other files may be mended by going on
                continue
            run = read_run(folder)
            assert run.summary is not None
            seed, held = int(folder.name.removeprefix("seed")), run.config.data
            data = {"dir": held.dir} | ({"name": held.name} if held.name in table.images.stored else {})
            run.record.require_same(
                place(config, row, seed, out, data), ("seed", "data", "model", "optimizer", "train", "init")
            )
            if missing := {"device", "versions", "wall_seconds", "parameters", "steps"} - run.summary.keys():
                said = " and no ".join(sorted(missing))
                raise InputError(f"{run.record.summary_path}: has no {said}: {_AGAIN}")
            _require_whole(run, networks.parameter_count(outline(config.model, table.images)))
            images[folder] = held.name, run.summary.get("data")  # an earlier version has not noted it
            found[row][seed] = run
    _require_one(images)
    return found


def finished(table: Table, out: Path) -> dict[str, dict[int, Run]]:
    """As `collect`, but with InputError if there is none."""
    found = collect(table, out)
    if not any(found.values()):
        raise InputError(f"{out}: holds no finished run of this table")
    return found


def _require_whole(run: Run, parameters: int) -> None:
    """The rows of metrics are those of the whole run, and end as its summary says; its network has its parameters."""
    last, held = run.config.train.epochs, run.summary or {}
    numbers = [row["epoch"] for row in run.epochs]
    ends = [(row["test_accuracy"], row["step"]) for row in run.epochs[-1:]]
    if numbers != list(range(1, last + 1)) or ends != [(held["test_accuracy"], held["steps"])]:
        anew = "and the same command without --only-report writes both anew from its checkpoint"
        kept = newest_about(run.record.directory / "checkpoints") is not None
        cure = f"delete {run.record.summary_path}, {anew}" if kept else _AGAIN
        raise InputError(
            f"{run.record.metrics_path}: has not the epochs 1 to {last} of the run that its summary is of: {cure}"
        )
    logged = [(row["step"] - 1, row["learning_rate"]) for row in run.epochs if "learning_rate" in row]
    numbers = all(isinstance(rate, (int, float)) for _, rate in logged)
    if logged and not (numbers and np.allclose(*_rates(run.config, held["steps"] // last, logged), rtol=1e-4)):
        raise InputError(
            f"{run.record.metrics_path}: has other learning rates than its config says, as of a run that was made "
            f"longer: {_AGAIN}"
        )
    if held["parameters"] != parameters:
        raise InputError(
            f"{run.record.summary_path}: is of a network with {held['parameters']:,} parameters, and its config of one "
            f"with {parameters:,}: {_AGAIN}"
        )


def _rates(config: Config, steps_per_epoch: int, logged: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The learning rates that were logged at some steps, and those of the config."""
    steps, rates = map(np.array, zip(*logged, strict=True))
    train = config.train
    rate = learning_rate(
        config.optimizer, steps_per_epoch=steps_per_epoch, epochs=train.epochs, batch_size=train.batch_size
    )
    return rates, np.asarray(jax.vmap(rate)(steps))


def _require_one(images: dict[Path, Any]) -> None:
    """All were trained on the same images, as far as their summaries say."""
    (first, (name, about)), *others = images.items() or [(None, (None, None))]
    for folder, (other_name, other) in others:
        if other_name != name or (None not in (other, about) and other != about):
            raise InputError(
                f"{first} and {folder}: were trained on different images: move the runs away that are not on yours"
            )
        about = about or other


def errors(runs: Mapping[int, Run]) -> dict[int, float]:
    """Test error in percent, after the last epoch, by seed."""
    return {seed: error_of(run.summary) for seed, run in runs.items()}


def losses(runs: Mapping[int, Run]) -> dict[int, float]:
    """Mean training loss of the last epoch, by seed."""
    return {seed: _loss_of(run.epochs[-1]) for seed, run in runs.items()}


def epochs_to(level: float, runs: Mapping[int, Run]) -> dict[int, float]:
    """The epochs until the test error is first at most a level, by seed; infinite for a run that never reaches it.

    Between the ends of two epochs the error is taken as linear; it is at least one epoch.
    """
    return {seed: _epochs_to(level, [error_of(row) for row in run.epochs]) for seed, run in runs.items()}


def _epochs_to(level: float, errors: list[float]) -> float:
    for i, error in enumerate(errors):
        if error <= level:
            return i + (1.0 if i == 0 else (errors[i - 1] - level) / (errors[i - 1] - error))
    return math.inf


def by_epoch(runs: Mapping[int, Run], measure: str) -> list[dict[int, float]]:
    """One of `MEASURES` after each epoch, by seed."""
    epochs = zip(*(run.epochs for run in runs.values()), strict=False)
    return [dict(zip(runs, map(MEASURES[measure], rows), strict=True)) for rows in epochs]


_loss_of = operator.itemgetter("train_loss")
MEASURES = {"test errors, points": error_of, "training losses": _loss_of}
"""What is compared epoch by epoch: functions of a row of metrics."""


def require_place(out: Path, to: Path) -> None:
    """Check that runs can be copied to a folder.

    Raises:
        InputError: if it is that of the runs, or a file.
    """
    if to.exists() and not to.is_dir():
        raise InputError(f"--export {to}: is a file: choose a folder")
    if to.resolve() in (out.resolve(), *out.resolve().parents) or out.resolve() in to.resolve().parents:
        raise InputError(f"--export {to}: holds the runs themselves, or is among them: choose another folder")


def export(table: Table, out: Path, to: Path) -> int:
    """Copy what the finished runs have recorded, without checkpoints and pictures, and beside what is there already.

    Where the runs and their data lay is left out: that is of one machine.

    Returns:
        How many runs of the table are there then.

    Raises:
        InputError: if there is no run, or the folder holds others, or cannot be written.
    """
    require_place(out, to)
    before = collect(table, to)
    if any(before.values()) and note(to) != note(out):
        raise InputError(f"--export {to}: says {note(to)!r} of its data, and {out} says {note(out)!r}: choose another")
    copies = []
    for row, runs in finished(table, out).items():
        for seed, run in runs.items():
            target = RunRecord(files.inside(to, folder_of(row), f"seed{seed}"))
            if (target.directory / "checkpoints").exists():
                raise InputError(f"--export {target.directory}: is a run itself: choose another folder")
            if seed in before[row] and repr(before[row][seed].epochs) != repr(run.epochs):  # NaN is not equal to itself
                raise InputError(
                    f"--export {target.directory}: has other numbers than {run.record.directory}: choose another "
                    "folder, or move that one away"
                )
            copies.append((run.record, target))
    for source, target in copies:
        config = dataclasses.replace(source.config(), workdir=None)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=None))
        with files.writing(to, "--export"):
            files.make_folder(target.directory)
            files.write(target.metrics_path, files.read(source.metrics_path))
            files.write(target.summary_path, files.read(source.summary_path))
            files.write(target.config_path, json.dumps(to_dict(config), indent=2) + "\n")
    if (said := note(out)) is not None:
        write_note(to, said)
    return sum(map(len, collect(table, to).values()))
