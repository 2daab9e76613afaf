"""The stability of a scheme on the linear test equation: intervals, roots, and pictures of its regions."""

import dataclasses
import math
from collections.abc import Sequence
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
from lmjax.analysis.scheme import Scheme
from lmjax.results import plots
from lmjax.steppers import Stepper

_TOLERANCE = 1e-11  # by which rounding may move a root off the unit circle
_DOUBLE = 1e-6  # roots closer than this count as one multiple root, which rounding has split
_RESOLUTION = 0.01
_INSIDE, _EDGE, _AXIS = "#b9d3e8", *plots.COLORS[:2]
Window = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class LinearStability:
    """The stability of a scheme on u' = lambda u in a few numbers; see `linear_stability`.

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
    if np.abs(parasitic_roots(stepper, coef)).max(initial=0) > 1 + 1e-7:  # the rounding error of a double root
        return False
    matrix = amplification_matrix(stepper, 0.0, coef)
    return is_of_second_order(stepper, coef) or not _is_defective(matrix, np.linalg.eigvals(matrix))


def is_stable(stepper: Stepper, z: ArrayLike, coef: Any = None, *, damped: bool = True) -> np.ndarray:
    """True where the numerical solutions of u' = lambda u stay bounded, at each z = h lambda.

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
    """True where the powers of each of [n, m, m] stay bounded."""
    finite = np.isfinite(matrices).all((-2, -1))
    eigenvalues = np.linalg.eigvals(np.where(finite[:, None, None], matrices, 0))
    bounded = finite & (np.abs(eigenvalues).max(-1) <= 1 + _TOLERANCE)
    several = (np.abs(np.abs(eigenvalues) - 1) < _DOUBLE).sum(-1) > 1  # on the circle
    for i in np.flatnonzero(bounded & several):
        bounded[i] = not _is_defective(matrices[i], eigenvalues[i])
    return bounded


def _is_defective(matrix, eigenvalues):
    """True if a multiple eigenvalue on the unit circle has fewer eigenvectors than its multiplicity."""
    on_circle = eigenvalues[np.abs(np.abs(eigenvalues) - 1) < _DOUBLE]
    for value in on_circle:
        multiplicity = (np.abs(on_circle - value) < _DOUBLE).sum()
        if multiplicity > 1:
            singular = np.linalg.svd(matrix - value * np.eye(len(matrix)), compute_uv=False)
            if (singular < 10 * _DOUBLE).sum() < multiplicity:
                return True
    return False


def _reach(stable):
    """The largest t for which everything in (0, t] is stable; infinite from 100 on."""
    low, step, count = 0.0, _RESOLUTION, 1000
    while True:
        unstable = np.flatnonzero(~stable(low + step * np.arange(1, count + 1)))
        low += step * (unstable[0] if unstable.size else count)
        if not unstable.size and step == _RESOLUTION:
            if low >= 100 - step:
                return math.inf
        elif low < _RESOLUTION:
            return 0.0
        elif step < 1e-9:
            return float(low)
        else:
            step, count = step / 100, 100


def window(schemes: Sequence[Scheme], *, damped: bool = True, largest: float = 64.0) -> Window:
    """A part of the plane that shows the stability regions of all schemes: (left, right, top) around the real axis.

    Args:
        schemes: the schemes.
        damped: see `amplification_matrix`.
        largest: how far from 0 to look; beyond it a region is cut off.
    """
    size = 4.0
    while True:
        x, y = np.linspace(-size, size, 65), np.linspace(0, size, 33)
        z = x + 1j * y[:, None]
        stable = np.any([is_stable(s.stepper, z, s.coef, damped=damped) for s in schemes], axis=0)
        edge = stable[-1].any() or stable[:, 0].any() or stable[:, -1].any()
        if not edge or size >= largest:
            break
        size *= 2
    there = z[stable] if stable.any() else np.zeros(1)
    margin = 0.1 * max(np.ptp(there.real), there.imag.max(), 2.5) + size / 32  # which is what the points are apart
    return float(there.real.min() - margin), float(max(there.real.max(), 0) + margin), float(there.imag.max() + margin)


