"""Folders of runs, made without training."""

import json
import shutil

from lmjax.config import Config, DataConfig, ModelConfig
from lmjax.training import RunRecordWriter, integrity


def write_run(directory, stepper, epochs, *, seed=0, name="resnet20"):
    """A run whose metrics have these coefficients, one dict {"stage1": [...], ...} an epoch."""
    config = Config(data=DataConfig("digits"), model=ModelConfig(name, stepper), seed=seed, workdir=str(directory))
    with RunRecordWriter(directory) as record:
        record.start(config)
        for number, coefficients in enumerate(epochs, start=1):
            metrics = dict.fromkeys(("train_loss", "test_accuracy", "images_per_second", "wall_seconds"), 0.5)
            record.log({"epoch": number, "step": 10 * number, **metrics, "coefficients": coefficients})
    return directory


OWN_SCHEME = """
from lmjax import steppers

steppers.register(lambda: steppers.euler(), name="own_euler")
"""


def own_run(run, directory):
    """A copy of a run of `euler` whose scheme is the one that `OWN_SCHEME` registers."""
    return rewritten(run, directory, model={"stepper": "own_euler"})


def rewritten(run, directory, **sections):
    """A copy of a run with another config: of each section, these keys."""
    shutil.copytree(run, directory)
    config = json.loads((directory / "config.json").read_text())
    for name, keys in sections.items():
        config[name] |= keys
    (directory / "config.json").write_text(json.dumps(config))
    for checkpoint in (directory / "checkpoints").iterdir():
        about = checkpoint / "about" / "metadata"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"config": config}))
        integrity.seal(checkpoint)
    return directory
