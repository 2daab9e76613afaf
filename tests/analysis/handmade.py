"""Folders of runs, made without training."""

from lmjax.config import Config, DataConfig, ModelConfig
from lmjax.training import Record


def write_run(directory, stepper, epochs, *, seed=0):
    """A run whose metrics have these coefficients, one dict {"stage1": [...], ...} an epoch."""
    config = Config(
        data=DataConfig(name="digits"), model=ModelConfig("resnet20", stepper), seed=seed, workdir=str(directory)
    )
    with Record(directory) as record:
        record.start(config)
        for number, coefficients in enumerate(epochs, start=1):
            record.log({"epoch": number, "step": 10 * number, "coefficients": coefficients})
    return directory