def draw_regions(schemes: Sequence[Scheme], *, damped: bool = True) -> Any:
    """The stability regions of schemes, one panel each, on the same axes; a matplotlib figure.

    The region is shaded, with its edge, where the largest root has modulus 1, as a line. The interval on the imaginary
    axis is drawn, too: for schemes such as `leapfrog` and the coupled ones it is all there is. For `damped` see
    `amplification_matrix`.
    """
    bounds = window(schemes, damped=damped)
    columns = min(4, len(schemes))
    figure, panels = _panels(bounds, len(schemes), columns, damped)
    for axes, scheme in zip(panels, schemes, strict=True):
        x, y, radius = _radius(scheme, bounds, damped)
        axes.contourf(x, y, radius, levels=[0, 1 - 1e-9], colors=[_INSIDE])
        axes.contour(x, y, radius, levels=[1.0], colors=[_EDGE], linewidths=1.2)
        reach = min(linear_stability(scheme.stepper, scheme.coef, damped=damped).imaginary, bounds[2])
        axes.plot([0, 0], [-reach, reach], color=_AXIS, linewidth=1.6, solid_capstyle="butt")
        axes.set_title(scheme.label, fontsize=9)
    return figure


def draw_learned_regions(stages: dict[str, Sequence[Scheme]], *, damped: bool = True, title: str = "") -> Any:
    """The edges of the stability regions of learned steps, a panel a stage, colored by depth; a matplotlib figure.

    A step that is not zero-stable, whose region does not reach 0, is dashed. For `damped` see `amplification_matrix`.
    """
    every = [scheme for schemes in stages.values() for scheme in schemes]
    bounds = window(every, damped=damped, largest=16)
    figure, panels = _panels(bounds, len(stages), len(stages), damped)
    colors = iter(plots.depth_colors(figure, list(panels), len(every)))
    for axes, (stage, schemes) in zip(panels, stages.items(), strict=True):
        zero_stable = [is_zero_stable(scheme.stepper, scheme.coef) for scheme in schemes]
        for scheme, solid in zip(schemes, zero_stable, strict=True):
            x, y, radius = _radius(scheme, bounds, damped)
            style = {"linewidths": 1.2, "linestyles": "solid" if solid else "dashed"}
            axes.contour(x, y, radius, levels=[1.0], colors=[next(colors)], **style)
        outside = zero_stable.count(False)
        axes.set_title(stage + (f" ({outside} not zero-stable)" if outside else ""), fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _panels(bounds, count, columns, damped):
    left, right, top = bounds
    rows = -(-count // columns)
    width = max(9.0 / columns, 2.0)
    height = min(0.9 * width * 2 * top / (right - left), 1.6 * width)
    figure = plots.figure(width * columns + 0.4, (height + 0.35) * rows + 0.7)
    figure.set_layout_engine("compressed")  # "constrained" leaves gaps between panels of equal aspect
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    z = "hλ" if damped else "z"
    for i, axes in enumerate(panels.flat):
        axes.axhline(0, color=plots.FAINT, linewidth=0.8, zorder=0.5)
        axes.axvline(0, color=plots.FAINT, linewidth=0.8, zorder=0.5)
        axes.set(xlim=(left, right), ylim=(-top, top), aspect="equal")
        axes.xaxis.get_major_locator().set_params(nbins=7, integer=True)
        lowest = i >= count - columns  # of its column
        axes.tick_params(labelsize=8, labelbottom=lowest)
        axes.set_xlabel(f"Re {z}" if lowest else "", fontsize=9)
        axes.set_ylabel("" if i % columns else f"Im {z}", fontsize=9)
        axes.set_visible(i < count)
    return figure, panels.ravel()[:count]


def _radius(scheme, bounds, damped):
    """The modulus of the largest root over a grid, which is symmetric as the coefficients are real."""
    left, right, top = bounds
    x, y = np.linspace(left, right, 301), np.linspace(0, top, 151)
    upper = np.minimum(spectral_radius(scheme.stepper, x + 1j * y[:, None], scheme.coef, damped=damped), 2.0)
    return x, np.concatenate([-y[:0:-1], y]), np.concatenate([upper[:0:-1], upper])
