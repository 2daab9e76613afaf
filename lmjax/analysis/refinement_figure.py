"""The picture of `lmjax.analysis.refinement`."""

from fractions import Fraction
from typing import Any

import numpy as np

from lmjax import drawing

_MARKERS = "osD^vP*"


def draw(groups: dict[str, list[dict[str, dict[str, float]]]], factors: list[Fraction]) -> Any:
    """Accuracy, and how far the features move, against the number of steps for one.

    Args:
        groups: by label, the `refinements` of each seed. Lines are means over the seeds, bars their standard deviation.
        factors: in increasing order.
    """
    figure = drawing.figure(9, 3.8, purpose="drawing refinements")
    panels = dict(zip(("accuracy", "features"), figure.subplots(1, 2), strict=True))
    for i, (label, seeds) in enumerate(groups.items()):
        style = {"color": drawing.COLORS[i % len(drawing.COLORS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for key, axes in panels.items():
            values = 100 * np.array([[seed[str(factor)][key] for factor in factors] for seed in seeds])
            values[~np.isfinite(values)] = np.nan
            spread = np.std(values, axis=0, ddof=1) if len(seeds) > 1 else None
            axes.errorbar(
                [float(factor) for factor in factors], np.mean(values, axis=0), spread, label=label, capsize=3, **style
            )
    for axes in panels.values():
        axes.set_xscale("log", base=2)
        axes.set_xticks([float(factor) for factor in factors], [str(factor) for factor in factors])
        axes.minorticks_off()
        axes.set_xlabel("steps in place of one")
        drawing.open_frame(axes)
        axes.axvline(1, color=drawing.FAINT, linewidth=1, zorder=0)
    panels["accuracy"].set(ylabel="test accuracy, %")
    panels["features"].set(ylabel="distance of the final features, %")
    panels["features"].set_ylim(bottom=0)  # which it is at 1
    figure.legend(
        *panels["accuracy"].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(groups), 4),
        frameon=False,
    )  # fmt: skip
    return figure
