"""Configs: checked when they are made, and the same after a round trip."""

import dataclasses
import json
import re

import pytest

from lmjax import InputError, steppers
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, differences, from_dict, to_dict
from lmjax.training import train, train_seeds


def test_round_trip_through_json():
    config = Config(
        optimizer=OptimizerConfig(schedule="steps(0.1, 0.2)", coefficient_bounds=(-1, 1)),
        data=DataConfig(name="folder(3)"),
        seed=5,
    )
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DataConfig(name="mnist"),
            "unknown data set 'mnist': known: cifar10, cifar100, digits, folder, photographs, tfds; what "
            'tensorflow-datasets has prepared is "tfds(NAME)"',
        ),
        (lambda: DataConfig(augment=("crop(4, padding=edge)",)), "unknown augmentation 'edge'"),
        (lambda: DataConfig(augment=("crop(-1)",)), "crop: pad must be 0 or more"),
        (lambda: DataConfig(augment=("flop",)), "unknown augmentation 'flop': did you mean 'flip'"),
        (lambda: DataConfig(augment=("flip", "none")), "unknown augmentation 'none'"),
        (lambda: DataConfig(augment=("lm",)), "('lm' is one of the steppers)"),
        (lambda: DataConfig(augment="flip"), "data.augment: must be several values, got 'flip'"),
        (
            lambda: DataConfig(augment=("crop_area",)),
            "data.augment: crop_area is for photographs: images in memory have",
        ),
        (
            lambda: DataConfig("photographs(9)", augment=("crop(4)",)),
            "data.augment: crop(4) is for images in memory: photographs have crop_area(0.08)",
        ),
        (
            lambda: DataConfig("photographs(9)", augment=("flip", "crop_area")),
            "data.augment: crop_area is done while decoding: let it come first, and once",
        ),
        (
            lambda: DataConfig(augment=("mixup(0.2)", "flip")),
            "data.augment: mixup(0.2) mixes images: let flip come before it",
        ),
        (lambda: DataConfig("digit"), "unknown data set 'digit': did you mean 'digits'"),
        (lambda: DataConfig("imagenet"), 'data.name: imagenet is now "photographs(224)"'),
        (lambda: DataConfig("folder(0)"), "folder: size must be from 1 to 65535 pixels, got 0"),
        (lambda: DataConfig("folder(val_split=1)"), "folder: val_split must be above 0 and below 1, got 1"),
        (lambda: DataConfig("photographs(val_split=0)"), "photographs: val_split must be above 0 and below 1, got 0"),
        (lambda: DataConfig("photographs(224, decoder='slow')"), "photographs: decoder must be 'pillow' or 'turbo'"),
        (lambda: DataConfig("photographs(tfds='')"), "photographs: the name must be that of a data set of tensorflow-"),
        (lambda: DataConfig("tfds('../mnist')"), "as in tfds(mnist) or tfds('imagenet_resized/32x32'), got '../mnist'"),
        (lambda: DataConfig("tfds(3)"), "tfds: name must be a string, got 3"),
        (lambda: DataConfig("tfds"), "data set 'tfds': missing a required argument: 'name'"),
        (lambda: DataConfig(dir="here"), "data.dir: must be left out for digits, got 'here'"),
        (lambda: DataConfig(on_error="skip"), "data.on_error: must be left out for digits, got 'skip'"),
        (lambda: DataConfig("folder", workers=0), "data.workers: must be left out for folder, got 0"),
        (lambda: DataConfig("tfds(mnist)", threads=1), "data.threads: must be left out for tfds(mnist), got 1"),
        (lambda: DataConfig("photographs", workers=-1), "data.workers: must be 0 or more, got -1"),
        (
            lambda: Config(DataConfig("photographs"), train=TrainConfig(steps_per_dispatch=2)),
            "train.steps_per_dispatch: must be left out for photographs, got 2",
        ),
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
        (lambda: OptimizerConfig("adamm"), "unknown optimizer 'adamm': did you mean 'adam' or 'adamw'"),
        (lambda: OptimizerConfig("cosine"), "unknown optimizer 'cosine': "),
        (lambda: OptimizerConfig("cosine"), "('cosine' is one of the schedules)"),
        (lambda: OptimizerConfig("adamw(b3=1)"), "got an unexpected keyword argument 'b3'; adamw takes (b1=0.9, "),
        (lambda: OptimizerConfig("adamw(b1=1)"), "adamw: b1 must be at least 0 and less than 1, got 1"),
        (lambda: OptimizerConfig("lamb(eps=0)"), "lamb: eps must be positive, got 0"),
        (lambda: OptimizerConfig("muon('a')"), "muon: beta must be a finite number, got 'a'"),
        (lambda: OptimizerConfig(clip_norm=0), "optimizer.clip_norm: must be positive, got 0.0"),
        (lambda: OptimizerConfig(accumulate_steps=0), "optimizer.accumulate_steps: must be at least 1, got 0"),
        (lambda: OptimizerConfig(decay="some"), "optimizer.decay: must be one of all, kernels, got 'some'"),
        (lambda: OptimizerConfig(schedule="liner"), "unknown schedule 'liner': did you mean 'linear'"),
        (lambda: OptimizerConfig(schedule="steps(80, 120)"), "steps: milestones must be increasing fractions"),
        (lambda: OptimizerConfig(schedule="steps"), "steps: give the milestones, as in steps(0.5, 0.75), or choose"),
        (lambda: OptimizerConfig(schedule="steps(0.5, drop=0)"), "steps: drop must be positive, got 0"),
        (lambda: OptimizerConfig(schedule="cosine(drop=0.2)"), "got an unexpected keyword argument 'drop'"),
        (lambda: OptimizerConfig(schedule="wsd(1.5)"), "wsd: decay must be from 0 to 1, got 1.5"),
        (lambda: OptimizerConfig(warmup_epochs=-1), "optimizer.warmup_epochs: must be 0 or more, got -1.0"),
        (lambda: OptimizerConfig(reference_batch_size=0), "optimizer.reference_batch_size: must be at least 1, got 0"),
        (lambda: ModelConfig(zero_init=1), "model.zero_init: must be of type bool, got 1"),
        (lambda: OptimizerConfig("sgd(1.0)"), "sgd: momentum must be at least 0 and less than 1"),
        (lambda: OptimizerConfig("sgd(0, nesterov=True)"), "sgd: nesterov must be off without momentum"),
        (lambda: OptimizerConfig(coefficient_bounds=(1, -1)), "coefficient_bounds: must be two increasing numbers"),
        (
            lambda: OptimizerConfig(coefficient_rate=0, decay_coefficients=True),
            "coefficient_rate: must be positive where the coefficients are decayed or bounded",
        ),
        (lambda: TrainConfig(epochs=0), "train.epochs: must be at least 1"),
        (lambda: Config(seed=-1), "seed: must be from 0"),
        (lambda: TrainConfig(epochs="3"), "train.epochs: must be of type int, got '3'"),
        (lambda: TrainConfig(epochs=3.0), "train.epochs: must be of type int, got 3.0"),
        (lambda: ModelConfig(stepper=steppers.lm()), "model.stepper: must be of type str, got Stepper(lm)"),
        (lambda: OptimizerConfig(schedule="steps(0.5, 0.5)"), "steps: milestones must be increasing fractions"),
        (lambda: OptimizerConfig(coefficient_bounds=["a"]), "coefficient_bounds: must be of type float, got 'a'"),
        (
            lambda: from_dict({"optimizer": {"nesterov": True}}),
            'optimizer.nesterov is now part of optimizer.name, as in "sgd(momentum=0.9, nesterov=True)"',
        ),
        (
            lambda: from_dict({"data": {"name": "folder", "size": 32}}),
            'data.size is now part of data.name, as in "folder(32)" or "photographs(224)"',
        ),
        (lambda: from_dict({"data": {"decoder": "turbo"}}), "data.decoder is now part of data.name, as in"),
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


