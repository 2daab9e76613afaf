"""Configs: whatever is written into one, it gives a `Config`, or an `InputError` that names the thing in one line."""

import dataclasses
import json
import re
import types
import typing

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lmjax import InputError, networks, optimizers, schedules, steppers
from lmjax.command_line import override
from lmjax.config import (
    _PLACES,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    differences,
    flatten,
    from_dict,
    to_dict,
)
from lmjax.steppers import Stepper
from lmjax.training import train, train_seeds
from tests.steppers.schemes import WRAPPERS

pytestmark = pytest.mark.versions
check = settings(derandomize=True, deadline=None, max_examples=100)

SECTIONS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}
TYPES = {
    key: hint
    for section, cls in {"": Config, **SECTIONS}.items()
    for field, hint in typing.get_type_hints(cls).items()
    if (key := f"{section}.{field}".lstrip(".")) and typing.get_origin(hint) is not typing.ClassVar
    and field not in SECTIONS
}  # fmt: skip
KEYS = sorted(TYPES)

any_text = st.text(st.characters(exclude_categories=()))  # with what no encoding has
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**31, 2**63])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)


def fitting(hint):
    """Values of a type that a field has."""
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return st.one_of(*(st.none() if h is type(None) else fitting(h) for h in typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return st.lists(fitting(typing.get_args(hint)[0]), max_size=3).map(sorted)
    return {
        bool: st.booleans(),
        int: st.integers(0, 8) | st.integers(0, 300) | st.integers(-(2**31), 2**31),
        float: st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False),
        str: st.one_of(
            any_text, *(st.sampled_from(room.registry.plain()) for room in (steppers, optimizers, schedules))
        ),
    }[hint]


def table(key, value):
    """{"model": {"name": value}} for "model.name"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def changed(config, key, value):
    """The config with one key replaced; as it is, where they do not go together."""
    values = to_dict(config)
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    try:
        return from_dict(values)
    except InputError:
        return config


changes = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), fitting(TYPES[key])))
ONES = [
    from_dict({"data": {"name": name}, "optimizer": {"decay_coefficients": True}, "init": {"run": run}})
    for name, run in (("cifar10", None), ("folder", "a"), ("photographs(9)", None))
]


@st.composite
def configs(draw):
    config = draw(st.sampled_from(ONES))
    for key, value in draw(st.lists(changes, max_size=20)):
        config = changed(config, key, value)
    return config


def refused(call, *arguments, match=None):
    """The message, one line that can be shown, with which something is refused."""
    with pytest.raises(InputError, match=match) as error:
        call(*arguments)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def taken_or_refused(call, *arguments):
    """What is made, or None where it is refused in one line."""
    try:
        return call(*arguments)
    except InputError:
        refused(call, *arguments)


@pytest.mark.parametrize("key", KEYS)
def test_any_value_of_any_key_is_taken_or_refused_by_its_name(key):
    @settings(check, max_examples=25)
    @given(json_values)
    @example(10**400)
    @example("x" * 10_000)
    def holds(value):
        if taken_or_refused(from_dict, table(key, value)) is None:
            message = refused(from_dict, table(key, value))
            assert key.rpartition(".")[2] in message or str(value) in message

    holds()
    for value in (10**5000, [10**5000], {"a": -(10**5000)}):  # no strategy: Hypothesis prints its values
        refused(from_dict, table(key, value), match=rf"^{key}: ")


@check
@given(any_text, json_values, st.sampled_from(["", *SECTIONS]))
def test_what_is_no_table_and_unknown_keys_are_refused_at_every_level(name, value, section):
    if not isinstance(value, dict):
        refused(from_dict, {section: value} if section else value, match=f"config: {section or 'it'} must be a table")
    assume(name not in {field.name for field in dataclasses.fields(SECTIONS.get(section, Config))})
    refused(from_dict, {section: {name: value}} if section else {name: value}, match="unknown key")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", [key for key in KEYS if "float" in str(TYPES[key])])
def test_numbers_are_finite(key, value):
    value = [0.25, value] if "tuple" in str(TYPES[key]) else value
    refused(from_dict, table(key, value), match=rf"^{key}: ")


@check
@given(configs())
def test_a_config_survives_its_own_file(config):
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config
    assert differences(config, config) == {}


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_is_the_difference_unless_it_is_a_place(key):
    found = []
    section, _, name = key.rpartition(".")
    parts = networks.options.PARTS.get(name) if section == "model" else None
    values = fitting(TYPES[key]) if parts is None else st.sampled_from(parts.plain())

    @settings(check, max_examples=20)
    @given(st.sampled_from(ONES), values)
    def holds(config, value):
        other = changed(config, key, value)
        if other != config:
            a, b = (flatten(to_dict(c))[key] for c in (config, other))
            assert differences(config, other) == ({} if key in _PLACES else {key: (a, b)})
            found.append(value)

    holds()
    if key != "data.name":  # what goes with another data set must change, too
        assert found, "no value of this key was ever taken"


# What an expression is made of, and what a program would be made of.
pieces = [*steppers.names(), *WRAPPERS, *"()[]{},.=-+*:'\"\\ \n#;", "1", "0.5", "1e999", "10", "None", "True", "low="]
pieces += ["lambda", "if", "else", "for", "await", "import", "__class__", "__import__", "open", "f'{1}'", ":="]


@settings(check, max_examples=500)
@given(any_text | st.lists(st.sampled_from(pieces), max_size=12).map("".join))
@example("-" * 100_000 + "1")
@example("(" * 1000 + ")" * 1000)
@example("lm(" + "1+" * 20_000 + "1)")
@example("noise(" * 150 + "lm" + ")" * 150)
@example("lm(1" + "0" * 5000 + ")")
def test_any_text_is_a_stepper_or_refused(text):
    assert isinstance(taken_or_refused(steppers.get, text), Stepper | None)


@pytest.mark.parametrize("name", ["fractal", "learned_multistep", "poly", "backward_euler"])
def test_counts_beyond_every_computer_are_refused(name):
    refused(steppers.get, f"{name}(99999999999)")


@pytest.mark.parametrize("form", ["{}", "lm({})", "lm(low={})", "noise({})", "{}(lm)", "[{}]", "lm or {}", "lm[{}]"])
def test_no_text_is_executed(form, tmp_path):
    program = f"__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()"
    with pytest.raises(InputError):
        steppers.get(form.format(program))
    assert list(tmp_path.iterdir()) == []


@check
@given(any_text | st.from_regex(r"(res|rev|resnext|fractal)[a-z]{0,3}[0-9]{0,5}_?[0-9x]{0,5}d?", fullmatch=True))
@example("resnet" + "9" * 5000)
@example("resnext29_1" + "0" * 400 + "x64d")
def test_any_text_is_a_network_or_refused(name):
    taken_or_refused(networks.get, name)


@pytest.mark.parametrize("name", ["", "\0", "\ud800", "fractalnet", "fractalnet0x2", "fractalnet9x9", "fractalnet20\n"])
def test_names_of_no_network(name):
    refused(networks.get, name, match="network")


@pytest.mark.parametrize("text", ["7", "", "nan", "1e3", "-1", "9" * 5000, "\ud800", "[", "None", "\0", "--help"])
def test_the_command_line_takes_a_value_or_refuses_it(text, capsys):
    try:
        assert override(Config(), ["--train.epochs", text]).train.epochs == 7
    except (InputError, SystemExit):
        assert text != "7"
    assert "Traceback" not in capsys.readouterr().err


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
        ({"coefficient_target": 1}, "coefficient_target: must be 0 unless decay_coefficients is set, got 1"),
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
    refused(from_dict, {section: values} if section else values, match=re.escape(message))


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
