"""What lmjax reads is data, and never becomes code: no module of it can unpickle, evaluate or execute."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
            if called in CALLS or options.get("allow_pickle", "False") != "False":
                yield called
            # Loaded by its name, also through lmjax.errors.optional_import.
            by_name = called.endswith(("import_module", "optional_import"))
            names = [a.value for a in node.args[:1] if by_name and isinstance(a, ast.Constant)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in MODULES)


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_makes_code_of_data(name):
    assert [danger for danger in dangers(SOURCES[name].read_text()) if (name, danger) not in ALLOWED] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import numpy, pickle as p",
        "from cloudpickle import loads",
        "import joblib.numpy_pickle",
        "importlib.import_module('marshal')",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "torch.load(file)",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert list(dangers(line))