def test_a_run_needs_a_folder(tmp_path):
    for begin in (train, lambda config: train_seeds(config, [0, 1])):
        with pytest.raises(InputError, match=r"workdir: name the folder of the run, as in Config\(workdir=\.\.\.\)"):
            begin(Config())
    assert Config(workdir=str(tmp_path)).folder == tmp_path


def test_equal_configs_are_equal_however_written():
    assert OptimizerConfig(coefficient_bounds=[-1, 1]) == OptimizerConfig(coefficient_bounds=(-1.0, 1.0))
    assert OptimizerConfig(" sgd( momentum = 0.9 )", learning_rate=1) == OptimizerConfig(learning_rate=1.0)
    assert DataConfig("tfds( mnist )") == DataConfig("tfds('mnist')")
    assert DataConfig("photographs(tfds=mnist)") == DataConfig("photographs(tfds='mnist')")
    assert ModelConfig(stepper="adams-bashforth(2)") == ModelConfig(stepper="adams_bashforth(2)")


def test_differences_leave_out_places():
    a = Config(workdir="a")
    a = dataclasses.replace(a, data=DataConfig(name="cifar10"))
    b = dataclasses.replace(
        a, workdir="b", seed=1, data=DataConfig(name="cifar10", dir="elsewhere", augment=("crop(2)", "flip"))
    )
    assert differences(a, b) == {"data.augment": (("crop(4)", "flip"), ("crop(2)", "flip")), "seed": (0, 1)}
    assert differences(a, b, ("data",)).keys() == {"data.augment"}
