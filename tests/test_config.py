"""Configs: checked when they are made, and the same after a round trip."""

import dataclasses
import json
import re

import pytest

from lmjax import InputError, steppers
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, differences, from_dict, to_dict
from lmjax.training import train, train_seeds


def test_round_trip_through_json():
    optimizer = OptimizerConfig(schedule="steps(0.1, 0.2)", coefficient_bounds=(-1, 1))
    config = Config(optimizer=optimizer, data=DataConfig(name="folder(3)"), seed=5)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


# What is wrong with the arguments of a part is also tested with the part.
WRONG = {
    "data": [
        ({"name": "mnist"}, 'photographs, tfds; what tensorflow-datasets has prepared is "tfds(NAME)"'),
        ({"name": "digit"}, "unknown data set 'digit': did you mean 'digits'"),
        ({"name": "imagenet"}, 'data.name: imagenet is now "photographs(224)"'),
        ({"name": "folder(0)"}, "folder: size must be from 1 to 65535 pixels, got 0"),
        ({"name": "folder(val_split=1)"}, "folder: val_split must be above 0 and below 1, got 1"),
        ({"name": "photographs(val_split=0)"}, "photographs: val_split must be above 0 and below 1, got 0"),
        ({"name": "photographs(decoder='slow')"}, "photographs: decoder must be 'pillow' or 'turbo'"),
        ({"name": "photographs(tfds='')"}, "photographs: the name must be that of a data set of tensorflow-"),
        ({"name": "tfds('../a')"}, "as in tfds(mnist) or tfds('imagenet_resized/32x32'), got '../a'"),
        ({"name": "tfds(3)"}, "tfds: name must be a string, got 3"),
        ({"name": "tfds"}, "data set 'tfds': missing a required argument: 'name'"),
        ({"augment": ["crop(4, padding=edge)"]}, "unknown augmentation 'edge'"),
        ({"augment": ["crop(-1)"]}, "crop: pad must be 0 or more"),
        ({"augment": ["flip", "none"]}, "unknown augmentation 'none'"),
        ({"augment": ["lm"]}, "('lm' is one of the steppers)"),
        ({"augment": "flip"}, "data.augment: must be several values, got 'flip'"),
        ({"augment": ["crop_area"]}, "data.augment: crop_area is for photographs: images in memory have"),
        ({"name": "photographs", "augment": ["crop(4)"]}, "data.augment: crop(4) is for images in memory: photographs"),
        ({"name": "photographs", "augment": ["flip", "crop_area"]}, "crop_area is done while decoding: let it come fi"),
        ({"augment": ["mixup(0.2)", "flip"]}, "data.augment: mixup(0.2) mixes images: let flip come before it"),
        ({"dir": "here"}, "data.dir: must be left out for digits, got 'here'"),
        ({"name": "cifar10", "dir": 3}, "data.dir: must be of type str, got 3"),
        ({"on_error": "skip"}, "data.on_error: must be left out for digits, got 'skip'"),
        ({"name": "folder", "workers": 0}, "data.workers: must be left out for folder, got 0"),
        ({"name": "tfds(mnist)", "threads": 1}, "data.threads: must be left out for tfds(mnist), got 1"),
        ({"name": "photographs", "workers": -1}, "data.workers: must be 0 or more, got -1"),
        ({"name": "folder", "size": 32}, 'data.size is now part of data.name, as in "folder(32)" or "photographs(224)'),
        ({"decoder": "turbo"}, "data.decoder is now part of data.name, as in"),
    ],
    "model": [
        ({"stepper": "eular"}, "unknown stepper 'eular': did you mean 'euler'"),
        ({"stepper": "stochastic_depth(lm, 0)"}, "survival must be above 0 and at most 1"),
        ({"stepper": steppers.lm()}, "model.stepper: must be of type str, got Stepper(lm)"),
        ({"width": 0.0}, "model.width: must be positive, got 0.0"),
        ({"memory": "none"}, "model.memory: must be one of stored, remat, reversible, got 'none'"),
        ({"branch": "cubic"}, "unknown branch 'cubic': did you mean 'basic'? known: basic, bottleneck"),
        ({"shortcut": "basic"}, "unknown shortcut 'basic'"),
        ({"name": "resnet(57)"}, "its depth must be 6n + 2"),
        ({"dtype": "float16"}, "model.dtype: must be one of float32, bfloat16"),
        ({"zero_init": 1}, "model.zero_init: must be of type bool, got 1"),
        ({"stp": 1}, "unknown key 'model.stp'"),
        ({"steper": "lm"}, "unknown key 'model.steper': did you mean 'model.stepper'?"),
    ],
    "optimizer": [
        ({"learning_rate": 0}, "optimizer.learning_rate: must be positive"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate: must be a finite number, got nan"),
        ({"name": "adamm"}, "unknown optimizer 'adamm': did you mean 'adam' or 'adamw'"),
        ({"name": "cosine"}, "('cosine' is one of the schedules)"),
        ({"name": "adamw(b3=1)"}, "got an unexpected keyword argument 'b3'; adamw takes (b1=0.9, "),
        ({"name": "adamw(b1=1)"}, "adamw: b1 must be at least 0 and less than 1, got 1"),
        ({"name": "lamb(eps=0)"}, "lamb: eps must be positive, got 0"),
        ({"name": "muon('a')"}, "muon: beta must be a finite number, got 'a'"),
        ({"name": "sgd(0, nesterov=True)"}, "sgd: nesterov must be off without momentum"),
        ({"clip_norm": 0}, "optimizer.clip_norm: must be positive, got 0.0"),
        ({"accumulate_steps": 0}, "optimizer.accumulate_steps: must be at least 1, got 0"),
        ({"decay": "some"}, "optimizer.decay: must be one of all, kernels, got 'some'"),
        ({"schedule": "liner"}, "unknown schedule 'liner': did you mean 'linear'"),
        ({"schedule": "steps(0.5, 0.5)"}, "steps: milestones must be increasing fractions"),
        ({"schedule": "steps"}, "steps: give the milestones, as in steps(0.5, 0.75), or choose"),
        ({"schedule": "steps(0.5, drop=0)"}, "steps: drop must be positive, got 0"),
        ({"schedule": "wsd(1.5)"}, "wsd: decay must be from 0 to 1, got 1.5"),
        ({"warmup_epochs": -1}, "optimizer.warmup_epochs: must be 0 or more, got -1.0"),
        ({"reference_batch_size": 0}, "optimizer.reference_batch_size: must be at least 1, got 0"),
        ({"coefficient_bounds": [1, -1]}, "coefficient_bounds: must be two increasing numbers"),
        ({"coefficient_bounds": ["a"]}, "coefficient_bounds: must be of type float, got 'a'"),
        ({"coefficient_rate": 0, "decay_coefficients": True}, "coefficient_rate: must be positive where the coeffic"),
        ({"nesterov": True}, 'is now part of optimizer.name, as in "sgd(momentum=0.9, nesterov=True)"'),
    ],
    "train": [
        ({"epochs": 0}, "train.epochs: must be at least 1"),
        *(({"epochs": value}, f"train.epochs: must be of type int, got {value!r}") for value in ("3", 3.0, True)),
    ],
    None: [
        ({"modle": {}}, "unknown key 'modle': did you mean 'model'?"),
        ({"model": 3}, "config: model must be a table"),
        ({"seed": -1}, "seed: must be from 0"),
        (
            {"data": {"name": "photographs"}, "train": {"steps_per_dispatch": 2}},
            "train.steps_per_dispatch: must be left out for photographs, got 2",
        ),
    ],
}


@pytest.mark.parametrize(("section", "values", "message"), [(key, *case) for key in WRONG for case in WRONG[key]])
def test_what_is_wrong_is_named(section, values, message):
    with pytest.raises(InputError, match=re.escape(message)):
        from_dict({section: values} if section else values)


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
    a = Config(DataConfig("cifar10"), workdir="a")
    data = DataConfig("cifar10", dir="elsewhere", augment=("crop(2)", "flip"))
    b = dataclasses.replace(a, workdir="b", seed=1, data=data)
    assert differences(a, b) == {"data.augment": (("crop(4)", "flip"), ("crop(2)", "flip")), "seed": (0, 1)}
    assert differences(a, b, ("data",)).keys() == {"data.augment"}
