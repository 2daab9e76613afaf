"""The pictures of trajectories, refinements and robustness: a color and a marker for each label, seeds together."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lmjax.results import plots

_WIDTH = 0.85  # of a stage; the rest is the gap to the next
_DOTTED = {"linestyle": (0, (1, 1)), "linewidth": 1.6}


def trajectories(groups: dict[str, list[dict[str, dict[str, np.ndarray]]]]) -> Any:
    """Draw distance, turn, norm and tortuosity, step by step, through the stages; a matplotlib figure.

    Every stage is equally wide, whatever its number of steps: a deeper network takes smaller steps over the same
    interval, as a numerical method would.

    Args:
        groups: by label, the `trajectories` of each seed. Lines are means over images and seeds, bands the standard
            deviation over them.
    """
    figure = plots.figure(9, 6.4)
    axes = dict(zip(("distance", "turn", "norm", "tortuosity"), figure.subplots(2, 2).flat, strict=True))
    names = list(dict.fromkeys(name for seeds in groups.values() for name in seeds[0]))
    for i, (label, seeds) in enumerate(groups.items()):
        style = plots.marked(i)
        aside = _WIDTH * (i + 0.5) / len(groups)
        for name in seeds[0]:
            stage = {key: np.concatenate([seed[name][key] for seed in seeds], axis=-1) for key in seeds[0][name]}
            start = names.index(name)
            _draw_stage(axes, start, stage, markersize=4, **style)
            _draw_tortuosity(axes["tortuosity"], start + aside, 0.3 * _WIDTH / len(groups), stage, **style)
        axes["distance"].plot([], [], markersize=4, label=plots.plain(label), **style)
    _finish(figure, axes, names)
    return figure


def _draw_stage(axes, start, stage, *, color, **style):
    steps = len(stage["distance"])
    ends = start + _WIDTH * np.arange(steps + 1) / steps
    middles = (ends[1:] + ends[:-1]) / 2
    _band(axes["distance"], middles, stage["distance"], color=color, **style)
    axes["distance"].plot(middles, np.mean(stage["branch"], -1), color=color, **_DOTTED)
    _band(axes["turn"], middles[1:], stage["turn"], color=color, **style)
    _band(axes["norm"], ends, stage["norm"] / stage["norm"][:1], color=color, **style)


def _band(axes, x, values, **style):
    mean, std = np.mean(values, axis=-1), np.std(values, axis=-1)
    plots.mean_and_range(axes, x, mean, mean - std, mean + std, linewidth=1.5, **style)


def _draw_tortuosity(axes, x, half, stage, **style):
    """The tortuosity, over the one that it would have with equal steps at right angles."""
    values = stage["tortuosity"]
    axes.errorbar(x, np.mean(values), np.std(values), capsize=3, linestyle="none", **style)
    axes.hlines(len(stage["distance"]) ** 0.5, x - half, x + half, color="0.6", linewidth=1, zorder=0)


def _finish(figure, axes, names):
    axes["distance"].plot([], [], color="0.3", **_DOTTED, label="what its branches add")
    axes["tortuosity"].plot([], [], color="0.6", linewidth=1, label="equal steps at right angles")
    axes["distance"].set_ylabel("distance of a step, |sₙ| / |uₙ|")
    axes["turn"].set_ylabel("turn from the step before, degrees")
    axes["turn"].axhline(90, color=plots.FAINT, linewidth=1, zorder=0)
    axes["norm"].set_ylabel("norm, |uₙ| / |u₀| of the stage")
    axes["norm"].axhline(1, color=plots.FAINT, linewidth=1, zorder=0)
    axes["tortuosity"].set_ylabel("length of the path / straight line")
    axes["tortuosity"].set_ylim(bottom=min(axes["tortuosity"].get_ylim()[0], 1))
    for key in ("distance", "norm"):
        axes[key].set_ylim(bottom=0)
    for each in axes.values():
        for start in range(len(names)):
            each.axvspan(start, start + _WIDTH, color="0.96", zorder=-1, linewidth=0)
        each.set_xticks(np.arange(len(names)) + _WIDTH / 2, [name.replace("stage", "stage ") for name in names])
        each.tick_params(axis="x", length=0)
        each.set_xlim(-0.05, len(names) - 1 + _WIDTH + 0.05)
        plots.open_frame(each)
    handles = [each.get_legend_handles_labels() for each in (axes["distance"], axes["tortuosity"])]
    plots.legend_above(figure, *(a + b for a, b in zip(*handles, strict=True)))


def planes(drawn: list[tuple[str, np.ndarray, np.ndarray, list[str]]]) -> Any:
    """The paths of some images through the last stage, a panel for each run.

    Args:
        drawn: of each run its label, the coordinates [L + 1, N, 2], the shares of the variance [2], and the class of
            each image.
    """
    figure = plots.figure(1 + 3.6 * len(drawn), 4.2)
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (label, points, shares, classes) in zip(panels, drawn, strict=True):
        styles = {name: plots.marked(i) for i, name in enumerate(dict.fromkeys(classes))}
        for path, name in zip(np.swapaxes(points, 0, 1), classes, strict=True):
            axes.plot(*path.T, color=styles[name]["color"], linewidth=1, alpha=0.7)
            axes.plot(*path[:-1].T, ".", color=styles[name]["color"], markersize=4)
            axes.plot(*path[-1], **styles[name], markersize=7, markeredgecolor="white")
        for name, style in styles.items():
            axes.plot([], [], **style, label=plots.plain(name))
        axes.set(
            xlabel=f"first axis, {shares[0]:.0%} of the variance",
            ylabel=f"second axis, {shares[1]:.0%}",
            title=plots.plain(label),
        )
        axes.set_aspect("equal", adjustable="datalim")
        plots.open_frame(axes)
    one = len({tuple(dict.fromkeys(classes)) for *_, classes in drawn}) == 1
    for axes in panels[-1:] if one else panels:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def refinements(groups: dict[str, list[dict[str, dict[str, float]]]], factors: list[Fraction]) -> Any:
    """Accuracy, and how far the features move, against the number of steps for one.

    Args:
        groups: by label, the `refinements` of each seed. Lines are means over the seeds, bars their standard deviation.
        factors: in increasing order.
    """
    figure = plots.figure(9, 3.8)
    panels = dict(zip(("accuracy", "features"), figure.subplots(1, 2), strict=True))
    for i, (label, seeds) in enumerate(groups.items()):
        for key, axes in panels.items():
            values = [[100 * seed[str(factor)][key] for factor in factors] for seed in seeds]
            plots.mean_and_std(axes, list(map(float, factors)), values, label=plots.plain(label), **plots.marked(i))
    for axes in panels.values():
        _levels(axes, list(map(float, factors)), list(map(str, factors)))
        axes.set_xlabel("steps in place of one")
        axes.axvline(1, color=plots.FAINT, linewidth=1, zorder=0)
    panels["accuracy"].set(ylabel="test accuracy, %")
    panels["features"].set(ylabel="distance of the final features, %")
    panels["features"].set_ylim(bottom=0)  # which it is at 1
    plots.legend_above(figure, *panels["accuracy"].get_legend_handles_labels())
    return figure


def robustness(groups: dict[str, list[dict[str, float]]], radii: Sequence[float], sigmas: Sequence[float]) -> Any:
    """Accuracy against the radius of the attacks, and against the standard deviation of the noise.

    Args:
        groups: by label, the accuracies of each seed. Lines are means over the seeds, bars their standard deviation.
        radii, sigmas: in gray levels, in increasing order.
    """
    figure = plots.figure(9, 3.8)
    attack, noise = figure.subplots(1, 2, sharey=True)
    dotted = {"linewidth": 0.8, "linestyle": (0, (1, 3))}
    for i, (label, seeds) in enumerate(groups.items()):
        style = plots.marked(i) | {"markersize": 5}
        for axes, kind, levels, more in (
            (attack, "fgsm", radii, {"linestyle": ":", "markerfacecolor": "white"}),
            (attack, "pgd10", radii, {}), (noise, "noise", sigmas, {"label": plots.plain(label)}),
        ):  # fmt: skip
            values = [[100 * seed[f"{kind} {level:g}"] for level in levels] for seed in seeds]
            plots.mean_and_std(axes, levels, values, **style, **more)
        for axes in (attack, noise):
            axes.axhline(100 * np.mean([seed["clean"] for seed in seeds]), color=style["color"], zorder=0, **dotted)
    attack.plot([], [], "o:", color="0.3", markerfacecolor="white", label="FGSM")
    attack.plot([], [], "o-", color="0.3", label="PGD, 10 steps")
    attack.plot([], [], color="0.3", label="unperturbed", **dotted)
    attack.legend(frameon=False)
    attack.set(xlabel="radius, gray levels", ylabel="test accuracy, %")
    noise.set(xlabel="standard deviation of the noise, gray levels")
    for axes, levels in ((attack, radii), (noise, sigmas)):
        _levels(axes, levels, [f"{level:g}" for level in levels])
    attack.set_ylim(bottom=-2)  # a whole marker at zero
    plots.legend_above(figure, *noise.get_legend_handles_labels())
    return figure


def _levels(axes, levels, names):
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, names)
    axes.minorticks_off()
    plots.open_frame(axes)
