"""The equation that a scheme solves instead of the one it was given, up to smaller errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmjax.analysis.amplification import parasitic_roots, principal_root
from lmjax.analysis.scheme import Scheme
from lmjax.results import plots
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


def draw_rates(schemes: Sequence[Scheme]) -> Any:
    """The distortion of a decay and an oscillation by schemes against h |lambda|, a line a scheme; a matplotlib figure.

    The rate of the decay u' = -u, the frequency of the oscillation u' = i omega u, and the rate of its growth over
    omega, each by the principal root. The leading term of the modified equation is dotted.
    """
    figure = plots.figure(11, 3.8)
    panels = figure.subplots(1, 3)
    x = np.linspace(0, 1, 101)[1:]
    for i, scheme in enumerate(schemes):
        style = plots.look(i)
        c = modified_rate(scheme.stepper, scheme.coef)
        order = rate_order(c)
        leading = np.zeros_like(c)
        leading[[0, order % len(c)]] = c[[0, order % len(c)]]
        with np.errstate(divide="ignore", invalid="ignore"):  # a root may be 0
            decay, turn = (np.log(principal_root(scheme.stepper, z, scheme.coef)) / x for z in (-x, 1j * x))
        by_series = [np.polynomial.polynomial.polyval(z, leading) * z / x for z in (-x, 1j * x)]
        for axes, exact, series in zip(
            panels, (-decay.real, turn.imag, turn.real), (-by_series[0].real, by_series[1].imag, by_series[1].real),
            strict=True,
        ):  # fmt: skip
            axes.plot(x, exact, linewidth=1.3, label=scheme.label, **style)
            axes.plot(x, series, linewidth=0.9, **style | {"linestyle": ":"})
    for axes, title, span in zip(
        panels, ("rate of a decay, over the exact one", "frequency, over the exact one", "growth of an oscillation"),
        ((0, 2), (0.5, 1.5), (-0.75, 0.75)), strict=True,
    ):  # fmt: skip
        axes.axhline(axes is not panels[2], color=plots.FAINT, linewidth=0.8, zorder=0)
        axes.set(xlabel="h |λ|", xlim=(0, 1), ylim=span)
        axes.set_title(title, fontsize=10)
        plots.open_frame(axes)
    lines, title = panels[0].get_lines()[: 2 * len(schemes) : 2], "dotted: the leading error"
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=8, title=title, title_fontsize=8)
    return figure
