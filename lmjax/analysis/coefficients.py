"""What the coefficients of a scheme have become in training, step by step and epoch by epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.analysis.command import add_config, add_out, add_run_folders, print_table, require_out, run_config, save
from lmjax.analysis.depth import DepthColours
from lmjax.analysis.learned import Learned, read_one
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
        style, tables = {"color": drawing.COLOURS[i % len(drawing.COLOURS)]}, [weights[name] for weights in every]
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
            draw_by_depth(right, run.margins(), color=drawing.COLOURS[0], marker="o", markersize=3.5)
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


def add(commands: Any) -> None:
    """Adds the command to those of an argparse parser."""
    parser = commands.add_parser(
        "coefficients",
        help="the learned coefficients of runs",
        description="Draws the learned coefficients of runs of one network against depth and through the epochs, and "
        "says how far they are from the edge of zero-stability.",
    )
    add_run_folders(parser)
    add_config(parser)
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(options: Any) -> None:
    from lmjax.analysis.runs import groups_of  # which imports Flax

    require_out(options.out)
    run_config(options)
    runs = [read_one(run) for _, seeds in groups_of(options.runs) for run in seeds]
    require_alike(runs)
    margins = [run.margins() for run in runs]
    weights = [run.weights() for run in runs]
    rows = [["learned step", *weights[0], *(["std of the runs"] * (len(runs) > 1)), "margin of zero-stability"]]
    for stage, least in margins[0].items():
        for n in range(len(least)):
            values = {name: [each[name][stage][-1, n] for each in weights] for name in weights[0]}
            spread = [f"{max(np.std(x, ddof=1) for x in values.values()):.4f}"] if len(runs) > 1 else []
            worst = min(each[stage][n] for each in margins)
            rows.append([f"{stage}, {n + 1}", *(f"{np.mean(x):.4f}" for x in values.values()), *spread, f"{worst:.4f}"])
    print(f"{runs[0].name}: after epoch {' and '.join(sorted({str(run.epochs[-1]) for run in runs}))}\n")
    print_table(rows)
    every = np.concatenate([x for each in margins for x in each.values()])
    print(f"\n{np.sum(every < 0)} of {every.size} learned steps are not zero-stable")
    if options.out is not None:
        save(draw_coefficients(runs, runs[0].name), options.out)
