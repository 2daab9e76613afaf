"""Runs in folders, and weights in files: opened one after another, and measured on the same test images."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import lmjax
from lmjax import devices, weights
from lmjax.config import Config, DataConfig, to_dict
from lmjax.console import printable, say
from lmjax.errors import InputError
from lmjax.results.runs import Run, distinct, find, labels
from lmjax.results.statistics import Spread
from lmjax.training import Checkpoints, RunRecord, TrainedNetwork
from lmjax.training.run_folder import versions


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run, and what was measured of it.

    Attributes:
        label: what to call it: network and scheme, and its folder where others are called the same. The seeds in one
            folder have one label, and no others have it.
        about: what it is, as plain data: folder, config, step, images, versions.
        values: what was measured.
    """

    label: str
    about: dict[str, Any]
    values: Any


def measured(
    folders: Sequence[Path],
    measure: Callable[[TrainedNetwork, np.ndarray, np.ndarray], Any],
    require: Callable[[nnx.Module], None] | None = None,
    *,
    images: int,
    at: str | int = "latest",
    seed: int = 0,
    data: str | None = None,
    data_dir: str | None = None,
) -> list[Measured]:
    """Measures every run in some folders; before that, all of them are looked at.

    Args:
        folders: of a run, or of several seeds of one, each; or a .safetensors file of weights.
        measure: called with the opened run, and test images and their labels: the same for all runs on a data set.
        require: raises InputError if a network, of which the arrays are only shapes, cannot be measured.
        images: how many test images.
        at: which checkpoint: "latest", "best", or a step.
        seed: draws the images.
        data: the data set for weights.
        data_dir: the folder of the data, if it has moved, or of that for weights.

    Raises:
        InputError: if one of them cannot be opened or measured.
    """
    files = list(filter(weights.is_file, map(Path, folders)))
    runs = find(path for path in folders if Path(path) not in files)
    runs += [_of_weights(path, name, data, data_dir) for path, name in zip(files, distinct(files), strict=True)]
    for run in runs:
        _require_measurable(run, at, require)
    found = []
    for run in runs:
        directory = run.record.directory
        options = {"config": run.config} if directory in files else {"at": at, "data_dir": data_dir}
        with lmjax.load(directory, **options) as trained:
            pixels, classes = trained.test_sample(images, seed)
            say(f"{directory}: {trained.name}, step {trained.step:,}, {len(classes):,} test images")
            found.append((trained.name, _about(trained, len(classes), seed), measure(trained, pixels, classes)))
    titles, abouts, values = zip(*found, strict=True)
    return [Measured(*each) for each in zip(labels(runs, titles), abouts, values, strict=True)]


def _of_weights(path: Path, name: str, data: str | None, data_dir: str | None) -> Run:
    """A file of weights as a run that has not begun."""
    if data is None:
        raise InputError(f"{path}: has weights, and no images: give a data set, as in --data 'photographs(224)'")
    config = Config(model=weights.read(path).model, data=DataConfig(name=data, dir=data_dir))
    return Run(RunRecord(path), path, config, [], None, printable(name))


def _require_measurable(run: Run, at: str | int, require: Callable[[nnx.Module], None] | None) -> None:
    """Checks what can be checked of a run without its data and its arrays."""
    directory, config = run.record.directory, run.config
    if require is not None:
        try:
            require(config.model.outline(classes=2, cin=3))
        except InputError as error:
            raise InputError(f"{directory}: {error}") from error
    if os.path.isfile(directory):
        if at != "latest":
            raise InputError(f"{directory}: has weights, and no checkpoints: leave out --at")
        return
    # What is damaged is reported when the run is opened.
    with Checkpoints(directory / "checkpoints", read_only=True, report=lambda line: None) as checkpoints:
        checkpoints.choose(at)


def grouped(results: list[Measured], key: str) -> dict[str, list[Any]]:
    """A value of the runs by label, those of the seeds of one together."""
    groups = {}
    for result in results:
        groups.setdefault(result.label, []).append(result.values[key])
    return groups


def _about(trained: TrainedNetwork, images: int, seed: int) -> dict[str, Any]:
    return {
        "run": str(trained.record.directory),
        "config": to_dict(trained.config),
        "step": trained.step,
        "data": trained.dataset.name,
        "images": images,
        "seed": seed,
        "device": devices.describe(),
        "versions": versions(),
    }


def as_json(results: list[Measured], **others: Any) -> str:
    """The measurements as JSON; what is not finite becomes null."""
    runs = [{"label": result.label, **result.about, **plain(result.values)} for result in results]
    return json.dumps({"runs": runs, **plain(others)}, indent=2, allow_nan=False) + "\n"


def plain(values: Any) -> Any:
    """Arrays, numbers and what holds them, as JSON has them."""
    if isinstance(values, Spread):
        values = values._asdict()
    if isinstance(values, dict):
        return {str(key): plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain(value) for value in values]
    if hasattr(values, "tolist"):
        return plain(values.tolist())
    return None if isinstance(values, float) and not math.isfinite(values) else values
