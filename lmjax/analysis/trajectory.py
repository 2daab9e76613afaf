"""The path of the features through the steps of a trained network: how far each step goes, and how it turns.

With u_0, ..., u_L the states of a stage, u_0 the features that its first step starts from (brought to the shape of the
stage by its shortcut), norms over all the numbers of an image, and s_n = u_{n+1} - u_n:

    distance of a step          |s_n| / |u_n|
    what its branches add       |f_n| / |u_n|, what the step arrives at less what it would arrive at with f_n = 0
    turn                        the angle between s_n and s_{n-1}: the discrete curvature, 0 along a straight line
    norm                        |u_n| / |u_0|
    tortuosity                  the length sum |s_n| of the path over the distance |u_L - u_0|: 1 along a straight line

Steps that are independent of each other, in so many dimensions, are orthogonal: they turn by 90 degrees, and the
tortuosity of L of the same length is sqrt(L).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmjax.analysis import command, trajectory_figures
from lmjax.analysis.runs import Measured, add_runs, batches, grouped, measured, outputs, write_json
from lmjax.analysis.walk import require_steps, walk
from lmjax.training import Trained

_BATCH = 32  # all the states of so many images are kept at once


def measures(states: jax.Array, branches: jax.Array) -> dict[str, jax.Array]:
    """The quantities of the module, of each image.

    Args:
        states: [L + 1, N, ...].
        branches: [L, N, ...], what the branches add.

    Returns:
        float32 (or float64): "norm" [L + 1, N], |u_n| itself; "distance", "branch" [L, N]; "turn" [L - 1, N], in
        degrees; "tortuosity" [N]. What divides by a length of zero is NaN.
    """
    wide = jnp.promote_types(states.dtype, jnp.float32)
    u, f = (x.astype(wide).reshape(*x.shape[:2], -1) for x in (states, branches))
    steps = jnp.diff(u, axis=0)
    lengths = jnp.linalg.norm(steps, axis=-1)
    norms = jnp.linalg.norm(u, axis=-1)
    directions = steps / lengths[..., None]
    # From the chord between the two directions, which is exact for small angles, as an arc cosine is not.
    half = jnp.linalg.norm(jnp.diff(directions, axis=0), axis=-1) / 2
    return {
        "norm": norms,
        "distance": lengths / norms[:-1],
        "branch": jnp.linalg.norm(f, axis=-1) / norms[:-1],
        "turn": jnp.rad2deg(2 * jnp.arcsin(jnp.minimum(half, 1))),
        "tortuosity": jnp.sum(lengths, axis=0) / jnp.linalg.norm(u[-1] - u[0], axis=-1),
    }


def trajectories(trained: Trained, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The `measures` of every image in every stage of a trained network.

    Args:
        trained: the run.
        images: pixels, 0 to 255, [N, H, W, C].

    Returns:
        {"stage1": {"norm": [L + 1, N], ...}, ...}.

    Raises:
        InputError: if the network is not made of steps.
    """
    graph, state = nnx.split(trained.model())

    @jax.jit
    def program(state, pixels):
        walks, _ = walk(nnx.merge(graph, state), trained.normalised(pixels))
        return [measures(*each) for each in walks]

    parts = [
        jax.tree.map(lambda x, count=count: np.asarray(x)[..., :count], program(nnx.to_pure_dict(state), pixels))
        for count, pixels in batches(trained, _BATCH, images)
    ]
    whole = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *parts)
    return {f"stage{i}": stage for i, stage in enumerate(whole, start=1)}


