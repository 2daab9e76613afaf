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

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.analysis.walk import walk
from lmjax.promotion import at_least_float32
from lmjax.training import TrainedNetwork

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
    wide = at_least_float32(states.dtype)
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


def trajectories(trained: TrainedNetwork, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The `measures` of every image in every stage of a trained network.

    Args:
        trained: the run.
        images: pixels, 0 to 255, [N, H, W, C].

    Returns:
        {"stage1": {"norm": [L + 1, N], ...}, ...}.

    Raises:
        InputError: if the network is not made of steps.
    """

    def program(network, pixels):
        return [measures(*each) for each in walk(network, trained.normalized(pixels))[0]]

    whole = trained.over_batches(program, _BATCH, images, axis=-1)
    return {f"stage{i}": stage for i, stage in enumerate(whole, start=1)}


def summary(stages: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """{"stage1": {"distance": {"mean": [L], "std": [L]}, ...}, ...} over the images; the norm relative to the first."""
    found = {}
    for name, stage in stages.items():
        values = stage | {"growth": stage["norm"] / stage["norm"][:1]}
        found[name] = {key: {"mean": np.mean(x, axis=-1), "std": np.std(x, axis=-1)} for key, x in values.items()}
    return found


def plane(trained: TrainedNetwork, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paths of some images through the last stage, on the plane in which they vary most (PCA).

    Args:
        trained: the run.
        images: pixels, 0 to 255, a few of them: [N, H, W, C].

    Returns:
        [L + 1, N, 2], the coordinates of the states; and the share of the variance along either axis, [2].
    """

    def program(network, pixels):
        return walk(network, trained.normalized(pixels))[0][-1].states

    states = trained.over_batches(program, len(images), images, axis=1).astype(np.float64)
    points = states.reshape(len(states) * len(images), -1)
    points -= points.mean(0)
    left, singular, _ = np.linalg.svd(points, full_matrices=False)
    coordinates = (left * singular)[:, :2]
    return coordinates.reshape(len(states), len(images), 2), singular[:2] ** 2 / np.sum(singular**2)
