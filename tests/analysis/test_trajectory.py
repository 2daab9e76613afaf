"""Networks walked step by step, and the geometry of what is found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lmjax
from lmjax.analysis import network_figures, trajectory
from lmjax.analysis.walk import walk
from tests.analysis import main
from tests.analysis.small import IMAGES, KINDS, network
from tests.parameters import few


def walked(model):
    """The walk and the logits of the walk, and the logits of the network, in one program."""
    graph, state = nnx.split(model)

    @jax.jit
    def program(state):
        model = nnx.merge(graph, state)
        return *walk(model, IMAGES), model(IMAGES)

    return program(nnx.to_pure_dict(state))


@pytest.mark.parametrize("kind", few(KINDS, ["lm, across the boundaries", "rk4, shared", "reversible"]))
def test_walk_is_what_the_network_computes(kind):
    stepper, options = KINDS[kind]
    model = network(stepper, **options)
    walks, logits, expected = walked(model)
    tolerance = 1e-2 if "bfloat16" in kind else 1e-5
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)
    assert [w.states.shape for w in walks] == [(4, 3, 6, 6, 4), (3, 3, 3, 3, 8)]
    assert [w.branches.shape for w in walks] == [(3, 3, 6, 6, 4), (2, 3, 3, 3, 8)]
    for w in walks:
        steps = np.abs(np.diff(np.asarray(w.states, np.float32), axis=0)).reshape(len(w.branches), -1)
        assert np.all(steps.max(-1) > 0)
        if kind in ("rk4, shared", "reversible"):  # of a one-step scheme the branches are the whole step
            np.testing.assert_allclose(w.branches, np.diff(w.states, axis=0), atol=1e-5)
        assert np.all(np.abs(np.asarray(w.branches, np.float32)).reshape(len(w.branches), -1).max(-1) > 0)


@pytest.mark.versions
def test_branches_are_the_increments_of_lm():
    model = network("lm(-0.6, 0.4)")
    walks, _, _ = walked(model)
    for stage, (u, f) in zip(model.stages, walks, strict=True):
        k = stage.steps.item.coefficients[0][...]
        np.testing.assert_allclose(u[1], u[0] + f[0], atol=1e-5)  # the first step is one of Euler
        for n in range(1, len(f)):
            np.testing.assert_allclose(u[n + 1], (1 - k[n - 1]) * u[n] + k[n - 1] * u[n - 1] + f[n], atol=1e-5)


def test_rectified_states_and_what_the_branches_add_before_that():
    for u, f in walked(network("euler", post=True))[0]:
        assert np.all(u[1:] >= 0)
        np.testing.assert_allclose(u[1:], np.maximum(u[:-1] + f, 0), atol=1e-5)
        assert np.any(u[:-1] + f < -0.1)


def path(points):
    """Points [L + 1, 2] as the states of one image."""
    return jnp.asarray(points, jnp.float32)[:, None]


def test_geometry_of_known_paths():
    line = trajectory.measures(path([[1, 0], [2, 0], [4, 0], [5, 0]]), path([[1, 0], [0, 4], [2, 0]]))
    np.testing.assert_allclose(line["norm"][:, 0], [1, 2, 4, 5])
    np.testing.assert_allclose(line["distance"][:, 0], [1, 1, 1 / 4])
    np.testing.assert_allclose(line["branch"][:, 0], [1, 2, 1 / 2])
    np.testing.assert_allclose(line["turn"][:, 0], [0, 0], atol=1e-3)
    np.testing.assert_allclose(line["tortuosity"], 1)

    angles = np.linspace(0, np.pi, 7)
    half_circle = path(np.stack([np.cos(angles), np.sin(angles)], -1))
    found = trajectory.measures(half_circle, half_circle[1:])
    np.testing.assert_allclose(found["turn"][:, 0], 30, rtol=1e-4)
    np.testing.assert_allclose(found["tortuosity"], 6 * 2 * np.sin(np.pi / 12) / 2, rtol=1e-5)

    steps = np.eye(9, dtype=np.float32)
    right_angles = jnp.concatenate([jnp.ones((1, 9)), 1 + jnp.cumsum(steps, 0)])[:, None]
    found = trajectory.measures(right_angles, right_angles[1:])
    np.testing.assert_allclose(found["turn"], 90, rtol=1e-4)
    np.testing.assert_allclose(found["tortuosity"], 3, rtol=1e-5)

    back = trajectory.measures(path([[0, 1], [1, 1], [0.5, 1]]), path([[1, 0], [0, 0]]))
    np.testing.assert_allclose(back["turn"][0, 0], 180, atol=0.1)
    np.testing.assert_allclose(back["tortuosity"], 3, rtol=1e-5)


def test_trajectories_of_a_run(runs):
    with lmjax.load(runs["euler"]) as trained:
        images, _ = trained.test_sample(40)
        together = trajectory.trajectories(trained, images)
        alone = trajectory.trajectories(trained, images[35:36])
        points, shares = trajectory.plane(trained, images[:3])
    assert list(together) == ["stage1"]
    for name, stage in together.items():
        assert {key: x.shape for key, x in stage.items()} == {
            "norm": (3, 40), "distance": (2, 40), "branch": (2, 40), "turn": (1, 40), "tortuosity": (40,),
        }  # fmt: skip
        for key, x in stage.items():  # neither the other images nor the batches show
            np.testing.assert_allclose(x[..., 35], alone[name][key][..., 0], rtol=1e-3, atol=1e-3)

    assert points.shape == (3, 3, 2)
    assert 0 < shares[1] <= shares[0] < shares.sum() <= 1 + 1e-9
    np.testing.assert_allclose(points.reshape(-1, 2).mean(0), 0, atol=1e-4)
    whole = (together["stage1"]["distance"] * together["stage1"]["norm"][:-1])[:, :3]
    projected = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    assert np.all(projected <= whole * (1 + 1e-3))
    assert projected.max() > 0.3 * whole.max()


def test_command(runs, tmp_path, capsys):
    out = tmp_path / "paths.png"
    arguments = ["--images", "32", "--classes", "2", "--out", str(out)]
    assert main(["trajectory", str(runs["lm"]), str(runs["euler"]), *arguments]) == 0
    said = capsys.readouterr().out
    assert "tiny, lm: stage1" in said
    assert "tiny, euler: stage1" in said
    assert out.stat().st_size > 0
    assert (tmp_path / "paths_plane.png").stat().st_size > 0
    found = json.loads((tmp_path / "paths.json").read_text())["runs"]
    assert [(run["label"], run["config"]["seed"]) for run in found] == [
        ("tiny, lm", 0), ("tiny, lm", 1), ("tiny, euler", 0),
    ]  # fmt: skip
    for run in found:
        assert run["images"] == 32
        assert len(run["stages"]["stage1"]["distance"]["mean"]) == 2
        assert run["stages"]["stage1"]["tortuosity"]["mean"] >= 1


def random_walk(depths):
    """The measures of two images that walk at random through stages of so many steps."""
    found = {}
    for number, depth in enumerate(depths, start=1):
        states = np.cumsum(np.random.default_rng(number).normal(size=(depth + 1, 2, 50)), axis=0)
        measures = trajectory.measures(jnp.asarray(states), jnp.asarray(np.diff(states, axis=0)))
        found[f"stage{number}"] = jax.tree.map(np.asarray, measures)
    return found


def test_picture():
    groups = {"short": [random_walk((2, 2, 2))], "long": [random_walk((3, 6, 3, 2))]}
    for order in (["short", "long"], ["long", "short"]):
        figure = network_figures.trajectories({name: groups[name] for name in order})
        distance, turn, norm, tortuosity = figure.axes
        assert [text.get_text() for text in distance.get_xticklabels()] == [f"stage {i}" for i in (1, 2, 3, 4)]
        for marker, name in zip("os", order, strict=True):
            stages = groups[name][0]
            for line, center in zip(lines(norm, marker), norm.get_xticks(), strict=False):
                assert line.get_xdata()[[0, -1]].mean() == pytest.approx(center)
                assert np.ptp(line.get_xdata()) == pytest.approx(0.85)
            steps = [len(line.get_xdata()) for line in lines(distance, marker)]
            assert steps == [len(stage["distance"]) for stage in stages.values()]
            assert [len(line.get_xdata()) for line in lines(turn, marker)] == [count - 1 for count in steps]
        expected = {"short": [2**0.5] * 3, "long": [3**0.5, 6**0.5, 3**0.5, 2**0.5]}
        assert references(tortuosity) == pytest.approx([x for name in order for x in expected[name]])


def lines(axes, marker):
    """Those of a network, a stage each."""
    return [line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata())]


def references(axes):
    """How high the lines for equal steps at right angles are."""
    found = [lines for lines in axes.collections if len(lines.get_segments()) == 1 and lines.get_zorder() == 0]
    return [lines.get_segments()[0][0][1] for lines in found]
