"""Training in bfloat16 stays near training in float32: nearer than training from another seed."""

import itertools

import jax
import numpy as np
import pytest

from lmjax import data
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lmjax.training import Trainer, train_epoch
from tests.devices import ONE

STEPS, SEEDS = 200, (0, 1, 2)


def curves(stepper, dtype):
    """The losses [seeds, steps] of narrow ResNets on the digits, and the types of all numbers that are trained."""
    config = Config(
        data=DataConfig(name="digits", augment=("crop(1)",)),
        model=ModelConfig(name="resnet20", stepper=stepper, width=0.25, dtype=dtype),
        optimizer=OptimizerConfig(learning_rate=0.05),
        train=TrainConfig(epochs=15, batch_size=64),
    )
    first = Trainer(config, data.load("digits"), ONE)
    found = []
    for seed in SEEDS:
        trainer, losses = first.reseeded(seed), []
        while len(losses) < STEPS:
            train_epoch(trainer, lambda images, loss, accuracy, losses=losses: losses.append(loss))
        found.append(losses[:STEPS])
    return np.array(found), {x.dtype for x in jax.tree.leaves((trainer.state.params, trainer.state.statistics))}


def distance(a, b):
    """The mean over the steps of how far two losses are apart."""
    return np.abs(a - b).mean(-1)


@pytest.mark.slow
@pytest.mark.parametrize("stepper", ["lm", "euler"])
def test_bfloat16_is_nearer_to_float32_than_another_seed(stepper):
    """Measured with four seeds, for lm and euler, as losses fall from 2.3 to 0.4, and with three on another processor.

    Over all 200 steps bfloat16 is 0.059 to 0.070 (lm) and 0.061 to 0.122 (euler) from the float32 run of its seed, and
    two float32 runs of different seeds are 0.105 to 0.131 apart. Over the first 20 steps, before training has amplified
    the rounding, it is 0.004 to 0.019 against 0.028 to 0.082. The means over the last 50 steps differ by 0.06 at most,
    in both directions, and those of two seeds by 0.09.
    """
    (single, wide), (half, narrow) = (curves(stepper, dtype) for dtype in ("float32", "bfloat16"))
    assert wide == narrow == {np.dtype("float32")}
    apart, early = distance(half, single), distance(half[:, :20], single[:, :20])
    pairs = list(itertools.combinations(range(len(SEEDS)), 2))
    of_seeds = np.mean([distance(single[i], single[j]) for i, j in pairs])
    early_of_seeds = np.mean([distance(single[i, :20], single[j, :20]) for i, j in pairs])
    assert (apart > 0).all(), "or it is not bfloat16"
    assert apart.max() < 0.15
    assert apart.mean() < 0.85 * of_seeds
    assert early.max() < 0.03
    assert early.mean() < 0.5 * early_of_seeds
    assert np.abs(half[:, -50:].mean(-1) - single[:, -50:].mean(-1)).max() < 0.12
