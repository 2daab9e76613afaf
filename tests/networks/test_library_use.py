"""Networks and steppers in the hands of Flax, pickle and optax."""

import copy
import dataclasses
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmjax import InputError, networks, optimizers, steppers
from lmjax.steppers import Stepper, Tableau, over_stage
from tests.parameters import few
from tests.steppers.schemes import WRAPPERS

IMAGES = jnp.zeros((2, 16, 16, 3))
KINDS = {
    "LM": ("resnet14", {"stepper": "lm"}),
    "stochastic depth": ("resnet14", {"stepper": "stochastic_depth(lm)", "unroll": False}),
    "reversible, random": ("resnet14", {"stepper": "noise(momentum)", "memory": "reversible"}),
    "FractalNet": ("fractalnet(2, 3)", {}),
    "across the boundary": ("resnet14", {"stepper": "lm", "boundary": "step", "activation": "gelu"}),
    "dense, recomputed": ("resnet14", {"stepper": "dense", "memory": "remat", "activation": "tanh"}),
    "shared": ("resnet14", {"stepper": "rk4", "sharing": "all", "activation": "silu"}),
    "shared convolutions": ("resnet14", {"stepper": "poly(2)", "sharing": "convolutions"}),
    "iterated": ("resnet14", {"stepper": "backward_euler(5, 0.01)", "normalization": "group(4)"}),
    "RevNet": ("revnet38", {"memory": "reversible"}),
    "ConvNeXt": ("convnext((1, 2), (8, 12), patch=2)", {}),
    "vision transformer": ("vit(width=12, depth=2, patch=8, image=16)", {}),
    "ResNeXt": ("resnext(29, 2, 8)", {"width": 0.25}),
    "for ImageNet": ("resnet18", {"width": 0.25}),
}
IN_SHORT = few(KINDS, ["LM", "stochastic depth", "reversible, random", "FractalNet"])


def create(kind):
    name, options = KINDS[kind]
    width = {"width": 0.25} if name.startswith(("resnet", "revnet")) else {}
    return networks.create(name, rngs=nnx.Rngs(0), **(width | options))


@pytest.mark.parametrize("kind", IN_SHORT)
def test_tables_of_flax(kind):
    """In training, with a key where there is something to draw: each stage, and the modules in it, is a row."""
    model = create(kind)
    table = nnx.tabulate(model, IMAGES, *([jax.random.key(0)] if model.random else []), console_kwargs={"width": 300})
    expected = ("stages/0", "steps/item") if hasattr(model, "stages") else ("blocks/0", "Unit")
    total = sum(x.size for x in jax.tree.leaves(nnx.state(model)))
    assert [word for word in (*expected, "Conv", f"Total Parameters: {total:,}") if word not in table] == []


@pytest.mark.parametrize("kind", IN_SHORT)
def test_networks_survive_pickling_and_copying(kind):
    model = create(kind)
    model.eval()
    graph, state = nnx.split(model)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        same, values = nnx.split(other)
        assert same == graph, "so that nothing is compiled again"
        jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(values), nnx.to_pure_dict(state))


NAMES = [*steppers.names(), "dense(3)", "lm(-0.5, -0.5, per_channel=True)", "adams_bashforth(3)", "poly(3, drop=0.2)"]


@pytest.mark.parametrize("name", [*NAMES, *[f"{wrapper}(noise(dense))" for wrapper in WRAPPERS]])
def test_steppers_are_the_same_after_pickling_and_copying(name):
    stepper = steppers.get(name)
    for each in (stepper, *over_stage(stepper, 4)):
        assert pickle.loads(pickle.dumps(each)) is copy.copy(each) is copy.deepcopy(each) is each


def test_a_tableau_of_ones_own_is_pickled():
    ralston = steppers.runge_kutta(Tableau("ralston", a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0, 2 / 3), order=2))
    assert pickle.loads(pickle.dumps(steppers.noise(ralston))) is steppers.noise(ralston)


def test_a_stepper_made_by_hand_says_how_it_could_be_pickled():
    def step(fs, u, history, coef):
        return u, history

    for stepper in (Stepper("still", step), dataclasses.replace(steppers.lm(), name="still")):
        with pytest.raises(InputError, match="stepper still: cannot be pickled, since it was made by hand"):
            pickle.dumps(steppers.scaled(stepper))
    steppers.register(lambda: Stepper("still", step), name="still")
    still = steppers.get("still")
    assert pickle.loads(pickle.dumps(still)) is still


def test_another_process_makes_the_stepper_again(tmp_path):
    (tmp_path / "stepper").write_bytes(pickle.dumps(steppers.get("stochastic_depth(lm, 0.8)")))
    program = "import pickle, sys; s = pickle.load(open(sys.argv[1], 'rb')); from lmjax import steppers; print(s.name)"
    found = subprocess.run([sys.executable, "-c", program, tmp_path / "stepper"], capture_output=True, text=True)
    assert found.stdout.strip() == "stochastic_depth(lm)", found.stderr


@pytest.mark.parametrize("pure", [False, True])
def test_the_decay_mask_in_a_chain_of_optax(pure):
    """Gradients of zero: only what decays moves."""
    params = nnx.state(create("LM"), nnx.Param)
    params = nnx.to_pure_dict(params) if pure else params
    adamw = optax.adamw(0.1, weight_decay=0.1, mask=optimizers.decay_mask)
    updates, _ = adamw.update(jax.tree.map(jnp.zeros_like, params), adamw.init(params), params)
    moved = {jax.tree_util.keystr(p): bool(jnp.any(x != 0)) for p, x in jax.tree_util.tree_leaves_with_path(updates)}
    assert {"kernel" in path for path, moves in moved.items() if moves} == {True}
    assert not any("kernel" in path for path, moves in moved.items() if not moves)
    everything = optimizers.decay_mask(params, decay="all", of_coefficients=True)
    assert all(jax.tree.leaves(everything))
    assert len(jax.tree.leaves(everything)) == len(moved) > 20
