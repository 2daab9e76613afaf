"""Statements of the README and of docs/*.md. Their code and commands are run by tests/test_documentation.py."""

import os
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import networks, odeint, steppers
from tests.documentation import ROOT, blocks, text
from tests.steppers.schemes import WRAPPERS

README = text("README.md")
WRAPPED = text("docs/schemes.md").partition("| wrapper |")[2].partition("\n\n")[0]

pytestmark = pytest.mark.versions


def block(word):
    """The only block with that word in it."""
    (found,) = [b for b in blocks(README) if word in b]
    return found


def test_every_promise_names_a_test_that_there_is():
    files = {"F": "tests/test_faults.py", "T": "tests/test_train.py"}
    table = text("docs/reliability.md")
    named = re.findall(r"`([\w/.]+)::(\w+)`", table)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / files.get(file, file)).read_text()
    for file in re.findall(r"`(tests/[\w/.]+\.py)`", table):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize(
    ("codes", "calls"), [([143, -9, 75, 1, 0], 5), ([2], 1), ([143, 130], 2)], ids=["finished", "mistake", "Ctrl-C"]
)
@pytest.mark.parametrize("page", ["README.md", "docs/reliability.md"])
def test_the_command_is_repeated_until_it_is_finished(tmp_path, page, codes, calls):
    """The loop as it stands, with a python that ends as it is told."""
    (loop,) = re.findall(r"^while :; do\n.*?^done\n", text(page), re.MULTILINE | re.DOTALL)
    ends = "".join(f"{n}) {'kill -9 $$' if code < 0 else f'exit {code}'};;\n" for n, code in enumerate(codes, 1))
    (tmp_path / "python").write_text(f"#!/bin/sh\necho $* >> calls\ncase $(wc -l < calls) in\n{ends}esac\n")
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("python", "sleep"):
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, env=environment, timeout=20, capture_output=True, check=True)
    assert (tmp_path / "calls").read_text().count("--workdir runs/a --resume auto\n") == calls


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    """Those of docs/*.md are checked by mkdocs."""
    prose = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\((.*?)\)", prose) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_two_commands():
    assert "pip install -r requirements.txt && python train.py --config configs/digits.py\n" in README
    assert "pip install -r requirements.txt -r requirements-dev.txt && pytest\n" in README


def test_every_stepper_is_in_the_table():
    table = README.partition("| `--model.stepper`")[2].partition("\n\n")[0]
    named = {n for row in table.splitlines()[2:] for n in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(steppers.names())
    assert all(re.search(r"f[₁(]|Runge-Kutta|half steps|f\(", row) for row in table.splitlines()[2:]), "a formula each"
    assert set(re.findall(r"^\| `(\w+)\(", WRAPPED, re.MULTILINE)) == set(WRAPPERS)


@pytest.mark.parametrize("call", re.findall(r"`(\w+\([^`]*\))`", README.partition("## Use a stepper")[0] + WRAPPED))
def test_every_call_is_a_stepper(call):
    assert isinstance(steppers.get(call), steppers.Stepper)


def test_every_network_is_known():
    named = text("docs/networks.md").partition("`--model.name` is one of")[2].partition("or another")[0]
    found, family = [], ""
    for word in re.findall(r"`([\w]+)`", named):
        family = re.match(r"[a-z]*", word)[0] or family
        found.append(word if re.match(r"[a-z]", word) else family + word)
    assert {n for n in networks.names() if n not in ("resnet8", "resnet14", "resnet26")} == set(found)


def test_a_stepper_of_your_own_is_a_scheme_and_a_network():
    namespace = {"__name__": "readme"}
    exec(compile(block("damped"), "README.md", "exec"), namespace)
    damped = namespace["damped"]
    assert steppers.get("damped") is damped()
    assert steppers.get("damped(0.8)") is damped(0.8)
    u, _ = damped(0.8).step((jnp.cos,), jnp.float32(0.4), (), None)
    np.testing.assert_allclose(u, 0.8 * 0.4 + np.cos(0.4), rtol=1e-6)
    # With the factor 1 it is Euler, and a solver.
    u = odeint(damped(1.0), lambda u: -u, jnp.float32(1.0), t1=1.0, steps=2000)
    np.testing.assert_allclose(u, np.exp(-1), atol=0.01)
    wrapped = steppers.get("stochastic_depth(damped)")
    model = networks.create("resnet14", stepper=wrapped, width=0.25, rngs=nnx.Rngs(0))
    images, key = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jax.random.key(1)
    gradient = nnx.jit(nnx.grad(lambda model: model(images, key).sum()))(model)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
