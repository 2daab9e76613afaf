"""Folders as runs leave them, without a run."""

import dataclasses
import json
from pathlib import Path

from lmjax.config import Config, DataConfig, ModelConfig, TrainConfig, to_dict

CONFIG = Config(DataConfig("digits", augment=("crop(1)",)), ModelConfig("resnet14", "lm"), train=TrainConfig(epochs=3))


def make_run(
    directory: Path,
    config: Config,
    *,
    epochs: int | None = None,
    error: float = 8.0,
    coefficients: dict | None = None,
    **summary,
) -> Path:
    """Writes the files of a run that ends at this test error, in percent; with `epochs`, of one that is not finished.

    The error is 8 points higher an epoch before, and so on, up to 100.
    """
    directory.mkdir(parents=True)
    config = dataclasses.replace(config, workdir=str(directory))
    (directory / "config.json").write_text(json.dumps(to_dict(config)))
    total = config.train.epochs
    rows = [
        {
            "epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "images_per_second": 100.0,
            "test_accuracy": max(0, 1 - (error + 8 * (total - epoch)) / 100), "wall_seconds": 60.0 * epoch,
            "coefficients": coefficients or {},
        }
        for epoch in range(1, (total if epochs is None else epochs) + 1)
    ]  # fmt: skip
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if epochs is None:
        end = {"test_accuracy": 1 - error / 100, "images_per_second": 100.0, "wall_seconds": 60.0 * total}
        (directory / "summary.json").write_text(json.dumps(end | summary))
    return directory
