"""The pictures of trajectories, refinements and robustness: a color and a marker for each label, seeds together."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lmjax.results import plots

_GAP = 0.08  # between two stages, in parts of the width of all
_DOTTED = {"linestyle": (0, (1, 1)), "linewidth": 1.6}


def trajectories(groups: dict[str, list[dict[str, dict[str, np.ndarray]]]]) -> Any:
    """Distance, turn, norm and tortuosity against the step, through the stages.

    Networks of different depth go through the same width of a stage in fewer or more steps, as methods do that
    integrate over the same time.

    Args:
        groups: by label, the `trajectories` of each seed. Lines are means over images and seeds, bands the standard
            deviation over them.
    """
    figure = plots.figure(9, 6.4, purpose="drawing trajectories")
    axes = dict(zip(("distance", "turn", "norm", "tortuosity"), figure.subplots(2, 2).flat, strict=True))
    lengths = _lengths(groups)
    places = _places(lengths)
    for i, (label, seeds) in enumerate(groups.items()):
        style = _style(i)
        for name in seeds[0]:
            stage = {key: np.concatenate([seed[name][key] for seed in seeds], axis=-1) for key in seeds[0][name]}
            _draw_stage(axes, places[name], stage, markersize=4, **style)
        axes["distance"].plot([], [], markersize=4, label=plots.plain(label), **style)
    _draw_tortuosities(axes["tortuosity"], groups, lengths)
    _mark_steps([axes[key] for key in ("distance", "turn", "norm")], places, lengths)
    _finish(figure, axes)
    return figure


def _style(i):
    return {"color": plots.COLORS[i % len(plots.COLORS)], "marker": plots.MARKERS[i % len(plots.MARKERS)]}


def _legend(figure, axes):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)


def _lengths(groups):
    """The number of steps of each stage, {"stage1": {label: L, ...}, ...}."""
    found = {}
    for label, seeds in groups.items():
        for name, stage in seeds[0].items():
            found.setdefault(name, {})[label] = len(stage["distance"])
    return dict(sorted(found.items()))


def _alike(lengths):
    """True if all networks have the same stages."""
    networks = set().union(*lengths.values())
    return all(found.keys() == networks and len(set(found.values())) == 1 for found in lengths.values())


def _places(lengths):
    """The start and the width of each stage: a step is 1 wide if all networks have the same, else a stage."""
    widths = {name: max(found.values()) if _alike(lengths) else 1 for name, found in lengths.items()}
    places, start = {}, 0.0
    for name, width in widths.items():
        places[name] = (start, width)
        start += width + _GAP * sum(widths.values())
    return places


def _draw_stage(axes, place, stage, *, color, **style):
    start, width = place
    steps = len(stage["distance"])
    middles, ends = start + width * (np.arange(steps) + 0.5) / steps, start + width * np.arange(steps + 1) / steps
    _band(axes["distance"], middles, stage["distance"], color=color, **style)
    axes["distance"].plot(middles, np.mean(stage["branch"], -1), color=color, **_DOTTED)
    _band(axes["turn"], middles[1:], stage["turn"], color=color, **style)
    _band(axes["norm"], ends, stage["norm"] / stage["norm"][:1], color=color, **style)


def _band(axes, x, values, **style):
    mean, std = np.mean(values, axis=-1), np.std(values, axis=-1)
    plots.mean_and_range(axes, x, mean, mean - std, mean + std, linewidth=1.5, **style)


def _draw_tortuosities(axes, groups, lengths):
    """Tortuosities of the stages side by side, over those that they would have with equal steps at right angles."""
    share = 0.6 / len(groups)
    for i, (label, seeds) in enumerate(groups.items()):
        for number, name in enumerate(lengths, start=1):
            if label in lengths[name]:
                x = number - 0.3 + share * (i + 0.5)
                values = np.concatenate([seed[name]["tortuosity"] for seed in seeds])
                axes.errorbar(x, np.mean(values), np.std(values), capsize=3, linestyle="none", **_style(i))
                straight = [lengths[name][label] ** 0.5] * 2
                axes.plot([x - share / 2, x + share / 2], straight, color="0.6", linewidth=1, zorder=0)
    axes.plot([], [], color="0.6", linewidth=1, label="equal steps at right angles")
    # Above the panel, where nothing is drawn.
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderpad": 0, "borderaxespad": 0.2}
    axes.legend(frameon=False, fontsize=8, labelcolor="0.4", **place)
    axes.set_xticks(range(1, len(lengths) + 1), [_title(name) for name in lengths])
    axes.set(ylabel="length of the path / straight line", xlim=(0.5, len(lengths) + 0.5))
    axes.set_ylim(bottom=min(axes.get_ylim()[0], 1))


def _title(name):
    return name.replace("stage", "stage ")


def _mark_steps(panels, places, lengths):
    """Shades the stages. Their steps are numbered if all networks have the same, else there are parts of a stage."""
    if _alike(lengths):
        middles = [start + n + 0.5 for start, width in places.values() for n in range(width)]
        every = -(-len(middles) // 12)
        ticks, said, of = middles[::every], range(1, len(middles) + 1, every), "step"
    else:
        parts = {0: "0", 0.5: "½", 1: "1"}
        ticks = [start + width * part for start, width in places.values() for part in parts]
        said, of = [*parts.values()] * len(places), "part of the steps of a stage"
    for axes in panels:
        for name, (start, width) in places.items():
            axes.axvspan(start, start + width, color="0.96", zorder=-1, linewidth=0)
            axes.annotate(
                _title(name), (start + width / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", color="0.4", fontsize=8,
            )  # fmt: skip
        end = max(start + width for start, width in places.values())
        axes.set_xticks(ticks, list(map(str, said)))
        axes.set(xlabel=of, xlim=(-0.02 * end, 1.02 * end))


def _finish(figure, axes):
    axes["distance"].plot([], [], color="0.3", **_DOTTED, label="what its branches add")
    axes["distance"].set_ylabel(r"distance of a step, $|s_n|\,/\,|u_n|$")
    axes["turn"].set_ylabel("turn from the step before, degrees")
    axes["turn"].axhline(90, color=plots.FAINT, linewidth=1, zorder=0)
    axes["norm"].set_ylabel(r"norm, $|u_n|\,/\,|u_0|$ of the stage")
    axes["norm"].axhline(1, color=plots.FAINT, linewidth=1, zorder=0)
    for key in ("distance", "norm"):
        axes[key].set_ylim(bottom=0)
    for each in axes.values():
        plots.open_frame(each)
    _legend(figure, axes["distance"])


def planes(drawn: list[tuple[str, np.ndarray, np.ndarray, list[str]]]) -> Any:
    """The paths of some images through the last stage, a panel for each run.

    Args:
        drawn: of each run its label, the coordinates [L + 1, N, 2], the shares of the variance [2], and the class of
            each image.
    """
    figure = plots.figure(1 + 3.6 * len(drawn), 4.2, purpose="drawing trajectories")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (label, points, shares, classes) in zip(panels, drawn, strict=True):
        names = list(dict.fromkeys(classes))
        for path, name in zip(np.swapaxes(points, 0, 1), classes, strict=True):
            which = names.index(name)
            color, marker = plots.COLORS[which], plots.MARKERS[which]
            axes.plot(*path.T, color=color, linewidth=1, alpha=0.7)
            axes.plot(*path[:-1].T, ".", color=color, markersize=4)
            axes.plot(*path[-1], marker, color=color, markersize=7, markeredgecolor="white")
        for which, name in enumerate(names):
            axes.plot([], [], plots.MARKERS[which] + "-", color=plots.COLORS[which], label=plots.plain(name))
        axes.set(
            xlabel=f"first axis, {shares[0]:.0%} of the variance",
            ylabel=f"second axis, {shares[1]:.0%}",
            title=plots.plain(label),
        )
        axes.set_aspect("equal", adjustable="datalim")
        plots.open_frame(axes)
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def refinements(groups: dict[str, list[dict[str, dict[str, float]]]], factors: list[Fraction]) -> Any:
    """Accuracy, and how far the features move, against the number of steps for one.

    Args:
        groups: by label, the `refinements` of each seed. Lines are means over the seeds, bars their standard deviation.
        factors: in increasing order.
    """
    figure = plots.figure(9, 3.8, purpose="drawing refinements")
    panels = dict(zip(("accuracy", "features"), figure.subplots(1, 2), strict=True))
    for i, (label, seeds) in enumerate(groups.items()):
        for key, axes in panels.items():
            values = [[100 * seed[str(factor)][key] for factor in factors] for seed in seeds]
            plots.mean_and_std(axes, list(map(float, factors)), values, label=plots.plain(label), **_style(i))
    for axes in panels.values():
        _levels(axes, list(map(float, factors)), list(map(str, factors)))
        axes.set_xlabel("steps in place of one")
        axes.axvline(1, color=plots.FAINT, linewidth=1, zorder=0)
    panels["accuracy"].set(ylabel="test accuracy, %")
    panels["features"].set(ylabel="distance of the final features, %")
    panels["features"].set_ylim(bottom=0)  # which it is at 1
    _legend(figure, panels["accuracy"])
    return figure


def robustness(groups: dict[str, list[dict[str, float]]], radii: Sequence[float], sigmas: Sequence[float]) -> Any:
    """Accuracy against the radius of the attacks, and against the standard deviation of the noise.

    Args:
        groups: by label, the accuracies of each seed. Lines are means over the seeds, bars their standard deviation.
        radii, sigmas: in gray levels, in increasing order.
    """
    figure = plots.figure(9, 3.8, purpose="drawing robustness")
    attack, noise = figure.subplots(1, 2, sharey=True)
    dotted = {"linewidth": 0.8, "linestyle": (0, (1, 3))}
    for i, (label, seeds) in enumerate(groups.items()):
        style = _style(i) | {"markersize": 5}
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
    _legend(figure, noise)
    return figure


def _levels(axes, levels, names):
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, names)
    axes.minorticks_off()
    plots.open_frame(axes)
