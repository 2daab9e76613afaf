"""The equation that a scheme solves instead of the one it was given, up to smaller errors."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmjax.analysis.amplification import parasitic_roots, principal_root
from lmjax.steppers import Stepper


def modified_rate(stepper: Stepper, coef: Any = None, *, terms: int = 5) -> np.ndarray:
    """The series of the rate with which a scheme solves u' = lambda u, by its principal root zeta(h lambda):

        log(zeta(h lambda)) / h = lambda (c[0] + c[1] h lambda + c[2] (h lambda)^2 + ...).

    It is the modified equation u' = lambda~ u (Warming and Hyett 1974): c[0] = 1 for a consistent scheme, and the
    first other c[p] that is not 0 says that the scheme is of order p on linear equations, and how large its error is.
    Of a coupled scheme it is the error of the frequency, which may be of a higher order than that of the states.

    Args:
        stepper, coef: see `amplification_matrix`.
        terms: how many to compute. The fifth is accurate to about 1e-10, relative to the one of the largest error that
            a series of the same radius of convergence could have. What rounding does not tell from 0 is 0.

    Returns:
        c, float64 [terms].
    """
    # Cauchy's formula on a circle well within the one where another root meets the principal one. For `lm` with k < 0,
    # whose other root is -k, that is at (1 - sqrt(-k)) / (1 + sqrt(-k)) > (1 + k) / 4.
    gap = np.abs(parasitic_roots(stepper, coef) - 1).min(initial=1.6)
    radius, points = gap / 16, 64
    z = radius * np.exp(2j * np.pi * np.arange(points) / points)
    rates = np.log(principal_root(stepper, z, coef)) / z
    on_circle = np.fft.fft(rates).real[:terms] / points  # c[p] radius^p, known to a rounding error of log / radius
    return np.where(np.abs(on_circle) < 1e-14 / radius, 0.0, on_circle) / radius ** np.arange(terms)


def rate_order(c: ArrayLike) -> int:
    """The order p that the series of `modified_rate` shows: 0 if c[0] is not 1, and len(c) if all others are 0."""
    c = np.abs(np.asarray(c) - np.eye(1, len(c))[0])
    return int(np.argmax(np.append(c > 1e-7, True)))


def friction_and_mass(k: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The modified equation of `lm`, friction u' + h mass u'' = F(u), up to O(h^2) (Lu et al. 2018).

    It comes from the Taylor series of u[n+1] = (1 - k) u[n] + k u[n-1] + h F(u[n]) around t[n]. With k < 0 there is
    less friction and more mass than in Euler's method (k = 0: 1 and 1/2); the field moves u with the speed
    1 / friction. At k = -1 there is no friction, and beyond it is negative: there the scheme is not zero-stable.

    Args:
        k: of any shape.

    Returns:
        (1 + k, (1 - k) / 2), float64.
    """
    k = np.asarray(k, np.float64)
    return 1 + k, (1 - k) / 2
