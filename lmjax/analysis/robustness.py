"""The accuracy that a trained network keeps when its images are perturbed, by chance or on purpose.

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

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from lmjax.analysis import attacks
from lmjax.devices import over_batches
from lmjax.training import TrainedNetwork

RADII = (1, 2, 4, 8, 16, 32, 128)  # gray levels; within 128 every image can be made the same grey
SIGMAS = (4, 8, 16, 32, 64)
HEADLINE = 8  # the radius of the table
_BATCH = 128
_STEPS = 10
_ZERO_GRADIENTS = 0.01  # fraction of images whose gradient may vanish, as where the softmax is 1 in float32
_LEFT = 0.01  # accuracy that may be left where every image can be made the same
_EVERYTHING = 64  # gray levels; from this radius on, next to no accuracy should be left

Outcomes = dict[str, dict[str, np.ndarray]]


def attacked(
    trained: TrainedNetwork, images: np.ndarray, labels: np.ndarray, *, radii: Sequence[float] = RADII,
    sigmas: Sequence[float] = SIGMAS, seed: int = 0,
) -> Outcomes:  # fmt: skip
    """The classification of each image by a trained network, as it is and perturbed.

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
    run, numbers = _Programs(trained), itertools.count()

    def outcomes(pixels, theirs):
        key = jax.random.fold_in(jax.random.key(seed), next(numbers))
        x, found = pixels.astype(jnp.float32) / 255, {}
        found["clean"] = run.outcome(x, theirs) | {"zero_gradient": run.zero_gradient(x, theirs)}
        for i, sigma in enumerate(sigmas):
            noisy = run.noise(jax.random.fold_in(key, i), x, np.float32(sigma / 255))
            found[f"noise {sigma:g}"] = run.outcome(noisy, theirs)
        for i, radius in enumerate(radii, start=len(sigmas)):
            r = np.float32(radius / 255)
            found[f"fgsm {radius:g}"] = run.outcome(run.fgsm(x, theirs, r), theirs)
            iterate = run.uniform(jax.random.fold_in(key, i), x, r)
            found[f"uniform {radius:g}"] = run.outcome(iterate, theirs)
            for steps in (_STEPS, 2 * _STEPS) if radius == HEADLINE else (_STEPS,):
                iterate = run.pgd(x, theirs, r, iterate)
                found[f"pgd{steps} {radius:g}"] = run.outcome(iterate, theirs)
        return found

    return over_batches(outcomes, trained.mesh, _BATCH, images, labels)


class _Programs:
    """The compiled programs that perturb and classify a batch; radii and noise levels are arguments of theirs."""

    def __init__(self, trained: TrainedNetwork):
        graph, variables = nnx.split(trained.model())

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
            return attacks.pgd(loss(state), images, labels, start, radius, radius / 4, _STEPS)

        state = nnx.to_pure_dict(variables)  # an argument of the programs: constants would be compiled into them
        self.outcome, self.zero_gradient, self.fgsm, self.pgd = (
            functools.partial(jax.jit(f), state) for f in (outcome, zero_gradient, fgsm, pgd)
        )
        self.noise, self.uniform = jax.jit(attacks.gaussian_noise), jax.jit(attacks.uniform_noise)


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """{"accuracy": of each perturbation, "loss": the mean, "checks": those of the attack}, as plain data."""
    return {
        "accuracy": {name: float(np.mean(found["correct"])) for name, found in outcomes.items()},
        "loss": {name: float(np.mean(found["loss"])) for name, found in outcomes.items()},
        "checks": checks(outcomes),
    }


def checks(outcomes: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Checks the outcomes of `attacked`.

    Accuracies are of the same images, and compared as pairs: one is larger than another if the difference exceeds two
    of its standard errors.

    - "gradient": no more than 1% of the images have a gradient that is zero in every pixel.
    - "monotone": PGD leaves no more accuracy within a larger radius. (FGSM may: its single step can go too far.)
    - "vanishes": PGD leaves at most 1% within the largest radius, if that is at least 64/255.
    - "iterated": PGD-10 leaves no more than FGSM at any radius, and PGD-20 no more than PGD-10.
    - "chance": uniform noise of a radius leaves no less than PGD.
    - "loss": the mean loss of PGD is larger than that of the images, and no smaller after 20 steps than after 10.

    Args:
        outcomes: see `attacked`.

    Returns:
        Of each check "passed", True or False, or None if it could not be made; "value", a number, or one for each
        radius; and "says", the message where it has failed or could not be made.
    """
    by_radius = {kind: _by_radius(outcomes, kind) for kind in ("uniform", "fgsm", "pgd10", "pgd20")}
    uniform, fgsm, pgd10, pgd20 = by_radius.values()
    found = {"gradient": _gradient(outcomes["clean"]["zero_gradient"]), "vanishes": _vanishes(pgd10)}
    rises = {f"{a:g} to {b:g}": _excess(pgd10[b]["correct"], pgd10[a]["correct"]) for a, b in itertools.pairwise(pgd10)}
    found["monotone"] = _none_positive(rises, "PGD leaves more accuracy within a larger radius")
    weaker = {f"PGD-10 at {r:g}": _excess(pgd10[r]["correct"], fgsm[r]["correct"]) for r in pgd10}
    weaker |= {f"PGD-20 at {r:g}": _excess(pgd20[r]["correct"], pgd10[r]["correct"]) for r in pgd20}
    found["iterated"] = _none_positive(weaker, "more steps make a weaker attack")
    better = {f"{r:g}": _excess(pgd10[r]["correct"], uniform[r]["correct"]) for r in pgd10}
    found["chance"] = _none_positive(better, "noise does more harm than PGD")
    falls = {f"PGD-10 at {r:g}": _excess(outcomes["clean"]["loss"], pgd10[r]["loss"]) for r in pgd10}
    falls |= {f"PGD-20 at {r:g}": _excess(pgd10[r]["loss"], pgd20[r]["loss"]) for r in pgd20}
    found["loss"] = _none_positive(falls, "PGD does not increase the loss")
    return found


def _by_radius(outcomes, kind):
    named = [(float(name.split()[1]), found) for name, found in outcomes.items() if name.split()[0] == kind]
    return dict(sorted(named, key=lambda pair: pair[0]))


def _excess(a: np.ndarray, b: np.ndarray) -> float:
    """The excess of the mean of a over that of b, less two standard errors of the difference."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(difference.mean() - 2 * np.sqrt(np.mean(difference**2) / len(difference)))


def _none_positive(excesses: dict[str, float], says: str) -> dict[str, Any]:
    failed = {name: excess for name, excess in excesses.items() if not excess <= 0}
    where = ", ".join(f"{name} (by {excess:.3g})" for name, excess in failed.items())
    return {"passed": not failed, "value": excesses, "says": f"{says}: {where}" if failed else ""}


def _gradient(zero):
    share = float(np.mean(zero))
    passed = share <= _ZERO_GRADIENTS
    says = f"the gradient of {share:.1%} of the images is zero in every pixel, so that no attack could begin there"
    return {"passed": passed, "value": share, "says": "" if passed else says}


def _vanishes(pgd):
    radius = max(pgd)
    if radius < _EVERYTHING:
        return {"passed": None, "value": None, "says": f"not checked: the largest radius is {radius:g}/255"}
    left = float(np.mean(pgd[radius]["correct"]))
    passed = left <= _LEFT
    says = f"PGD within {radius:g}/255 leaves an accuracy of {left:.1%}, where next to nothing should be left"
    return {"passed": passed, "value": left, "says": "" if passed else says}
