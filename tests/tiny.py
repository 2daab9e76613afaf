"""A network of two blocks, and a run of it, for tests that are not about networks: it compiles in half the time.

Programs that tests start take it as `--config tests/tiny.py`.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from unittest import mock

import numpy as np

from lmjax import networks
from lmjax.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lmjax.data import Photographs
from lmjax.networks.network import Architecture
from lmjax.training import Trainer
from lmjax.training.state import settings
from tests import UNOPTIMIZED

ROOT = Path(__file__).parent.parent


@networks.register
def tiny() -> Architecture:
    """One stage of two blocks."""
    return Architecture((2,), (8,), 8)


config = Config(
    data=DataConfig("digits", augment=("crop(1)",)),
    model=ModelConfig("tiny", "lm"),
    optimizer=OptimizerConfig(learning_rate=0.2),
    train=TrainConfig(epochs=2, batch_size=64, eval_batch_size=72),
)


def git_environment() -> dict[str, str]:
    """The environment of git in a test, without the user's settings and hooks, and without another repository."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    who = {f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return ours | who | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def said_on(page: str) -> str:
    """The text of a page of the documentation, without its line breaks."""
    return " ".join((ROOT / page).read_text().split())


def changed(config: Config, **changes) -> Config:
    """The config with other values: of a section, those of a dict."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        },
    )


_trainers = {}


def create_trainer(config: Config, dataset, mesh=None, seeds=None, begins=True):
    """`Trainer(...)` with the compiled programs of an earlier one, if that differs in seeds and folders alone."""
    if isinstance(dataset, Photographs):
        return Trainer(config, dataset, mesh, seeds, begins)
    seeds = (config.seed,) if seeds is None else tuple(seeds)
    alike = dataclasses.replace(config, seed=0, workdir=None, checkpoint=CheckpointConfig())
    names, train, test = (dataset.name, dataset.classes, dataset.broken), dataset.train, dataset.test
    arrays = train.images, train.labels, test.images, test.labels, dataset.mean, dataset.std
    contents = hash((names, *(np.asarray(array).tobytes() for array in arrays)))
    key = (alike, contents, mesh, len(seeds), *settings().values())
    if key not in _trainers:
        _trainers[key] = Trainer(config, dataset, mesh, seeds, begins)
        return _trainers[key]
    trainer = _trainers[key].reseeded(*seeds, begins=begins)
    trainer.config = config
    return trainer


@contextlib.contextmanager
def cheap():
    """Runs use the compiled programs of earlier ones, and draw no pictures."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("lmjax.training.loop.Trainer", create_trainer))
        stack.enter_context(mock.patch("lmjax.training.run_folder._draw"))
        yield stack


def without_times(rows: list[dict]) -> list[dict]:
    """The metrics that are the same when a run is made again."""
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "wall_seconds")} for row in rows]


def logged(workdir: Path) -> list[dict]:
    """The metrics of a run, an epoch each."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def rows(workdir: Path) -> list[dict]:
    """The metrics of a run without times, an epoch each."""
    return without_times(logged(workdir))


def environment(**variables: str) -> dict[str, str]:
    """The environment of a program that trains, on one device."""
    return {
        **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": UNOPTIMIZED, **variables,
    }  # fmt: skip
