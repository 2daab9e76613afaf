"""Pictures of stability regions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.analysis.scheme import Scheme
from lmjax.analysis.stability import is_stable, is_zero_stable, linear_stability, spectral_radius
from lmjax.results import plots

_INSIDE, _EDGE, _AXIS = "#b9d3e8", *plots.COLORS[:2]
Window = tuple[float, float, float]


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


def draw_regions(schemes: Sequence[Scheme], *, damped: bool = True, columns: int = 4) -> Any:
    """The stability regions of schemes, one panel each, on the same axes.

    The region is shaded, with its edge, where the largest root has modulus 1, as a line. The interval on the imaginary
    axis is drawn, too: for schemes such as `leapfrog` and the coupled ones it is all there is.

    Args:
        schemes: the schemes.
        damped: see `amplification_matrix`.
        columns: how many panels are side by side, at most.

    Returns:
        A matplotlib figure.
    """
    bounds = window(schemes, damped=damped)
    columns = min(columns, len(schemes))
    figure, panels = _panels(bounds, -(-len(schemes) // columns), columns, damped)
    for axes, scheme in zip(panels, schemes, strict=False):
        x, y, radius = _radius(scheme, bounds, damped)
        axes.contourf(x, y, radius, levels=[0, 1 - 1e-9], colors=[_INSIDE])
        axes.contour(x, y, radius, levels=[1.0], colors=[_EDGE], linewidths=1.2)
        reach = min(linear_stability(scheme.stepper, scheme.coef, damped=damped).imaginary, bounds[2])
        axes.plot([0, 0], [-reach, reach], color=_AXIS, linewidth=1.6, solid_capstyle="butt")
        axes.set_title(scheme.label, fontsize=9)
    for axes in panels[len(schemes) :]:
        axes.set_visible(False)
    return figure


def draw_learned_regions(stages: dict[str, Sequence[Scheme]], *, damped: bool = True, title: str = "") -> Any:
    """The edges of the stability regions of the steps of a network, a panel a stage, colored by depth.

    A step that is not zero-stable, whose region does not reach 0, is dashed.

    Args:
        stages: the schemes of the learned steps by stage.
        damped: see `amplification_matrix`.
        title: of the picture.

    Returns:
        A matplotlib figure.
    """
    every = [scheme for schemes in stages.values() for scheme in schemes]
    bounds, depth, colors = window(every, damped=damped, largest=16), 0, plots.DepthColors(len(every))
    figure, panels = _panels(bounds, 1, len(stages), damped)
    for axes, (stage, schemes) in zip(panels, stages.items(), strict=True):
        zero_stable = [is_zero_stable(scheme.stepper, scheme.coef) for scheme in schemes]
        for scheme, solid in zip(schemes, zero_stable, strict=True):
            x, y, radius = _radius(scheme, bounds, damped)
            style, depth = "solid" if solid else "dashed", depth + 1
            axes.contour(x, y, radius, levels=[1.0], colors=[colors(depth)], linewidths=1.2, linestyles=style)
        outside = zero_stable.count(False)
        axes.set_title(stage + (f" ({outside} not zero-stable)" if outside else ""), fontsize=9)
    colors.bar(figure, list(panels))
    figure.suptitle(title, fontsize=10)
    return figure


def _panels(bounds, rows, columns, damped):
    left, right, top = bounds
    width = max(9.0 / columns, 2.0)
    height = min(0.9 * width * 2 * top / (right - left), 1.6 * width)
    figure = plots.figure(width * columns + 0.4, (height + 0.35) * rows + 0.7, purpose="drawing regions")
    figure.set_layout_engine("compressed")  # "constrained" leaves gaps between panels of equal aspect
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    z = "hλ" if damped else "z"
    for axes in panels.ravel():
        axes.axhline(0, color=plots.FAINT, linewidth=0.8, zorder=0.5)
        axes.axvline(0, color=plots.FAINT, linewidth=0.8, zorder=0.5)
        axes.set(xlim=(left, right), ylim=(-top, top), aspect="equal")
        axes.xaxis.get_major_locator().set_params(nbins=7, integer=True)
        axes.tick_params(labelsize=8)
    for axes in panels[-1]:
        axes.set_xlabel(f"Re {z}", fontsize=9)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"Im {z}", fontsize=9)
    return figure, panels.ravel()


def _radius(scheme, bounds, damped):
    """The modulus of the largest root over a grid, which is symmetric as the coefficients are real."""
    left, right, top = bounds
    x, y = np.linspace(left, right, 301), np.linspace(0, top, 151)
    upper = np.minimum(spectral_radius(scheme.stepper, x + 1j * y[:, None], scheme.coef, damped=damped), 2.0)
    return x, np.concatenate([-y[:0:-1], y]), np.concatenate([upper[:0:-1], upper])
