"""Whether the outcomes of an attack can be trusted: the signs of a masked gradient (Carlini et al. 2019)."""

import itertools
from typing import Any

import numpy as np

_ZERO_GRADIENTS = 0.01  # of the images may have none, as those of which a network is certain beyond float32 have
_LEFT = 0.01  # of the accuracy may be left where every image can be made the same
_EVERYTHING = 64  # gray levels, from which on next to nothing should be left


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
        Of each check "passed", True or False, or None if it could not be made; "value", a number or what was found by
        radius; and "says", a line for who reads that it has failed.
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
    """By how much the mean of a exceeds that of b, less two standard errors of the difference."""
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