def summary(stages: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{"stage1": {"distance": {"mean": [L], "std": [L]}, ...}, ...} over the images; the norm relative to the first."""
    found = {}
    for name, stage in stages.items():
        values = stage | {"growth": stage["norm"] / stage["norm"][:1]}
        found[name] = {key: {"mean": np.mean(x, axis=-1), "std": np.std(x, axis=-1)} for key, x in values.items()}
    return found


def plane(trained: Trained, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paths of some images through the last stage, on the plane in which they vary most (PCA).

    Args:
        trained: the run.
        images: pixels, 0 to 255, a few of them: [N, H, W, C].

    Returns:
        [L + 1, N, 2], the coordinates of the states; and the share of the variance along either axis, [2].
    """
    graph, state = nnx.split(trained.model())

    @jax.jit
    def program(state, pixels):
        return walk(nnx.merge(graph, state), trained.normalised(pixels))[0][-1].states

    states = np.asarray(program(nnx.to_pure_dict(state), images), np.float64)
    points = states.reshape(len(states) * len(images), -1)
    points -= points.mean(0)
    left, singular, _ = np.linalg.svd(points, full_matrices=False)
    coordinates = (left * singular)[:, :2]
    return coordinates.reshape(len(states), len(images), 2), singular[:2] ** 2 / np.sum(singular**2)


def add(commands: Any) -> None:
    """Adds the command to those of an argparse parser."""
    parser = commands.add_parser(
        "trajectory",
        help="how the features move through the steps of trained networks",
        description="Follows test images through the steps of trained networks: how far each step goes, how much of "
        "that its branches add, how it turns, how long the path is against the straight line.",
    )
    add_runs(parser, images=256, out="the picture to write, with the numbers beside it as .json; or a folder")
    parser.add_argument(
        "--classes", type=int, default=0, metavar="N",
        help="draw the paths of four images of each of so many classes, too (2 to 7), in the plane of most variance of "
        "the last stage: to FILE_plane",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _run(options: Any) -> None:
    paths = outputs(options, "trajectory")
    trajectory_figures.require_classes(options.classes, paths)
    planes = {}

    def measure(trained, images, labels):
        if options.classes:
            chosen = _few_of_each(labels, options.classes)
            planes[str(trained.record.directory)] = (
                *plane(trained, images[chosen]), [trained.dataset.classes[i] for i in labels[chosen]]
            )  # fmt: skip
        return {"stages": trajectories(trained, images)}

    results = measured(options, measure, require_steps)
    _print(results)
    if paths is not None:
        short = [Measured(r.label, r.about, {"stages": summary(r.values["stages"])}) for r in results]
        write_json(paths[1], short)
        groups = {label: [r.values["stages"] for r in group] for label, group in grouped(results).items()}
        command.save(trajectory_figures.measures(groups), paths[0])
        if planes:
            drawn = [(r.label, *planes[r.about["run"]]) for r in (group[0] for group in grouped(results).values())]
            command.save(trajectory_figures.planes(drawn), paths[0].with_stem(f"{paths[0].stem}_plane"))


def _few_of_each(labels: np.ndarray, classes: int, images: int = 4) -> np.ndarray:
    """The indices of the first images of the first classes that there are."""
    return np.concatenate([np.flatnonzero(labels == label)[:images] for label in np.unique(labels)[:classes]])


def _print(results: list[Measured]) -> None:
    """A line for each stage: means over the steps, the images, and the seeds."""
    rows = [("stage", "steps", "distance", "branches", "turn", "growth of norm", "tortuosity")]
    for label, group in grouped(results).items():
        for name in group[0].values["stages"]:
            stages = [result.values["stages"][name] for result in group]
            mean = {key: np.mean([np.mean(stage[key]) for stage in stages]) for key in ("distance", "branch")}
            turn = np.mean([np.mean(stage["turn"]) for stage in stages]) if len(stages[0]["turn"]) else np.nan
            growth = np.mean([np.mean(stage["norm"][-1] / stage["norm"][0]) for stage in stages])
            tortuosity = np.mean([np.mean(stage["tortuosity"]) for stage in stages])
            rows.append(
                (
                    f"{label}: {name}",
                    len(stages[0]["distance"]),
                    f"{mean['distance']:.3f}",
                    f"{mean['branch']:.3f}",
                    "" if np.isnan(turn) else f"{turn:.0f}°",
                    f"{growth:.2f}",
                    f"{tortuosity:.3f}",
                )
            )
    print()
    command.print_table(rows)
