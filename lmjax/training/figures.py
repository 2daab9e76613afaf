"""Pictures of a run, drawn from the rows of its metrics."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import drawing

# Two colours that stay apart for colour-blind readers and in grey.
_TRAIN, _TEST = "#7f9fc8", "#1f3a5f"


def learning_curves(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss and error by epoch, training and test, and the learning rate's drops."""
    figure = drawing.figure(9, 3.6, purpose="drawing learning curves")
    epochs = [row["epoch"] for row in rows]
    changes = [(a["epoch"], b["learning_rate"] - a["learning_rate"]) for a, b in itertools.pairwise(rows)]
    steady = any(change == 0 for _, change in changes)  # a cosine has no drops to mark
    drops = [epoch for epoch, change in changes if steady and change < 0]
    loss, error = figure.subplots(1, 2)
    for axes, key, label in ((loss, "loss", "loss"), (error, "accuracy", "error, %")):
        curves = {split: np.array([row[f"{split}_{key}"] for row in rows]) for split in ("train", "test")}
        if key == "accuracy":
            curves = {split: 100 * (1 - values) for split, values in curves.items()}
        for (split, values), colour in zip(curves.items(), (_TRAIN, _TEST), strict=True):
            axes.plot(epochs, values, color=colour, label=split, marker="o" if len(rows) < 3 else None)
        if min(values.min() for values in curves.values()) > 0:  # a logarithmic axis has no place for a zero
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2357" else "")
        for epoch in drops:
            axes.axvline(epoch, color="0.8", linewidth=0.8, zorder=0)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        drawing.open_frame(axes)
    error.legend(frameon=False)
    error.annotate(
        f"{100 * (1 - rows[-1]['test_accuracy']):.2f}%", (epochs[-1], 100 * (1 - rows[-1]["test_accuracy"])),
        xytext=(4, 0), textcoords="offset points", va="center", color=_TEST,
    )  # fmt: skip
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def coefficients(values: dict[str, list], path: Path, title: str) -> None:
    """The learned coefficients against the step, through the stages; the mean over channels where there are several."""
    figure = drawing.figure(7, 3.6, purpose="drawing coefficients")
    axes = figure.subplots()
    kinds: dict[str, list[tuple[str, np.ndarray]]] = {}
    for key, value in values.items():
        stage, _, kind = key.partition(".")
        kinds.setdefault(kind, []).append((stage, np.asarray(value)))
    lines = 0
    for kind, stages in kinds.items():
        # [steps, weights]: a linear multistep scheme has several weights of a kind, one line each.
        tables = [(stage, x.reshape(len(x), -1)) for stage, x in stages]
        tables = [(stage, x if kind else x.mean(1, keepdims=True)) for stage, x in tables]
        for j in range(tables[0][1].shape[1]):
            first = 1
            for stage, table in tables:
                steps = np.arange(first, first + len(table))
                axes.plot(
                    steps,
                    table[:, j],
                    "o-",
                    color=f"C{lines}",
                    markersize=3,
                    label=f"{kind}[{j}]" if kind and first == 1 else None,
                )
                if not lines:
                    axes.annotate(
                        stage,
                        (steps[0], 1),
                        xycoords=("data", "axes fraction"),
                        xytext=(0, 3),
                        textcoords="offset points",
                        color="0.4",
                        fontsize=8,
                    )
                    axes.axvline(first - 0.5, color="0.85", linewidth=0.8, zorder=0)
                first += len(table) + 1
            lines += 1
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="step (those that have a coefficient)", ylabel="coefficient")
    drawing.open_frame(axes)
    if lines > 1:
        axes.legend(frameon=False, ncols=2)
    axes.set_title(title, pad=18)
    figure.savefig(path, dpi=150)
