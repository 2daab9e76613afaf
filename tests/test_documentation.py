"""What README.md and docs say is run: the Python as it stands, and commands as far as their arguments."""

import importlib
import re
import shlex
import sys
import types

import pytest

from lmjax import cli, steppers
from lmjax.cli.train import Train
from tests.documentation import PAGES, ROOT, blocks, commands, stories, text

LMJAX = [words for words in commands("lmjax") if len(words.split()) > 1 and words.split()[0] in cli.COMMANDS]
STORIES = {name: code for page in PAGES for name, code in stories(page).items()}


@pytest.mark.versions
@pytest.mark.parametrize("name", STORIES)
def test_code_runs(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)  # `import train`
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if "import equinox" in "".join(STORIES[name]):
        pytest.importorskip("equinox")
    namespace = {"__name__": "documentation"}
    for code in STORIES[name]:
        exec(compile(code, name, "exec"), namespace)


def test_there_is_code_on_the_pages_that_promise_it():
    assert {name.partition(":")[0] for name in STORIES} >= {"README.md", "docs/own_stepper.md", "docs/own_model.md"}
    assert {name.partition(": ")[2] for name in stories("docs/own_model.md")} == {"Flax NNX", "Flax Linen", "Equinox"}


@pytest.mark.versions
@pytest.mark.parametrize(
    "command", [*commands("train.py"), *(words.removeprefix("train ") for words in LMJAX if words.startswith("train "))]
)
def test_commands_of_train_are_understood(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for name, page in (("paced", "docs/own_stepper.md"), ("mixer", "docs/own_network.md")):
        if f"configs/{name}.py" in command:  # made as the tutorial says
            (tmp_path / "configs").mkdir()
            parts = [b for b in blocks(text(page)) if re.search(r"def (paced|mixer)|register\(|^config = ", b, re.M)]
            (tmp_path / "configs" / f"{name}.py").write_text("\n".join(parts))
            monkeypatch.chdir(tmp_path)
    config, _ = Train.parse(shlex.split(command))
    steppers.get(config.model.stepper or "euler")


@pytest.mark.parametrize("command", [words for words in LMJAX if not words.startswith("train ")])
def test_other_commands_are_understood(command, monkeypatch):
    words = shlex.split(command)
    found = cli.found(cli.COMMANDS[words[0]])
    for one in found.values() if isinstance(found, dict) else [found]:
        monkeypatch.setattr(one, "run", lambda *_: None)
    assert cli.main(words) == 0


def test_there_are_commands_on_the_pages():
    assert {words.split()[0] for words in LMJAX} >= {"train", "list", "report", "analyze", "reproduce", "prepare"}


def test_table_of_schemes():
    """docs/schemes.md has every scheme, with its branches, order, coefficients and inverse."""
    table = text("docs/schemes.md").partition("| type |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert {row[0].strip("`") for row in rows} == {n for n in steppers.names() if n != "mine_test"}
    for kind, _, _, branches, order, trained, inverse in rows:
        stepper = steppers.get(kind.strip("`"))
        _, stepper = steppers.over_stage(stepper, 2)
        assert int(branches) == stepper.evaluations, kind
        assert order in (str(stepper.known.order), "" if kind == "`dense`" else None), kind
        assert bool(trained) == (stepper.coef is not None), kind
        assert bool(inverse) == (stepper.inverse is not None), kind


@pytest.mark.parametrize("call", re.findall(r"`(\w+\([^`]*\d[^`]*\))`", text("docs/schemes.md")))
def test_every_call_is_a_stepper(call):
    assert isinstance(steppers.get(call), steppers.Stepper)


@pytest.fixture
def hook(monkeypatch):
    """A module of docs/hooks."""
    pytest.importorskip("mkdocs", reason="needs requirements-docs.txt")
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    yield importlib.import_module
    for path in (ROOT / "docs" / "hooks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_public_names_are_those_of_the_modules(hook):
    names = hook("complete").public_names()
    rooms = ("steppers", "networks", "data", "training", "config", "recipes", "analysis")
    assert {"lmjax", *(f"lmjax.{room}" for room in rooms)} <= set(names)
    for module in names:
        there = importlib.import_module(module)
        assert names[module] == getattr(there, "__all__", names[module])
        assert all(hasattr(there, name) for name in names[module])


def test_name_that_is_missing_in_the_reference_is_named(hook):
    names = {"lmjax": ["odeint", "steppers"], "lmjax.steppers": ["lm", "runge_kutta"]}
    documented = {"lmjax.odeint", "lmjax.steppers.runge_kutta.runge_kutta"}
    assert hook("complete").missing(documented, names) == ["lmjax.steppers.lm"]


def test_docstrings_are_plain_text(hook):
    text = "the *increment* in `a[i][j] * <b>`, train/<class>/*.jpg, 2**n, a[i][j]\n    *terms: pairs"
    expected = "the *increment* in `a[i][j] * <b>`, train/&lt;class&gt;/\\*.jpg, 2\\*\\*n, a[i]\\[j]\n    *terms: pairs"
    assert hook("docstrings").escaped(text) == expected


def test_formulas_are_mathml(hook):
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_path="page.md"))
    formulas = hook("formulas")
    made = formulas.on_page_content(r"""<p><span class="arithmatex">\(u' = -0.1, k &lt; 1\)</span></p>""", page)
    assert made.startswith('<p><math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert '<mo form="prefix">' in made, "the sign of a number"
    assert '<mrow><mi>u</mi><mo lspace="0" rspace="0">' in made, "the sign of a derivative"
    for wrong in (r"\left(1", r"\foo{1}"):
        with pytest.raises(ValueError, match=r"page\.md: .*: is not TeX"):
            formulas.on_page_content(rf'<div class="arithmatex">\[{wrong}\]</div>', page)
