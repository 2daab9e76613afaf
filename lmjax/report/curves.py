"""Test error and training loss against the epoch."""

import csv
import io
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmjax.report import svg
from lmjax.report.markup import Markup, details, element, table
from lmjax.report.runs import Row
from lmjax.report.series import Look, legend

_MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "test error, %": lambda row: 100 * (1 - row["test_accuracy"]),
    "training loss": lambda row: row["train_loss"],
}
_LOGARITHMIC_FROM = 4  # where the greatest value is so many times the smallest, a linear axis hides the end
_SHOWN = 16  # epochs in the table; the file has all


def section(rows: Sequence[Row], looks: Sequence[Look], key: str) -> Markup | None:
    """The curves of rows on one data set; None before any has made an epoch."""
    drawn = [(row, look) for row, look in zip(rows, looks, strict=True) if any(run.epochs for run in row.runs)]
    if not drawn:
        return None
    seeds = any(len(row.runs) > 1 for row, _ in drawn)
    about = "Lines are means over the seeds that have come so far, bands their range." if seeds else "One seed each."
    names = [row.name for row, _ in drawn]
    return element(
        "div",
        legend(names, [look for _, look in drawn]),
        element("div", *(_figure(drawn, name, f"{key}-{i}") for i, name in enumerate(_MEASURES)), class_="figures"),
        element("p", about, class_="note"),
        details("The numbers", _table([row for row, _ in drawn]), _file([row for row, _ in drawn])),
    )


def course(row: Row, measure: Callable[[dict[str, Any]], float]) -> dict[int, list[float]]:
    """{epoch: the values of the seeds that have come so far}."""
    values: dict[int, list[float]] = {}
    for run in row.runs:
        for epoch in run.epochs:
            values.setdefault(epoch["epoch"], []).append(measure(epoch))
    return dict(sorted(values.items()))


def _figure(drawn, name: str, key: str) -> Markup:
    with svg.drawing():
        figure, axes = svg.figure()
        found = []
        for row, look in drawn:
            values = course(row, _MEASURES[name])
            epochs = list(values)
            found += [x for xs in values.values() for x in xs if np.isfinite(x)]
            if len(row.runs) > 1:
                low, high = ([f(xs) for xs in values.values()] for f in (min, max))
                axes.fill_between(epochs, low, high, color=look.line["color"], alpha=0.15, linewidth=0)
            marker = "o" if len(epochs) < 3 else None
            means = [np.mean(xs) for xs in values.values()]
            axes.plot(epochs, means, marker=marker, markersize=3, linewidth=1 if len(epochs) > 60 else 1.5, **look.line)
        if found and min(found) > 0 and max(found) > _LOGARITHMIC_FROM * min(found):
            axes.set_yscale("log")
            svg.plain_logarithmic(axes.yaxis)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="epoch", ylabel=name)
        ends = ", ".join(
            f"{row.name} {np.mean(list(course(row, _MEASURES[name]).values())[-1]):.3g}" for row, _ in drawn
        )
        picture = svg.inline(figure, key, f"{name} against the epoch, at the end: {ends}")
    return element("figure", picture, element("figcaption", name.partition(",")[0].capitalize(), " against the epoch"))


def _table(rows: Sequence[Row]) -> Markup:
    epochs = sorted({epoch["epoch"] for row in rows for run in row.runs for epoch in run.epochs})
    chosen = [epochs[i] for i in sorted({round(i) for i in np.linspace(0, len(epochs) - 1, _SHOWN)})]
    columns = [(row, name, course(row, measure)) for row in rows for name, measure in _MEASURES.items()]
    heads = ["epoch", *(f"{row.name}: {name}" for row, name, _ in columns)]
    means = lambda values, epoch: f"{np.mean(values[epoch]):.4g}" if epoch in values else ""  # noqa: E731
    body = [[epoch, *(means(values, epoch) for *_, values in columns)] for epoch in chosen]
    some = f", {len(chosen)} of {len(epochs)} epochs" if len(chosen) < len(epochs) else ""
    return table(heads, body, f"Means over the seeds{some}")


def _file(rows: Sequence[Row]) -> Markup:
    """Every epoch of every seed, as a link that holds the file itself."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "seed", "epoch", "test error in percent", "training loss"])
    for row in rows:
        for run in row.runs:
            for epoch in run.epochs:
                values = (f"{measure(epoch):.6g}" for measure in _MEASURES.values())
                writer.writerow([row.name, run.config.seed, epoch["epoch"], *values])
    place = f"data:text/csv;charset=utf-8,{urllib.parse.quote(file.getvalue(), safe=',')}"
    return element("p", element("a", "Every epoch of every seed, as CSV", href=place, download="learning_curves.csv"))
