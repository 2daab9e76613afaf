"""The picture of `lmjax.analysis.robustness`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax import drawing

_MARKERS = "osD^vP*"


def draw(groups: dict[str, list[dict[str, float]]], radii: Sequence[float], sigmas: Sequence[float]) -> Any:
    """Accuracy against the radius of the attacks, and against the standard deviation of the noise.

    Args:
        groups: by label, the accuracies of each seed. Lines are means over the seeds, bars their standard deviation.
        radii, sigmas: in grey levels, in increasing order.
    """
    figure = drawing.figure(9, 3.8, purpose="drawing robustness")
    attack, noise = figure.subplots(1, 2, sharey=True)
    for i, (label, seeds) in enumerate(groups.items()):
        colour, marker = drawing.COLORS[i % len(drawing.COLORS)], _MARKERS[i % len(_MARKERS)]
        for axes, kind, levels, line in (
            (attack, "fgsm", radii, ":"), (attack, "pgd10", radii, "-"), (noise, "noise", sigmas, "-"),
        ):  # fmt: skip
            values = 100 * np.array([[seed[f"{kind} {level:g}"] for level in levels] for seed in seeds])
            spread = np.std(values, axis=0, ddof=1) if len(seeds) > 1 else None
            name = label if kind == "noise" else None
            axes.errorbar(
                levels, values.mean(0), spread, label=name, color=colour, marker=marker, linestyle=line, capsize=3,
                markersize=5, markerfacecolor="white" if kind == "fgsm" else colour,
            )  # fmt: skip
        clean = 100 * np.mean([seed["clean"] for seed in seeds])
        for axes in (attack, noise):
            axes.axhline(clean, color=colour, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
    attack.plot([], [], "o:", color="0.3", markerfacecolor="white", label="FGSM")
    attack.plot([], [], "o-", color="0.3", label="PGD, 10 steps")
    attack.plot([], [], color="0.3", linewidth=0.8, linestyle=(0, (1, 3)), label="unperturbed")
    attack.legend(frameon=False)
    attack.set(xlabel="radius, grey levels", ylabel="test accuracy, %")
    noise.set(xlabel="standard deviation of the noise, grey levels")
    for axes, levels in ((attack, radii), (noise, sigmas)):
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.minorticks_off()
        drawing.open_frame(axes)
    attack.set_ylim(bottom=-2)  # a whole marker at zero
    figure.legend(
        *noise.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(groups), 4), frameon=False
    )
    return figure
