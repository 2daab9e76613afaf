"""Networks with smaller and more steps: the network itself, the ODE in the limit, and what is in between by hand."""

import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lmjax
from lmjax import InputError, odeint, steppers
from lmjax.analysis import refinement
from lmjax.analysis.refinement import refined
from lmjax.analysis.walk import walk
from lmjax.networks.block import PureBranch
from tests.analysis import main
from tests.analysis.small import IMAGES, KINDS, network
from tests.parameters import few


def evaluated(model, function, images=IMAGES):
    graph, state = nnx.split(model)
    return jax.jit(lambda state: function(nnx.merge(graph, state), images))(nnx.to_pure_dict(state))


def moved(model, factor, images=IMAGES):
    return evaluated(model, lambda model, x: refined(model, x, factor), images)


def blocks(stage):
    """The blocks of a stage one by one."""
    graph, variables = nnx.split(stage.steps.item)
    return [nnx.merge(graph, jax.tree.map(lambda x, n=n: x[n], variables)) for n in range(stage.steps.depth)]


@pytest.mark.versions
@pytest.mark.parametrize("kind", few((k for k in KINDS if k != "lm, rolled"), ["lm", "reversible"]))
def test_one_step_for_one_is_the_network_itself(kind):
    stepper, options = KINDS[kind]
    model = network(stepper, **options)
    np.testing.assert_array_equal(moved(model, 1)[1], evaluated(model, lambda model, x: model(x)))


def test_refined_and_coarsened_euler_by_hand():
    model = network("euler", depths=(4,))
    (stage,) = model.stages
    f0, f1, f2 = (block.branches[0] for block in blocks(stage))

    def by_hand(factor):
        (u, _), _ = stage.begin(model.stem(IMAGES), None, steppers.StepInfo(None, 0, 4))
        if factor == 3:
            for f in (f0, f1, f2):
                for _ in range(3):
                    u = u + f(u) / 3
        elif factor == Fraction(1, 2):
            u = u + 2 * f0(u)
            u = u + f2(u)  # the last one, which has no other to stand for
        return u

    for factor in (3, Fraction(1, 2)):
        u, logits = moved(model, factor)
        np.testing.assert_allclose(u, by_hand(factor), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, model.classify(u), rtol=1e-4, atol=1e-5)
        assert np.abs(u - moved(model, 1)[0]).max() > 0.01


def in_the_limit(model, images, damping):
    """damping u' = F, or u'' = F for verlet, with F piecewise constant in time, from the state after the first step."""
    (first, u, *_), _ = walk(model, images)[0][0]
    v = u - first
    for block in blocks(model.stages[0]):
        f, c = PureBranch(block.branches[0]), damping(block.values())
        if model.stepper is steppers.verlet():
            u, v = odeint(steppers.rk4(), lambda t, s, f=f: (s[1], f(s[0])), (u, v), t1=1.0, steps=64)
        else:
            u = odeint(steppers.rk4(), lambda t, u, f=f, c=c: f(u) / c, u, t1=1.0, steps=64)
    return u


MULTISTEP = (
    "lm(-0.6, 0.4)", "lm(-0.6, 0.4, per_channel=True)", "leapfrog", "momentum(0.5)", "adams_bashforth(2)",
    "linear_multistep((0.3, 0.5, 0.2), (1.2, 0.4))", "verlet",
)  # fmt: skip


@pytest.mark.parametrize("stepper", few(MULTISTEP, ["lm(-0.6, 0.4)", "verlet"]))
def test_multistep_networks_converge_to_their_ode(stepper, x64):
    """To first order, whatever the order of the scheme: the field jumps from step to step, and the start is at rest."""
    images = jnp.asarray(IMAGES, jnp.float64)
    model = network(stepper, depths=(3,), dtype=jnp.float64)
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.float64), state))
    limit = evaluated(model, lambda model, x: in_the_limit(model, x, model.stepper.known.damping), images)
    errors = [float(jnp.linalg.norm(moved(model, m, images)[0] - limit)) for m in (16, 64)]
    assert errors[1] < 0.02 * float(jnp.linalg.norm(limit))
    assert 3 < errors[0] / errors[1] < 6


def test_what_crosses_a_boundary_is_of_whole_steps():
    """The first step of the next stage is not refined: what it remembers are increments of a step of the network."""
    model = network("adams_bashforth(2)", depths=(3, 2), boundary="step")
    visited = []

    def visit(stage, u, history, info):
        visited.append(refinement._refined_stage(stage, u, history, info, Fraction(64)))
        return visited[-1]

    model.features(IMAGES, visit=visit)
    u, (_, (increment,)) = visited[0]
    expected = blocks(model.stages[0])[-1].branches[0](u)
    assert jnp.linalg.norm(increment - expected) < 0.1 * jnp.linalg.norm(expected)


def test_what_is_remembered_moves_with_the_size_of_the_steps():
    """States along the straight line to the present one, increments in proportion."""
    u, earlier = jnp.full((2,), 3.0), jnp.full((2,), 1.0)
    for ratio, state, increment in ((0.5, 2.0, 0.5), (0.25, 2.5, 0.25), (2.0, -1.0, 2.0)):
        np.testing.assert_allclose(refinement._rescaled(steppers.lm(), u, earlier, ratio), state)
        states, increments = refinement._rescaled(steppers.learned_multistep(2), u, ((earlier,), (earlier,)), ratio)
        np.testing.assert_allclose(states[0], state)
        np.testing.assert_allclose(increments[0], increment)


@pytest.mark.parametrize("factor", [3, Fraction(1, 2)])
def test_verlet_without_forces_goes_on_straight_whatever_the_sizes_of_its_steps(factor):
    """u'' = 0: with the velocity of the first step five times as far, be it in 15 steps or in 2, 2 and 1."""
    model = network("verlet", depths=(6,), zero_init=True)
    model.stages[0].entry.branches[0].conv2.kernel[...] += 0.3  # the first step alone goes anywhere
    before, after = walk(model, IMAGES)[0][0].states[:2]
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(moved(model, factor)[0], after + 5 * (after - before), rtol=1e-4, atol=1e-4)


def test_factors_that_cannot_be():
    for factor in (Fraction(3, 2), 0, -1):
        with pytest.raises(InputError, match="give a whole number"):
            refined(network("euler"), IMAGES, factor)


def test_command(runs, tmp_path, capsys):
    out = tmp_path / "refined.json"
    arguments = ["--images", "100", "--factors", "2", "1/2", "--out", str(out)]
    assert main(["refinement", str(runs["lm"]), *arguments]) == 0
    assert "tiny, lm: 1/2" in capsys.readouterr().out
    assert (tmp_path / "refined.png").stat().st_size > 0
    found = json.loads(out.read_text())["runs"]
    assert [run["label"] for run in found] == ["tiny, lm", "tiny, lm"]
    for run, directory in zip(found, (runs["lm"] / "seed0", runs["lm"] / "seed1"), strict=True):
        assert list(run["factors"]) == ["1/2", "1", "2"]
        itself = run["factors"]["1"]
        with lmjax.load(directory) as trained:
            images, labels = trained.test_sample(100)
            predicted = trained.logits(trained.model(), images).argmax(-1)
        assert itself["accuracy"] == pytest.approx(np.mean(predicted == labels))
        assert (itself["agreement"], itself["features"], itself["logits"]) == (1, 0, 0)
        assert run["factors"]["2"]["features"] > 0
        # A stage of one step besides the first cannot be coarsened: that step stands for itself.
        assert run["factors"]["1/2"]["agreement"] == 1
