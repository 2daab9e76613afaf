"""Configs: checked when they are made, and the same after a round trip."""

import dataclasses
import json
import re

import pytest

from lmjax import InputError, steppers
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, differences, from_dict, to_dict


def test_round_trip_through_json():
    config = Config(optimizer=OptimizerConfig(milestones=(0.1, 0.2)), data=DataConfig(name="folder", size=3), seed=5)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DataConfig(name="mnist"),
            "data.name: must be one of digits, cifar10, cifar100, folder, imagenet, got 'mnist'",
        ),
        (lambda: DataConfig(padding="edge"), "data.padding: must be one of zero, reflect"),
        (lambda: DataConfig(pad=-1), "data.pad: must be 0 or more"),
        (lambda: DataConfig(dir="here"), "data.dir: must be left out for the digits, got 'here'"),
        (lambda: DataConfig(size=32), "data.size: must be left out unless data.name is folder"),
        (lambda: ModelConfig(stepper="eular"), "unknown stepper 'eular': did you mean 'euler'"),
        (
            lambda: ModelConfig(stepper="lm(lo=0)"),
            "stepper 'lm(lo=0)': got an unexpected keyword argument 'lo'; lm takes",
        ),
        (lambda: ModelConfig(stepper="stochastic_depth(lm, 0)"), "survival must be above 0 and at most 1"),
        (lambda: ModelConfig(width=0.0), "model.width: must be positive, got 0.0"),
        (lambda: ModelConfig(memory="none"), "model.memory: must be one of stored, remat, reversible, got 'none'"),
        (lambda: ModelConfig(branch="cubic"), "unknown branch 'cubic': did you mean 'basic'? known: basic, bottleneck"),
        (lambda: ModelConfig(shortcut="basic"), "unknown shortcut 'basic'"),
        (lambda: ModelConfig("resnet(57)"), "its depth must be 6n + 2"),
        (lambda: ModelConfig(dtype="float16"), "model.dtype: must be one of float32, bfloat16"),
        (lambda: OptimizerConfig(learning_rate=0), "optimizer.learning_rate: must be positive"),
        (
            lambda: OptimizerConfig(learning_rate=float("nan")),
            "optimizer.learning_rate: must be a finite number, got nan",
        ),
        (lambda: OptimizerConfig(milestones=(80, 120)), "optimizer.milestones: must be increasing fractions"),
        (lambda: OptimizerConfig(schedule="linear"), "optimizer.schedule: must be one of steps, cosine, got 'linear'"),
        (
            lambda: OptimizerConfig(schedule="cosine", drop=0.2),
            "optimizer.drop: must be left at 0.1 with schedule cosine, got 0.2",
        ),
        (lambda: OptimizerConfig(warmup_epochs=-1), "optimizer.warmup_epochs: must be 0 or more, got -1.0"),
        (lambda: OptimizerConfig(reference_batch_size=0), "optimizer.reference_batch_size: must be at least 1, got 0"),
        (lambda: ModelConfig(zero_init=1), "model.zero_init: must be of type bool, got 1"),
        (lambda: OptimizerConfig(momentum=1.0), "optimizer.momentum: must be at least 0 and less than 1"),
        (lambda: OptimizerConfig(momentum=0, nesterov=True), "optimizer.nesterov: must be off without momentum"),
        (lambda: OptimizerConfig(coefficient_bounds=(1, -1)), "coefficient_bounds: must be two increasing numbers"),
        (
            lambda: OptimizerConfig(train_coefficients=False, decay_coefficients=True),
            "train_coefficients: must be on where the coefficients are decayed or bounded",
        ),
        (lambda: TrainConfig(epochs=0), "train.epochs: must be at least 1"),
        (lambda: Config(seed=-1), "seed: must be from 0"),
        (lambda: TrainConfig(epochs="3"), "train.epochs: must be of type int, got '3'"),
        (lambda: TrainConfig(epochs=3.0), "train.epochs: must be of type int, got 3.0"),
        (lambda: ModelConfig(stepper=steppers.lm()), "model.stepper: must be of type str, got Stepper(lm)"),
        (lambda: OptimizerConfig(milestones=(0.5, 0.5)), "optimizer.milestones: must be increasing fractions"),
        (lambda: OptimizerConfig(milestones=["a"]), "optimizer.milestones: must be of type float, got 'a'"),
        (lambda: from_dict({"modle": {}}), "unknown key 'modle': did you mean 'model'?"),
        (lambda: from_dict({"model": {"stp": 1}}), "unknown key 'model.stp'"),
        (lambda: from_dict({"model": {"steper": "lm"}}), "unknown key 'model.steper': did you mean 'model.stepper'?"),
        (lambda: from_dict({"train": {"epochs": "five"}}), "train.epochs: must be of type int, got 'five'"),
        (lambda: from_dict({"train": {"epochs": True}}), "train.epochs: must be of type int, got True"),
        (lambda: from_dict({"data": {"name": "cifar10", "dir": 3}}), "data.dir: must be of type str, got 3"),
        (lambda: from_dict({"model": 3}), "config: model must be a table"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()


def test_equal_configs_are_equal_however_written():
    assert OptimizerConfig(milestones=[0.5, 0.75], learning_rate=1) == OptimizerConfig(learning_rate=1.0)
    assert ModelConfig(stepper="adams-bashforth(2)") == ModelConfig(stepper="adams_bashforth(2)")


def test_differences_leave_out_places():
    a = Config(workdir="a")
    a = dataclasses.replace(a, data=DataConfig(name="cifar10"))
    b = dataclasses.replace(a, workdir="b", seed=1, data=DataConfig(name="cifar10", dir="elsewhere", pad=2))
    assert differences(a, b) == {"data.pad": (4, 2), "seed": (0, 1)}
    assert differences(a, b, ("data",)) == {"data.pad": (4, 2)}
