"""Error against parameters, the comparison of Lu et al. (2018): how large a network need be for a given error."""

from collections.abc import Sequence

from lmjax.published import Row as Published
from lmjax.report import svg
from lmjax.report.markup import Markup, details, element, table
from lmjax.report.network import Facts
from lmjax.report.runs import Row


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
    words = [f"{caption}, by scheme."]
    if any(error[1] is not None for _, _, error, _ in points):
        words.append("Bars are one standard deviation over the seeds to either side, moved apart by a hair.")
    if hollow:
        words.append("Hollow: published, with the recipe of the publication.")
    with svg.drawing():
        drawn = _draw(points, schemes)
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


def _draw(points, schemes: Sequence[str]):
    from matplotlib.ticker import NullLocator

    figure, axes = svg.figure(3.4)
    counts = [fact.parameters for _, fact, _, _ in points]
    reach = max(counts) / min(counts)
    for number, scheme in enumerate(schemes):
        mine = sorted((point for point in points if point[1].scheme == scheme), key=lambda point: point[1].parameters)
        if not mine:
            continue
        colour = svg.SERIES[number % len(svg.SERIES)]
        marker = "osD^vP*"[number % 7]
        # Networks of different schemes are of nearly one size: side by side, their bars can be told apart.
        aside = reach ** (0.008 * (number - (len(schemes) - 1) / 2))
        sizes, errors = [aside * fact.parameters for _, fact, _, _ in mine], [error[0] for _, _, error, _ in mine]
        bars = [error[1] or 0 for _, _, error, _ in mine]
        axes.errorbar(
            sizes, errors, bars, color=colour, marker=marker, markersize=5, linewidth=1.2, elinewidth=1, capsize=2.5,
            label=scheme,
        )  # fmt: skip
        there = [
            (aside * fact.parameters, theirs.error)
            for _, fact, _, theirs in mine
            if theirs and theirs.error is not None
        ]
        if there:
            axes.plot(
                *zip(*there, strict=True), marker, color=colour, markersize=5, markerfacecolor="none",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.1)
    svg.plain_logarithmic(axes.xaxis)
    axes.set(xlabel="parameters", ylabel="test error, %")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if axes.get_ylim()[0] < 1 else None)
    names: dict[str, list[int]] = {}
    for row, fact, *_ in points:
        names.setdefault(row.network, []).append(fact.parameters)
    top = axes.secondary_xaxis("top")
    top.set_xticks([sum(sizes) / len(sizes) for sizes in names.values()], list(names), rotation=30, ha="left",
                   rotation_mode="anchor", fontsize=8)  # fmt: skip
    top.xaxis.set_minor_locator(NullLocator())
    top.spines["top"].set_visible(False)
    axes.legend(frameon=False)
    return figure
