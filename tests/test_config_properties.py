"""Whatever is written into a config, it is checked: it gives a `Config`, or an `InputError` that names the thing."""

import dataclasses
import json
import types
import typing

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lmjax import InputError, networks, optimizers, schedules, steppers
from lmjax.command_line import override
from lmjax.config import _PLACES, Config, differences, flatten, from_dict, to_dict
from lmjax.steppers import Stepper
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
ONES = [from_dict({"data": {"name": name}}) for name in ("cifar10", "folder", "photographs(9)")]


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
