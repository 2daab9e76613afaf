"""Where a scheme is stable on the linear test equation."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmjax.analysis.amplification import (
    amplification_matrix,
    is_of_second_order,
    parasitic_roots,
    principal_root,
    roots,
)
from lmjax.steppers import Stepper

_TOLERANCE = 1e-11  # by which rounding may move a root off the unit circle
_DOUBLE = 1e-6  # roots that are closer than that are one, of which rounding has made several
_RESOLUTION = 0.01


@dataclasses.dataclass(frozen=True)
class LinearStability:
    """What can be said of a scheme on u' = lambda u in a few numbers; see `linear_stability`.

    Attributes:
        real: the largest x for which it is stable at every z = h lambda in [-x, 0).
        imaginary: the largest y for which it is stable at every z between 0 and iy.
        principal: the modulus of the principal root at z = 0: 1 for a consistent scheme. Where it is not, which trained
            weights may lead to, the states themselves grow or shrink, and no z near 0 may be stable.
        parasitic: the modulus of the largest parasitic root at z = 0; 0 for a one-step scheme.
        zero_stable: whether the root condition holds at z = 0: no parasitic root outside the unit circle, and those
            on it simple and not 1.
    """

    real: float
    imaginary: float
    principal: float
    parasitic: float
    zero_stable: bool


def linear_stability(stepper: Stepper, coef: Any = None, *, damped: bool = True) -> LinearStability:
    """The stability intervals of a scheme, and its zero-stability (Dahlquist 1956).

    Intervals are found to 1e-9 up to 100, and are infinite where nothing unstable is found. Shorter ones than 0.01
    count as none, and so does an amplification of less than 1 + 1e-11.

    Args:
        stepper, coef, damped: see `amplification_matrix`. What "stable" means is said at `is_stable`.
    """

    def reach(direction):
        return _reach(lambda t: is_stable(stepper, direction * t, coef, damped=damped))

    parasitic = float(np.abs(parasitic_roots(stepper, coef)).max(initial=0))
    principal = float(np.abs(principal_root(stepper, 0.0, coef)))
    return LinearStability(reach(-1), reach(1j), principal, parasitic, is_zero_stable(stepper, coef))


def is_zero_stable(stepper: Stepper, coef: Any = None) -> bool:
    """The root condition at z = 0: no parasitic root outside the unit circle, and those on it simple and not 1.

    For a scheme for u'' = F, whose principal root is double there, the parasitic ones are only not to be outside.
    """
    if np.abs(parasitic_roots(stepper, coef)).max(initial=0) > 1 + 1e-7:  # double ones are known no better than that
        return False
    matrix = amplification_matrix(stepper, 0.0, coef)
    return is_of_second_order(stepper, coef) or not _is_defective(matrix, np.linalg.eigvals(matrix))


def is_stable(stepper: Stepper, z: ArrayLike, coef: Any = None, *, damped: bool = True) -> np.ndarray:
    """Whether the numerical solutions of u' = lambda u stay bounded, at each z = h lambda.

    This is the root condition: no root outside the unit circle, and those on it simple. (A multiple one is allowed if
    there are as many independent solutions, as in a coupled scheme at z = 0.)

    Args:
        stepper, coef, damped: see `amplification_matrix`.
        z: any shape.

    Returns:
        bool, of the shape of z.
    """
    matrices = amplification_matrix(stepper, z, coef, damped=damped)
    return _power_bounded(matrices.reshape(-1, *matrices.shape[-2:])).reshape(matrices.shape[:-2])


def spectral_radius(stepper: Stepper, z: ArrayLike, coef: Any = None, *, damped: bool = True) -> np.ndarray:
    """The modulus of the largest root at each z, float64 of the shape of z: |R(z)| for a one-step scheme."""
    return np.abs(roots(stepper, z, coef, damped=damped)).max(-1)


def _power_bounded(matrices):
    """Whether the powers of each of [n, m, m] stay bounded."""
    finite = np.isfinite(matrices).all((-2, -1))
    eigenvalues = np.linalg.eigvals(np.where(finite[:, None, None], matrices, 0))
    bounded = finite & (np.abs(eigenvalues).max(-1) <= 1 + _TOLERANCE)
    several = (np.abs(np.abs(eigenvalues) - 1) < _DOUBLE).sum(-1) > 1  # on the circle
    for i in np.flatnonzero(bounded & several):
        bounded[i] = not _is_defective(matrices[i], eigenvalues[i])
    return bounded


def _is_defective(matrix, eigenvalues):
    """Whether a multiple eigenvalue on the unit circle has fewer eigenvectors than its multiplicity."""
    on_circle = eigenvalues[np.abs(np.abs(eigenvalues) - 1) < _DOUBLE]
    for value in on_circle:
        multiplicity = (np.abs(on_circle - value) < _DOUBLE).sum()
        if multiplicity > 1:
            singular = np.linalg.svd(matrix - value * np.eye(len(matrix)), compute_uv=False)
            if (singular < 10 * _DOUBLE).sum() < multiplicity:
                return True
    return False


def _reach(stable, limit=100.0):
    """The largest t for which everything in (0, t] is stable."""
    low, step, count = 0.0, _RESOLUTION, 1000
    while True:
        unstable = np.flatnonzero(~stable(low + step * np.arange(1, count + 1)))
        low += step * (unstable[0] if unstable.size else count)
        if not unstable.size and step == _RESOLUTION:
            if low >= limit - step:
                return math.inf
        elif low < _RESOLUTION:
            return 0.0
        elif step < 1e-9:
            return float(low)
        else:
            step, count = step / 100, 100
