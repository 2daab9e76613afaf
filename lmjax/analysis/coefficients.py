"""What the coefficients of a scheme have become in training, step by step and epoch by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.analysis.depth import DepthColours
from lmjax.analysis.learned import Learned
from lmjax.errors import InputError


def draw_coefficients(runs: Sequence[Learned], title: str = "") -> Any:
    """The coefficients of runs of one network, against depth and through the epochs.

    On the left the coefficients after the last epoch: a thin line a run, and a thick one for the mean. Where the
    scheme would not be zero-stable it is shaded. On the right the mean of the runs at each learned step through the
    epochs; for a scheme with several coefficients a step, its margin of zero-stability against depth instead.

    Args:
        runs: of one network and one scheme.
        title: of the picture.

    Returns:
        A matplotlib figure.
    """
    from lmjax.training.figures import draw_by_depth, mark_stages

    lengths = {stage: len(margins) for stage, margins in runs[0].margins().items()}
    figure = drawing.figure(10.5, 3.9, purpose="drawing coefficients")
    left, right = figure.subplots(1, 2)
    every = [run.weights() for run in runs]
    for i, name in enumerate(every[0]):
        style, tables = {"color": drawing.COLORS[i % len(drawing.COLORS)]}, [weights[name] for weights in every]
        for table in tables if len(runs) > 1 else []:
            draw_by_depth(left, {stage: x[-1] for stage, x in table.items()}, linewidth=0.8, alpha=0.4, **style)
        mean = {stage: np.mean([table[stage][-1] for table in tables], 0) for stage in lengths}
        draw_by_depth(left, mean, marker="o", markersize=3.5, label=name, **style)
    left.set(ylabel=next(iter(every[0])) if len(every[0]) == 1 else "coefficient")
    mark_stages(left, lengths)
    if "k" in every[0]:
        _shade(left, runs[0].stepper)
        _draw_epochs(figure, right, runs)
    else:
        left.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        for run in runs:
            draw_by_depth(right, run.margins(), color=drawing.COLORS[0], marker="o", markersize=3.5)
        right.set(ylabel="margin of zero-stability")
        mark_stages(right, lengths)
    for axes in (left, right):
        axes.axhline(0, color="0.5", linewidth=0.8)
        drawing.open_frame(axes)
    figure.suptitle(title if len(runs) == 1 else f"{title}: {len(runs)} runs and their mean", fontsize=10)
    return figure


def _shade(axes, stepper):
    """Greys out where the scheme is not zero-stable."""
    if stepper.known.zero_stable is None:
        return
    low, high = axes.get_ylim()
    edges = np.clip(stepper.known.zero_stable, low, high)
    for start, end in ((start, end) for start, end in ((low, edges[0]), (edges[1], high)) if start < end):
        axes.axhspan(start, end, color="0.9", zorder=-1, linewidth=0)
        axes.annotate(
            "not zero-stable", (0.01, (start + end) / 2), xycoords=("axes fraction", "data"), va="center", color="0.35",
            fontsize=8,
        )  # fmt: skip
    axes.set_ylim(low, high)


def _draw_epochs(figure, axes, runs):
    """A line a learned step through the epochs that all runs have, the mean of the runs."""
    epochs = min((run.epochs for run in runs), key=len)
    k = np.mean([np.concatenate(list(run.k().values()), 1)[: len(epochs)] for run in runs], 0)
    colours = DepthColours(k.shape[1])
    for n, values in enumerate(k.T, start=1):
        axes.plot(
            epochs, values, color=colours(n), linewidth=1.1, marker="o" if len(epochs) < 3 else None, markersize=3
        )
    axes.set(xlabel="epoch", ylabel="k")
    axes.xaxis.get_major_locator().set_params(integer=True)
    colours.bar(figure, axes)


def require_alike(runs: Sequence[Learned]) -> None:
    """Checks that runs are of one scheme, with as many learned steps in every stage.

    Raises:
        InputError: naming two that are not.
    """
    for run in runs:
        ours, theirs = ({key: x.shape[1:] for key, x in each.values.items()} for each in (runs[0], run))
        if ours != theirs or run.stepper is not runs[0].stepper:
            raise InputError(
                f"{run.directory} and {runs[0].directory} are runs of different schemes or networks ({run.name}; "
                f"{runs[0].name}): draw them one by one"
            )
