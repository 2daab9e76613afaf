"""What the README says is run: its Python as it stands, and its commands as far as their arguments."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import command_line, networks, odeint, steppers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"python train\.py (.*)", README.replace("`", "\n"))

pytestmark = pytest.mark.versions


def block(word):
    """The only block with that word in it."""
    (found,) = [b for b in BLOCKS if word in b]
    return found


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, _ = command_line.parse(shlex.split(command), description="")
    assert config.train.epochs in (15, 40, 160)


def test_the_two_commands():
    assert "pip install -r requirements.txt && python train.py --config configs/digits.py\n" in README
    assert "pip install -r requirements.txt -r requirements-dev.txt && pytest\n" in README


def test_every_stepper_is_in_the_table():
    table = README.partition("| `--model.stepper`")[2].partition("\n\n")[0]
    named = {n for row in table.splitlines()[2:] for n in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {n for n in steppers.names() if n not in ("momentum", "mine_test")}


def test_a_stepper_of_your_own_is_a_scheme_and_a_network():
    code = block("momentum")
    namespace = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), namespace)
    lines = [line for line in code.partition("@functools")[2].splitlines() if line.strip()]
    assert len(lines) <= 15
    momentum = namespace["momentum"]()
    assert steppers.get("momentum") is momentum
    u = odeint(momentum, lambda u: -u, jnp.float32(1.0), t1=1.0, steps=2000)
    np.testing.assert_allclose(u, np.exp(-1), atol=0.01)
    # It is LM with k = -g and (1 - g) f.
    f, u, v = jnp.cos, jnp.float32(0.4), jnp.float32(0.2)
    ours, _ = momentum.step((f,), u, v, None)
    by_lm, _ = steppers.lm().step((lambda u: 0.1 * f(u),), u, u - v, -0.9)
    np.testing.assert_allclose(ours, by_lm, rtol=1e-6)
    model = networks.create("resnet14", stepper=momentum, width=4, rngs=nnx.Rngs(0))
    gradient = nnx.grad(lambda model: model(jax.random.normal(jax.random.key(0), (2, 8, 8, 3))).sum())(model)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
