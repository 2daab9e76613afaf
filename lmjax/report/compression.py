"""Error against parameters, the comparison of Lu et al. (2018): how large a network need be for a given error."""

import math
from collections.abc import Sequence
from typing import Any

from lmjax.config import differences
from lmjax.published import Row as Published
from lmjax.report import svg
from lmjax.report.markup import Markup, details, element, table
from lmjax.report.network import Facts
from lmjax.report.runs import Row

# Of two points of a curve: what network it is (its scheme is the same anyhow), and what changes no number.
_MAY_DIFFER = {"model.name", "model.width", "model.stepper", "model.memory", "train.on_nan"}


def section(
    rows: Sequence[Row],
    facts: Sequence[Facts],
    published: Sequence[Published | None],
    schemes: Sequence[str],
    key: str,
) -> Markup | None:
    """The picture for rows on one data set; None for fewer than two networks of known size and error.

    Args:
        rows: of the report.
        facts: theirs.
        published: what was published of the same network, or None.
        schemes: of the whole report, in the order of their colours.
        key: of the figure.
    """
    points = [
        (row, fact, row.error(), theirs)
        for row, fact, theirs in zip(rows, facts, published, strict=True)
        if row.error() and fact.parameters
    ]
    if len({row.network for row, *_ in points}) < 2:
        return None
    hollow = any(theirs and theirs.error is not None for *_, theirs in points)
    caption = "Test error after the last epoch against the number of parameters"
    curves = _curves(points, schemes)
    words = [f"{caption}, by scheme."]
    if any(len(curve) > 1 for _, curve in curves):
        words.append("Lines join networks of one scheme and one recipe.")
    if any(error[1] is not None for _, _, error, _ in points):
        words.append("Bars are one standard deviation over the seeds to either side, moved apart by a hair.")
    if hollow:
        words.append("Hollow: published, with the recipe of the publication.")
    with svg.drawing():
        drawn = _draw(points, curves, schemes)
        picture = svg.inline(drawn, key, f"{caption}, by scheme; the numbers are in the table below")
    heads = ["run", "network", "scheme", "parameters", "test error, %", "standard deviation", "published, %"]
    return element(
        "div",
        element("figure", picture, element("figcaption", " ".join(words))),
        details("The numbers", table(heads, map(_numbers, points), caption)),
    )


def _numbers(point) -> list[str]:
    row, fact, (mean, std), theirs = point
    return [
        row.name, row.network, fact.scheme, f"{fact.parameters:,}", f"{mean:.2f}",
        "" if std is None else f"{std:.2f}", "" if theirs is None or theirs.error is None else f"{theirs.error:.2f}",
    ]  # fmt: skip


def _curves(points, schemes: Sequence[str]) -> list[tuple[int, list]]:
    """What is joined by lines: (number of the scheme, points by size), of different networks trained alike."""
    found: list[tuple[int, list]] = []
    for point in sorted(points, key=lambda point: (schemes.index(point[1].scheme), point[1].parameters)):
        number = schemes.index(point[1].scheme)
        home = next((curve for theirs, curve in found if theirs == number and _continues(point[0], curve)), None)
        found.append((number, [point])) if home is None else home.append(point)
    return found


def _continues(row: Row, curve: Sequence) -> bool:
    changed = differences(curve[0][0].config, row.config, ("data", "model", "optimizer", "train"))
    return not changed.keys() - _MAY_DIFFER and row.network not in {other.network for other, *_ in curve}


def _draw(points, curves, schemes: Sequence[str]):
    figure, axes = svg.figure(3.4)
    counts = [fact.parameters for _, fact, _, _ in points]
    # Networks of different schemes are of nearly one size: side by side, their bars can be told apart.
    apart = (max(counts) / min(counts)) ** min(0.008, 0.04 / len(curves))
    handles, published = {}, set()
    for place, (number, curve) in enumerate(curves):
        aside = apart ** (place - (len(curves) - 1) / 2)
        look = {"color": svg.SERIES[number % len(svg.SERIES)], "marker": "osD^vP*"[number % 7], "markersize": 5}
        says, handle = _draw_curve(axes, curve, aside, look)
        handles[number] = max(handles.get(number, (-1, None)), (says, handle), key=lambda entry: entry[0])
        for row, fact, _, theirs in curve:
            if theirs and theirs.error is not None and (number, row.network) not in published:
                published.add((number, row.network))
                axes.plot([aside * fact.parameters], [theirs.error], linestyle="none", markerfacecolor="none", **look)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    svg.plain_logarithmic(axes.xaxis)
    axes.set(xlabel="parameters", ylabel="test error, %")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if axes.get_ylim()[0] < 1 else None)
    _name_networks(axes, points)
    axes.legend([handle for _, handle in handles.values()], [schemes[number] for number in handles], frameon=False)
    return figure


def _draw_curve(axes, curve: Sequence, aside: float, look: dict) -> tuple[int, Any]:
    """Draws it; how much of line and bars it shows, and what stands for it in the legend."""
    sizes, errors = [aside * fact.parameters for _, fact, _, _ in curve], [error[0] for _, _, error, _ in curve]
    bars = [math.nan if error[1] is None else error[1] for _, _, error, _ in curve]
    line = {"linestyle": "-" if len(curve) > 1 else "none", "linewidth": 1.2}
    if all(map(math.isnan, bars)):
        return len(curve) > 1, axes.plot(sizes, errors, **line, **look)[0]
    return 2 + (len(curve) > 1), axes.errorbar(sizes, errors, bars, elinewidth=1, capsize=2.5, **line, **look)


def _name_networks(axes, points) -> None:
    """Along the top."""
    from matplotlib.ticker import NullLocator

    names: dict[str, list[int]] = {}
    for row, fact, *_ in points:
        names.setdefault(row.network, []).append(fact.parameters)
    top = axes.secondary_xaxis("top")
    top.set_xticks([sum(sizes) / len(sizes) for sizes in names.values()], list(names), rotation=30, ha="left",
                   rotation_mode="anchor", fontsize=8)  # fmt: skip
    top.xaxis.set_minor_locator(NullLocator())
    top.spines["top"].set_visible(False)
