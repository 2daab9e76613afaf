"""A small problem that trains in seconds: some of the digits, and a narrow network."""

import dataclasses

import pytest

from lmjax import data
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lmjax.data import Dataset, Split


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """320 digits to train and 70 to test: five batches of 64 an epoch, and a test set that no batch divides."""
    whole = data.load("digits")
    return dataclasses.replace(
        whole,
        train=Split(whole.train.images[:320], whole.train.labels[:320]),
        test=Split(whole.test.images[:70], whole.test.labels[:70]),
    )


@pytest.fixture
def config() -> Config:
    return Config(
        data=DataConfig(name="digits", augment=("crop(1)",)),
        model=ModelConfig(name="resnet14", stepper="lm", width=0.25),
        optimizer=OptimizerConfig(learning_rate=0.05),
        train=TrainConfig(epochs=3, batch_size=64, eval_batch_size=32),
    )
