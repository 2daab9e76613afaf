"""How much of its accuracy a trained network keeps when its images are perturbed, by chance or on purpose.

Measured as the literature on networks inspired by ODEs does it, in the maximum norm and in gray levels, 1/255:
Gaussian noise, FGSM (Goodfellow et al. 2015), and PGD (Madry et al. 2018) from a random start, with 10 steps of a
quarter of the radius; at 8/255, where that is 2/255, after 20 steps, too. The attacker has the gradient of the
cross-entropy through the network in evaluation and through the normalization; perturbed images are cut off to the range
of a pixel and not rounded to whole gray levels. All images are attacked, those classified wrongly, too; what counts is
the classification of the last iterate.

A network may withstand an attack because it is robust or because it hides its gradient from it (Athalye, Carlini and
Wagner 2018). `checks` are the signs by which Carlini et al. (2019, "On evaluating adversarial robustness") tell. None
of the networks here is trained against attacks, so that PGD is expected to leave next to nothing of the accuracy.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from lmjax.analysis import attacks
from lmjax.analysis.robustness_checks import checks
from lmjax.analysis.runs import batches
from lmjax.results.statistics import Spread, spread
from lmjax.training import Trained

RADII = (1, 2, 4, 8, 16, 32, 128)  # gray levels; within 128 every image can be made the same gray
SIGMAS = (4, 8, 16, 32, 64)
HEADLINE = 8  # the radius of the table
_BATCH = 128
_STEPS = 10

Outcomes = dict[str, dict[str, np.ndarray]]


def attacked(
    trained: Trained, images: np.ndarray, labels: np.ndarray, *, radii: Sequence[float] = RADII,
    sigmas: Sequence[float] = SIGMAS, seed: int = 0,
) -> Outcomes:  # fmt: skip
    """What a trained network makes of each image, as it is and perturbed.

    Args:
        trained: the run.
        images, labels: pixels, 0 to 255, [N, H, W, C], and the labels [N].
        radii: of FGSM and of PGD, and of uniform noise, which is what PGD starts from, in gray levels.
        sigmas: of Gaussian noise, in gray levels.
        seed: draws the noise and the starts.

    Returns:
        For each of "clean", "noise 4", ..., "uniform 8", "fgsm 8", "pgd10 8", ... and "pgd20 8": "correct", bool [N],
        and "loss", float32 [N], the cross-entropy. For "clean" also "zero_gradient", bool [N]: whether the gradient is
        zero in every pixel, so that an attack could not begin.
    """
    run = _Programs(trained)
    state, parts = run.state, []
    for number, (count, pixels, theirs) in enumerate(batches(trained, _BATCH, images, labels)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        x, found = pixels.astype(jnp.float32) / 255, {}
        found["clean"] = run.outcome(state, x, theirs) | {"zero_gradient": run.zero_gradient(state, x, theirs)}
        for i, sigma in enumerate(sigmas):
            noisy = run.noise(jax.random.fold_in(key, i), x, np.float32(sigma / 255))
            found[f"noise {sigma:g}"] = run.outcome(state, noisy, theirs)
        for i, radius in enumerate(radii, start=len(sigmas)):
            r = np.float32(radius / 255)
            found[f"fgsm {radius:g}"] = run.outcome(state, run.fgsm(state, x, theirs, r), theirs)
            iterate = run.uniform(jax.random.fold_in(key, i), x, r)
            found[f"uniform {radius:g}"] = run.outcome(state, iterate, theirs)
            for steps in (_STEPS, 2 * _STEPS) if radius == HEADLINE else (_STEPS,):
                iterate = run.pgd(state, x, theirs, r, iterate)
                found[f"pgd{steps} {radius:g}"] = run.outcome(state, iterate, theirs)
        parts.append(jax.tree.map(lambda a, count=count: np.asarray(a)[:count], found))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)


class _Programs:
    """The compiled programs that perturb and classify a batch; radii and noise levels are arguments of theirs."""

    def __init__(self, trained: Trained):
        graph, state = nnx.split(trained.model())
        self.state = nnx.to_pure_dict(state)

        def logits(state, images):
            return trained.logits(nnx.merge(graph, state), 255 * images)

        def loss(state):
            return lambda images, labels: cross_entropy(logits(state, images), labels)

        def outcome(state, images, labels):
            found = logits(state, images)
            return {"correct": found.argmax(-1) == labels, "loss": cross_entropy(found, labels)}

        def zero_gradient(state, images, labels):
            gradient = attacks.input_gradient(loss(state), images, labels)
            return jnp.all(gradient.reshape(len(gradient), -1) == 0, axis=-1)

        def fgsm(state, images, labels, radius):
            return attacks.fgsm(loss(state), images, labels, radius)

        def pgd(state, images, labels, radius, start):
            return attacks.pgd(loss(state), images, labels, None, radius, radius / 4, _STEPS, start=start)

        self.outcome, self.zero_gradient, self.fgsm, self.pgd = map(jax.jit, (outcome, zero_gradient, fgsm, pgd))
        self.noise, self.uniform = jax.jit(attacks.gaussian_noise), jax.jit(attacks.uniform_noise)


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """{"accuracy": of each perturbation, "loss": the mean, "checks": those of the attack}, as plain data."""
    return {
        "accuracy": {name: float(np.mean(found["correct"])) for name, found in outcomes.items()},
        "loss": {name: float(np.mean(found["loss"])) for name, found in outcomes.items()},
        "checks": checks(outcomes),
    }


def together(runs: Sequence[dict[str, float]]) -> dict[str, Spread]:
    """Mean and standard deviation of each accuracy over the seeds."""
    return {name: spread(run[name] for run in runs) for name in runs[0]}
