"""The source of lmjax: nothing in it makes code of the data that it reads, and no function or class is long."""

import ast

import pytest

from tests.tiny import ROOT

SOURCES = {str(path.relative_to(ROOT)): path for path in (ROOT / "train.py", *sorted(ROOT.glob("lmjax/**/*.py")))}

MODULES = {"pickle", "cPickle", "_pickle", "pickletools", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "yaml.load", "torch.load", "pandas.read_pickle", "pd.read_pickle"}
# A config in Python is run as a program, as docs/training.md says.
ALLOWED = {("lmjax/command_line.py", "runpy")}


def dangers(source):
    """What in a program could make code of data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            safe = called == "torch.load" and options.get("weights_only") == "True"
            if (called in CALLS and not safe) or options.get("allow_pickle", "False") != "False":
                yield called
            # Loaded by its name, also through lmjax.errors.optional_import.
            by_name = called.endswith(("import_module", "optional_import"))
            names = [a.value for a in node.args[:1] if by_name and isinstance(a, ast.Constant)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in MODULES)


def too_large(source):
    """The functions and classes of a program that are too large, each with its number of lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > (150 if isinstance(node, ast.ClassDef) else 60):
                yield node.name, lines


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_makes_code_of_data_and_nothing_is_too_large(name):
    source = SOURCES[name].read_text()
    assert [danger for danger in dangers(source) if (name, danger) not in ALLOWED] == []
    assert [*too_large(source)] == []


def test_the_search_finds_what_it_is_for():
    for line in (
        "import pickle",
        "import numpy, pickle as p",
        "from cloudpickle import loads",
        "import joblib.numpy_pickle",
        "importlib.import_module('marshal')",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
    ):
        assert list(dangers(line)), line
    assert not [*dangers("torch.load(file, weights_only=True)")]
    source = "class A:\n    def f(self):\n" + "        pass\n" * 59 + "    def g(self):\n" + "        pass\n" * 60
    assert [*too_large(source)] == [("g", 61)]
    assert [*too_large(source + "    x = 0\n" * 29)] == [("A", 151), ("g", 61)]
