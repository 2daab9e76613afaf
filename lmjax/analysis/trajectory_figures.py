"""The pictures of `lmjax.analysis.trajectory`."""

from pathlib import Path
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.errors import InputError

_MARKERS = "osD^vP*"
_GAP = 0.6  # between two stages, in steps
_DOTTED = {"linestyle": (0, (1, 1)), "linewidth": 1.6}


def measures(groups: dict[str, list[dict[str, dict[str, np.ndarray]]]]) -> Any:
    """Distance, turn, norm and tortuosity against the step, through the stages.

    Args:
        groups: by label, the `trajectories` of each seed. Lines are means over images and seeds, bands the standard
            deviation over them.
    """
    figure = drawing.figure(9, 6.4, purpose="drawing trajectories")
    axes = dict(zip(("distance", "turn", "norm", "tortuosity"), figure.subplots(2, 2).flat, strict=True))
    for i, (label, seeds) in enumerate(groups.items()):
        colour, marker = drawing.COLOURS[i % len(drawing.COLOURS)], _MARKERS[i % len(_MARKERS)]
        first = 1.0
        for number, name in enumerate(seeds[0]):
            stage = {key: np.concatenate([seed[name][key] for seed in seeds], axis=-1) for key in seeds[0][name]}
            steps = first + np.arange(len(stage["distance"]))
            style = {"color": colour, "marker": marker, "markersize": 4, "label": None if number else label}
            _band(axes["distance"], steps, stage["distance"], **style)
            axes["distance"].plot(steps, np.mean(stage["branch"], -1), color=colour, **_DOTTED)
            _band(axes["turn"], steps[1:], stage["turn"], **style)
            ends = np.concatenate([[first - 0.5], steps + 0.5])  # between the steps
            _band(axes["norm"], ends, stage["norm"] / stage["norm"][:1], **style)
            spread = 0.12 * (i - (len(groups) - 1) / 2)
            axes["tortuosity"].errorbar(
                number + 1 + spread, np.mean(stage["tortuosity"]), np.std(stage["tortuosity"]), color=colour,
                marker=marker, capsize=3, linestyle="none",
            )  # fmt: skip
            if i == 0:
                _mark_stage(axes, first, len(steps), name)
            first += len(steps) + _GAP
    lengths = [len(stage["distance"]) for stage in next(iter(groups.values()))[0].values()]
    _finish(figure, axes, lengths, len(groups))
    return figure


def _band(axes, x, values, *, color, **style):
    mean, std = np.mean(values, axis=-1), np.std(values, axis=-1)
    axes.plot(x, mean, color=color, **style)
    axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def _mark_stage(axes, first, steps, name):
    for key in ("distance", "turn", "norm"):
        axes[key].axvspan(first - 0.5, first + steps - 0.5, color="0.96", zorder=-1, linewidth=0)
        axes[key].annotate(
            name.replace("stage", "stage "), (first + (steps - 1) / 2, 1), xycoords=("data", "axes fraction"),
            xytext=(0, 3), textcoords="offset points", ha="center", color="0.4", fontsize=8,
        )  # fmt: skip


def _finish(figure, axes, lengths, groups):
    starts = np.cumsum([1.0, *(length + _GAP for length in lengths)])[:-1]
    positions = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    every = -(-len(positions) // 12)
    for key in ("distance", "turn", "norm"):
        axes[key].set_xticks(positions[::every], [str(n) for n in range(1, len(positions) + 1, every)])
        axes[key].set_xlabel("step")
        axes[key].set_xlim(positions[0] - 0.7, positions[-1] + 0.7)
    axes["distance"].plot([], [], color="0.3", **_DOTTED, label="what its branches add")
    axes["distance"].set_ylabel(r"distance of a step, $|s_n|\,/\,|u_n|$")
    axes["turn"].set_ylabel("turn from the step before, degrees")
    axes["turn"].axhline(90, color=drawing.FAINT, linewidth=1, zorder=0)
    axes["norm"].set_ylabel(r"norm, $|u_n|\,/\,|u_0|$ of the stage")
    axes["norm"].axhline(1, color=drawing.FAINT, linewidth=1, zorder=0)
    for key in ("distance", "norm"):
        axes[key].set_ylim(bottom=0)
    tortuosity = axes["tortuosity"]
    for number, length in enumerate(lengths, start=1):
        tortuosity.plot([number - 0.3, number + 0.3], [length**0.5] * 2, color="0.6", linewidth=1, zorder=0)
    tortuosity.annotate(
        "equal steps at right angles", (1 - 0.3, lengths[0] ** 0.5), xytext=(0, 3), textcoords="offset points",
        color="0.4", fontsize=8,
    )  # fmt: skip
    tortuosity.set_xticks(range(1, len(lengths) + 1), [f"stage {n}" for n in range(1, len(lengths) + 1)])
    tortuosity.set(ylabel="length of the path / straight line", xlim=(0.5, len(lengths) + 0.5))
    low, high = tortuosity.get_ylim()
    tortuosity.set_ylim(min(low, 1), high + 0.08 * (high - low))
    for each in axes.values():
        drawing.open_frame(each)
    handles, labels = axes["distance"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)


def planes(drawn: list[tuple[str, np.ndarray, np.ndarray, list[str]]]) -> Any:
    """The paths of some images through the last stage, a panel for each run.

    Args:
        drawn: of each run its label, the coordinates [L + 1, N, 2], the shares of the variance [2], and the class of
            each image.
    """
    figure = drawing.figure(1 + 3.6 * len(drawn), 4.2, purpose="drawing trajectories")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (label, points, shares, classes) in zip(panels, drawn, strict=True):
        names = list(dict.fromkeys(classes))
        for path, name in zip(np.swapaxes(points, 0, 1), classes, strict=True):
            which = names.index(name)
            colour, marker = drawing.COLOURS[which], _MARKERS[which]
            axes.plot(*path.T, color=colour, linewidth=1, alpha=0.7)
            axes.plot(*path[:-1].T, ".", color=colour, markersize=4)
            axes.plot(*path[-1], marker, color=colour, markersize=7, markeredgecolor="white")
        for which, name in enumerate(names):
            axes.plot([], [], _MARKERS[which] + "-", color=drawing.COLOURS[which], label=name)
        axes.set(
            xlabel=f"first axis, {shares[0]:.0%} of the variance", ylabel=f"second axis, {shares[1]:.0%}", title=label
        )
        axes.set_aspect("equal", adjustable="datalim")
        drawing.open_frame(axes)
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def require_classes(classes: int, paths: tuple[Path, Path] | None) -> None:
    """Checks `--classes`.

    Raises:
        InputError: if there is no colour for so many, or nowhere to draw them.
    """
    if classes and not 2 <= classes <= len(drawing.COLOURS):
        raise InputError(f"--classes {classes}: give 2 to {len(drawing.COLOURS)}, as there are colours")
    if classes and paths is None:
        raise InputError("--classes: is a picture, and needs --out FILE")
