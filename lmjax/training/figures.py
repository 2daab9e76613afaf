"""Pictures of a run, drawn from the rows of its metrics."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import drawing

# Two colors that stay apart for color-blind readers and in gray.
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
        for (split, values), color in zip(curves.items(), (_TRAIN, _TEST), strict=True):
            axes.plot(epochs, values, color=color, label=split, marker="o" if len(rows) < 3 else None)
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
    drawing.save(figure, path)


def coefficients(values: dict[str, list], path: Path, title: str) -> None:
    """The learned coefficients against the step, through the stages; the mean over channels where there are several."""
    figure = drawing.figure(7, 3.6, purpose="drawing coefficients")
    axes = figure.subplots()
    kinds = by_kind(values)
    # A linear multistep scheme has several weights of a kind, one line each.
    lines = [(kind, j) for kind, stages in kinds.items() for j in range(next(iter(stages.values())).shape[1])]
    for color, (kind, j) in enumerate(lines):
        steps = {stage: table[:, j] for stage, table in kinds[kind].items()}
        label = f"{kind}[{j}]" if kind else None
        draw_by_depth(axes, steps, color=f"C{color}", marker="o", markersize=3, label=label)
    mark_stages(axes, {stage: len(table) for stage, table in kinds[lines[0][0]].items()})
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(ylabel="coefficient")
    drawing.open_frame(axes)
    if len(lines) > 1:
        axes.legend(frameon=False, ncols=2)
    axes.set_title(title, pad=18)
    drawing.save(figure, path)


def by_kind(values: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{"stage1": [steps, ...], ...} or {"stage1.0": ..., "stage1.1": ..., ...} -> {kind: {stage: [steps, weights]}}.

    The only kind of coefficients of a scheme is "", and of several channels the mean is taken.
    """
    kinds: dict[str, dict[str, np.ndarray]] = {}
    for key, value in values.items():
        stage, _, kind = key.partition(".")
        table = np.asarray(value, float)
        table = table.reshape(len(table), -1)
        kinds.setdefault(kind, {})[stage] = table if kind else table.mean(1, keepdims=True)
    return kinds


def draw_by_depth(axes: Any, stages: dict[str, np.ndarray], **style: Any) -> None:
    """A number a learned step against its place in the network, a line a stage.

    Args:
        axes: to draw on.
        stages: [steps] by stage.
        style: of the lines, as matplotlib's `plot` takes it.
    """
    first, label = 1, style.pop("label", None)
    for values in stages.values():
        axes.plot(np.arange(first, first + len(values)), values, label=label, **style)
        first, label = first + len(values), None


def mark_stages(axes: Any, lengths: dict[str, int], *, names: bool = True) -> None:
    """The boundaries of stages with so many learned steps, and their names above."""
    first = 1
    for stage, length in lengths.items():
        axes.axvline(first - 0.5, color="0.85", linewidth=0.8, zorder=0)
        if names:
            axes.annotate(
                stage, (first - 0.4, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", color="0.4", fontsize=8,
            )  # fmt: skip
        first += length
    axes.set(xlabel="learned step", xlim=(0.5, first - 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
