"""What README.md and docs say is so: the Python runs as it stands, commands are understood, and tables are complete."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from lmjax import cli, networks, odeint, steppers
from lmjax.cli.train import Train
from lmjax.config import Config
from lmjax.training import RunRecord
from tests.devices import ONE
from tests.documentation import PAGES, ROOT, blocks, commands, stories, text
from tests.steppers.schemes import WRAPPERS

README, SCHEMES = text("README.md"), text("docs/schemes.md")
WRAPPED = SCHEMES.partition("| wrapper |")[2].partition("\n\n")[0]
LMJAX = [words for words in commands("lmjax") if len(words.split()) > 1 and words.split()[0] in cli.COMMANDS]
STORIES = {name: code for page in PAGES for name, code in stories(page).items()}


@pytest.mark.versions
@pytest.mark.parametrize("name", STORIES)
def test_code_runs(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)  # `import train`
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # One device: that compiles faster.
    monkeypatch.setattr("tests.tiny._trainers", {})
    monkeypatch.setattr("lmjax.training.trainer.data_mesh", lambda: ONE)
    for package in ("equinox", "diffrax"):
        if f"import {package}" in "".join(STORIES[name]):
            pytest.importorskip(package)
    namespace = {"__name__": "documentation"}
    for code in STORIES[name]:
        exec(compile(code, name, "exec"), namespace)


def test_the_network_of_the_page_can_be_exported():
    namespace = {"__name__": "documentation"}
    exec(blocks(text("docs/own_network.md"))[0], namespace)
    model = namespace["config"].model.build(classes=10, cin=1, rngs=nnx.Rngs(0))
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), 8, 8, 1), jnp.float32)
    (logits,) = export.export(jax.jit(model))(images).out_avals
    assert str(logits.shape) == "(n, 10)"


def test_there_are_code_and_commands_on_the_pages():
    assert {name.partition(":")[0] for name in STORIES} >= {"README.md", "docs/own_stepper.md", "docs/own_model.md"}
    assert {name.partition(": ")[2] for name in stories("docs/own_model.md")} == {"Flax NNX", "Flax Linen", "Equinox"}
    assert {words.split()[0] for words in LMJAX} >= {"train", "list", "report", "analyze", "reproduce", "prepare"}
    assert "pip install -r requirements.txt && python train.py --config configs/digits.py\n" in README
    assert "pip install -r requirements.txt -r requirements-dev.txt && pytest\n" in README


@pytest.fixture
def recorded(monkeypatch):
    """What is named as the folder of a run holds one."""
    monkeypatch.setattr(RunRecord, "config", lambda self: Config())


CONFIGS = {
    "configs/paced.py": "docs/own_stepper.md",
    "configs/mixer.py": "docs/own_network.md",
    "half.py": "docs/finetuning.md",
}


@pytest.mark.versions
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    "command", [*commands("train.py"), *(words.removeprefix("train ") for words in LMJAX if words.startswith("train "))]
)
def test_commands_of_train_are_understood(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for name, page in CONFIGS.items():
        if name in command:  # made as the page says
            (tmp_path / "configs").mkdir()
            own = r"def (paced|mixer|some_digits)|register\(|^config = "
            parts = [block for block in blocks(text(page)) if re.search(own, block, re.MULTILINE)]
            (tmp_path / name).write_text("\n".join(parts))
            monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunRecord, "started", True)
    config, _ = Train.parse(shlex.split(command))
    steppers.get(config.model.stepper or "euler")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("command", [words for words in LMJAX if not words.startswith("train ")])
def test_other_commands_are_understood(command, monkeypatch):
    words = shlex.split(command)
    found = cli.found(cli.COMMANDS[words[0]])
    for one in found.values() if isinstance(found, dict) else [found]:
        monkeypatch.setattr(one, "run", lambda *_: None)
    assert cli.main(words) == 0


@pytest.mark.parametrize(
    ("codes", "calls"), [([143, -9, 75, 1, 0], 5), ([2], 1), ([143, 130], 2)], ids=["finished", "mistake", "Ctrl-C"]
)
def test_the_command_is_repeated_until_it_is_finished(tmp_path, codes, calls):
    """The loop as it stands, with a python that ends as it is told."""
    pages = (text(page) for page in ("README.md", "docs/reliability.md"))
    loop, same = (re.search(r"^while :; do\n.*?^done\n", page, re.MULTILINE | re.DOTALL)[0] for page in pages)
    assert loop == same
    ends = "".join(f"{n}) {'kill -9 $$' if code < 0 else f'exit {code}'};;\n" for n, code in enumerate(codes, 1))
    programs = {"python": f"echo $* >> calls\ncase $(wc -l < calls) in\n{ends}esac\n", "sleep": ""}
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, env=environment, timeout=20, capture_output=True, check=True)
    assert (tmp_path / "calls").read_text().count("--workdir runs/a --resume auto\n") == calls


def test_every_promise_names_a_test_that_there_is():
    files = {"F": "tests/test_faults.py", "T": "tests/test_train.py"}
    table = text("docs/reliability.md")
    named = re.findall(r"`([\w/.]+)::(\w+)`", table)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / files.get(file, file)).read_text()
    for file in re.findall(r"`(tests/[\w/.]+\.py)`", table):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    """Those of docs/*.md are checked by mkdocs."""
    prose = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\((.*?)\)", prose) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_stepper_and_wrapper_is_in_the_tables():
    """That of docs/schemes.md has its branches, order, coefficients and inverse."""
    table = README.partition("| `--model.stepper`")[2].partition("\n\n")[0].splitlines()[2:]
    assert {n for row in table for n in re.findall(r"`(\w+)`", row.split("|")[1])} == set(steppers.names())
    assert all(re.search(r"f[₁(]|Runge-Kutta|half steps|f\(", row) for row in table), "a formula each"
    assert set(re.findall(r"^\| `(\w+)\(", WRAPPED, re.MULTILINE)) == set(WRAPPERS)
    table = SCHEMES.partition("| type |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert {row[0].strip("`") for row in rows} == set(steppers.names())
    for kind, _, _, branches, order, trained, inverse in rows:
        _, stepper = steppers.over_stage(steppers.get(kind.strip("`")), 2)
        assert int(branches) == stepper.evaluations, kind
        assert order in (str(stepper.known.order), "" if kind == "`dense`" else None), kind
        assert bool(trained) == (stepper.coef is not None), kind
        assert bool(inverse) == (stepper.inverse is not None), kind


@pytest.mark.versions
def test_every_call_is_a_stepper():
    calls = re.findall(r"`(\w+\([^`]*\))`", README.partition("## Use a stepper")[0] + WRAPPED)
    calls += re.findall(r"`(\w+\([^`]*\d[^`]*\))`", SCHEMES)
    assert calls
    for call in calls:
        assert isinstance(steppers.get(call), steppers.Stepper), call


def test_every_network_is_known():
    named = text("docs/networks.md").partition("`--model.name` is one of")[2].partition("or another")[0]
    found, family = [], ""
    for word in re.findall(r"`([\w]+)`", named):
        family = re.match(r"[a-z]*", word)[0] or family
        found.append(word if re.match(r"[a-z]", word) else family + word)
    assert {n for n in networks.names() if n not in ("resnet8", "resnet14", "resnet26")} == set(found)


@pytest.mark.versions
def test_a_stepper_of_your_own_is_a_scheme_and_a_network():
    (block,) = (code for code in blocks(README) if "damped" in code)
    namespace = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    damped = namespace["damped"]
    assert steppers.get("damped") is damped()
    u, _ = steppers.get("damped(0.8)").step((jnp.cos,), jnp.float32(0.4), (), None)
    np.testing.assert_allclose(u, 0.8 * 0.4 + np.cos(0.4), rtol=1e-6)
    # With the factor 1 it is Euler, and a solver.
    u = odeint(damped(1.0), lambda t, u: -u, jnp.float32(1.0), t1=1.0, steps=2000)
    np.testing.assert_allclose(u, np.exp(-1), atol=0.01)
    model = networks.create("tiny", stepper="stochastic_depth(damped)", rngs=nnx.Rngs(0))
    images, key = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jax.random.key(1)
    gradient = nnx.jit(nnx.grad(lambda model: model(images, key).sum()))(model)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


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
        own = [name for name, x in vars(there).items() if getattr(x, "__module__", None) == module and callable(x)]
        expected = getattr(there, "__all__", [name for name in own if not name.startswith("_")])
        assert set(names[module]) >= set(expected)
        assert all(hasattr(there, name) for name in names[module])


def test_what_the_pages_are_made_of(hook):
    """A name that is missing in the reference is named; docstrings are plain text."""
    names = {"lmjax": ["odeint", "steppers"], "lmjax.steppers": ["lm", "runge_kutta"]}
    documented = {"lmjax.odeint", "lmjax.steppers.runge_kutta.runge_kutta"}
    assert hook("complete").missing(documented, names) == ["lmjax.steppers.lm"]
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
