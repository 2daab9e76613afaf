"""A small problem that trains in seconds: some of the digits, and a network of two blocks."""

import dataclasses

import pytest

from lmjax import data
from lmjax.config import Config
from lmjax.data import Dataset, Split
from tests import tiny


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """320 digits to train and 70 to test: five batches of 64 an epoch, and a test set that no batch divides."""
    whole = data.load("digits")
    return dataclasses.replace(
        whole,
        train=Split(whole.train.images[:320], whole.train.labels[:320]),
        test=Split(whole.test.images[:70], whole.test.labels[:70]),
    )


@pytest.fixture(scope="session")
def config() -> Config:
    return tiny.changed(tiny.config, optimizer={"learning_rate": 0.05}, train={"epochs": 3, "eval_batch_size": 32})
