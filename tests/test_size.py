"""Sizes: a function of lmjax has at most 60 lines, and a class at most 150, docstrings included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {str(path.relative_to(ROOT)): path for path in (ROOT / "train.py", *sorted(ROOT.glob("lmjax/**/*.py")))}


def too_large(source):
    """The functions and classes of a program that are too large, each with its number of lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > (150 if isinstance(node, ast.ClassDef) else 60):
                yield node.name, lines


def test_what_is_too_large_is_found():
    source = "class A:\n    def f(self):\n" + "        pass\n" * 59 + "    def g(self):\n" + "        pass\n" * 60
    assert [*too_large(source)] == [("g", 61)]
    assert [*too_large(source + "    x = 0\n" * 29)] == [("A", 151), ("g", 61)]


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_too_large(name):
    assert [*too_large(SOURCES[name].read_text())] == []
