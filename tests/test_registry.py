"""Parts by name: what is registered can be called, listed and is documented; what is not is named."""

import re
from typing import Literal

import pytest

from lmjax import InputError, registry, steppers
from lmjax.cli import main
from lmjax.registry import Registry
from tests.documentation import text


@pytest.fixture
def shapes(monkeypatch):
    monkeypatch.setattr(registry, "KINDS", dict(registry.KINDS))
    shapes = Registry("shape", dict, returns="a dict", example="box(3)")

    @shapes.register
    def box(side: int, *, color: Literal["red", "dark_blue"] | None = "red") -> dict:
        """A box.

        Not of the summary.
        """
        return {"box": side, "color": color}

    @shapes.register
    def stack(*parts: dict, gap: float = 0.5) -> dict:
        return {"stack": parts, "gap": gap}

    @shapes.register
    def label(text: str, *, font: str | None = None) -> dict:
        return {"text": text, "font": font}

    @shapes.register
    def tags(**names: str) -> dict:
        return names

    shapes.register(lambda: {}, name="no-thing")
    return shapes


def test_calls(shapes):
    for call, part in {
        "box(3)": {"box": 3, "color": "red"},
        "box(side=3, color=dark-blue)": {"box": 3, "color": "dark_blue"},
        "box(3, color='dark_blue')": {"box": 3, "color": "dark_blue"},
        "box(3, color=None)": {"box": 3, "color": None},
        "label(box)": {"text": "box", "font": None},
        "label('a-b', font=sans-serif)": {"text": "a-b", "font": "sans_serif"},
        """label("it's a-b\\"c-d", font='no-thing')""": {"text": "it's a-b\"c-d", "font": "no-thing"},
        "tags(a=b, c='d e')": {"a": "b", "c": "d e"},
        "tags": {},
        "no-thing()": {},
        "stack": {"stack": (), "gap": 0.5},
        "stack(no-thing, box(1), gap=2)": {"stack": ({}, {"box": 1, "color": "red"}), "gap": 2},
    }.items():
        assert shapes.get(call) == shapes.get(shapes.normalize(call)) == part
        assert shapes.normalize(shapes.normalize(call)) == shapes.normalize(call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("bok(3)", "unknown shape 'bok': did you mean 'box'? known: box, label, no_thing, stack, tags"),
        ("box", "shape 'box': missing a required argument: 'side'; box takes (side, *, color='red')"),
        ("box(2.5)", "box: side must be a whole number, got 2.5"),
        ("box(3, color='green')", "box: color must be 'red' or 'dark_blue' or None, got 'green'"),
        ("box(3, color=green)", "unknown shape 'green'"),
        ("tags(a=3)", "tags: names must be a string, got 3"),
        ("label(3)", "label: text must be a string, got 3"),
        ("label(font=sans)", "shape 'label(font=sans)': missing a required argument: 'text'"),
        ("stack(3)", "stack: parts must be a shape such as box(3), got 3"),
        ("box(side=1, side=2)", "shape 'box(side=1, side=2)': give each argument once, by its name"),
        ("lm", "unknown shape 'lm': known: box, label, no_thing, stack, tags ('lm' is one of the steppers)"),
        ("box(3).x", "shape 'box(3).x': give a name such as box, or a call such as box(3)"),
    ],
)
def test_what_is_wrong_is_named(shapes, call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        shapes.get(call)


def test_a_function_that_returns_something_else(shapes):
    shapes.register(lambda: None, name="nothing")
    with pytest.raises(InputError, match="shape 'nothing': its function must return a dict, not NoneType"):
        shapes.get("nothing")


def test_a_word_and_a_string_are_written_alike(shapes):
    for call in ("label( a , font=b)", "label('a', font = 'b')"):
        assert shapes.normalize(call) == "label('a', font='b')"
    assert shapes.normalize("stack(label(box), box(1))") == "stack(label('box'), box(1))"
    assert shapes.normalize("label(a, b, c)") == "label(a, b, c)"  # which is refused when it is made


def test_parts_of_lmjax_cannot_be_replaced_and_ones_own_can(shapes):
    shapes.register(lambda: {"new": True}, name="box")
    assert shapes.get("box") == {"new": True}
    with pytest.raises(InputError, match="lmjax has a stepper named 'lm': choose another name"):
        steppers.register(lambda: None, name="lm")


def test_what_a_part_says_of_itself(shapes):
    box, stack, _, _, nothing = shapes.describe()
    assert box == ("box", "(side, *, color='red')", "A box.")
    assert stack == ("stack", "(*parts, gap=0.5)", "")
    assert nothing.name == "no_thing"
    assert shapes.names() == ("box", "stack", "label", "tags", "no_thing")
    assert shapes.plain() == ("stack", "tags", "no_thing")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_part_is_listed_and_documented(kind, capsys):
    assert main(["list", kind]) == 0
    listed = re.findall(r"^  (\w+)\((.*)\)\n      (.+)$", capsys.readouterr().out, re.MULTILINE)
    parts = registry.KINDS[kind]
    ours = {name: parts.maker(name) for name in parts.names() if parts.maker(name).__module__.startswith("lmjax.")}
    assert {name for name, _, _ in listed} >= {*ours}, "every one has a docstring"
    documented = set(re.findall(r"^::: lmjax\.[\w.]+\.(\w+)$", text(f"docs/api/{kind}.md"), re.MULTILINE))
    assert {make.__name__ for make in ours.values()} <= documented
    assert main(["list", kind[:-1]]) == 2
    assert f"unknown kind '{kind[:-1]}': did you mean '{kind}'" in capsys.readouterr().err
