"""Pictures of what a scheme solves instead of its equation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.analysis.amplification import principal_root
from lmjax.analysis.learned import Learned
from lmjax.analysis.modified_equation import friction_and_mass, modified_rate, rate_order
from lmjax.analysis.scheme import Scheme


def draw_rates(schemes: Sequence[Scheme]) -> Any:
    """How schemes distort a decay and an oscillation: three panels, against h |lambda|, with a line a scheme.

    The rate of the decay u' = -u, the frequency of the oscillation u' = i omega u, and the rate of its growth over
    omega, each by the principal root. The leading term of the modified equation is dotted.

    Args:
        schemes: the schemes.

    Returns:
        A matplotlib figure.
    """
    figure = drawing.figure(11, 3.8, purpose="drawing rates")
    panels = figure.subplots(1, 3)
    x = np.linspace(0, 1, 101)[1:]
    for i, scheme in enumerate(schemes):
        style = {"color": drawing.COLORS[i % len(drawing.COLORS)], "linestyle": ("-", "--", "-.")[i // 7 % 3]}
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
        axes.axhline(axes is not panels[2], color=drawing.FAINT, linewidth=0.8, zorder=0)
        axes.set(xlabel="h |λ|", xlim=(0, 1), ylim=span)
        axes.set_title(title, fontsize=10)
        drawing.open_frame(axes)
    lines, title = panels[0].get_lines()[: 2 * len(schemes) : 2], "dotted: the leading error"
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=8, title=title, title_fontsize=8)
    return figure


def draw_friction_and_mass(runs: Sequence[Learned], title: str = "") -> Any:
    """Friction and mass of the learned steps of runs of `lm` against depth: thin lines, and thick ones for the mean.

    Where the friction is negative a step is not zero-stable; it is shaded. Euler's values are lines.

    Args:
        runs: of one network.
        title: of the picture.

    Returns:
        A matplotlib figure.
    """
    from lmjax.training.figures import draw_by_depth, mark_stages

    figure = drawing.figure(7, 5, purpose="drawing friction and mass")
    panels = figure.subplots(2, 1, sharex=True)
    k = [learned.k() for learned in runs]
    for i, (axes, label) in enumerate(zip(panels, ("friction 1 + k", "mass (1 − k) / 2, of h u″"), strict=True)):
        values = [{stage: friction_and_mass(ks[-1])[i] for stage, ks in each.items()} for each in k]
        for each in values if len(values) > 1 else []:
            draw_by_depth(axes, each, color=drawing.COLORS[0], alpha=0.35, linewidth=0.8)
        mean = {stage: np.mean([each[stage] for each in values], 0) for stage in values[0]}
        draw_by_depth(axes, mean, color=drawing.COLORS[0], marker="o", markersize=3.5)
        axes.axhline(friction_and_mass(0)[i], color="0.5", linewidth=0.8, linestyle="--")
        mark_stages(axes, {stage: len(ks) for stage, ks in mean.items()}, names=i == 0)
        axes.set(ylabel=label)
        drawing.open_frame(axes)
        low, high = axes.get_ylim()
        if low < 0:
            axes.axhspan(low, 0, color="0.9", zorder=-1, linewidth=0)
            axes.annotate("not zero-stable", (0.7, low / 2), va="center", color="0.35", fontsize=8)
            axes.set_ylim(low, high)
    panels[0].set(xlabel="")
    figure.suptitle(title if len(runs) == 1 else f"{title}: {len(runs)} runs and their mean", fontsize=10)
    return figure
