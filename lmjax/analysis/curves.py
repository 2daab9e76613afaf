"""The learning curves of several runs in one picture; from their metrics alone, finished or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.analysis import naming
from lmjax.analysis.command import add_config, add_out, add_run_folders, print_table, require_out, run_config, save
from lmjax.errors import InputError

_MEASURES = {
    "test error, %": lambda row: 100 * (1 - row["test_accuracy"]),
    "training loss": lambda row: row["train_loss"],
}


def read_curves(directory: str | Path) -> tuple[str, dict[str, np.ndarray]]:
    """The name of a run, or of the seeds in a folder, and its course: float64 [seeds, epochs] by measure.

    It ends where the seed that has come least far ends.

    Raises:
        InputError: if the folder holds no run, or one without an epoch.
    """
    from lmjax.analysis.runs import seeds_of  # which imports Flax
    from lmjax.training import Record

    records = [Record(path) for path in seeds_of(Path(directory))]
    rows = [record.read_rows() if record.metrics_path.exists() else [] for record in records]
    epochs = min(map(len, rows))
    if not epochs:
        raise InputError(f"{records[rows.index(min(rows, key=len))].directory}: has no epoch yet: wait for the first")
    model = records[0].config().model
    values = {
        name: np.array([[measure(row) for row in each[:epochs]] for each in rows])
        for name, measure in _MEASURES.items()
    }
    return ", ".join(filter(None, (model.name, model.stepper))), values


def draw_curves(runs: Sequence[tuple[str, dict[str, np.ndarray]]]) -> Any:
    """Test error and training loss against the epoch: a line a run, the mean over its seeds, and their range.

    Args:
        runs: as `read_curves` returns them.

    Returns:
        A matplotlib figure.
    """
    figure = drawing.figure(10, 4, purpose="drawing learning curves")
    styles = [(colour, line) for line in ("-", "--", ":") for colour in drawing.COLOURS]
    panels = figure.subplots(1, len(_MEASURES))
    for axes, name in zip(panels, _MEASURES, strict=True):
        for (label, values), (colour, line) in zip(runs, styles, strict=False):
            found = values[name]
            epochs = np.arange(1, found.shape[1] + 1)
            marker = "o" if len(epochs) < 3 else None
            axes.plot(epochs, found.mean(0), line, color=colour, marker=marker, linewidth=1.4, label=label)
            if len(found) > 1:
                axes.fill_between(epochs, found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        drawing.open_frame(axes)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def add(commands: Any) -> None:
    """Adds the command to those of an argparse parser."""
    parser = commands.add_parser(
        "curves",
        help="the learning curves of runs, in one picture",
        description="Draws test error and training loss of runs against the epoch, from their metrics alone.",
    )
    add_run_folders(parser)
    add_config(parser)
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(options: Any) -> None:
    from lmjax.analysis.runs import groups_of  # which imports Flax

    require_out(options.out)
    run_config(options)
    folders = [folder for folder, _ in groups_of(options.runs)]
    names, values = zip(*map(read_curves, folders), strict=True)
    runs = list(zip(naming.labels(names, folders), values, strict=True))
    if len(runs) > 3 * len(drawing.COLOURS):
        raise InputError(f"curves: {len(runs)} runs cannot be told apart in one picture: draw fewer")
    rows = [["run", "seeds", "epochs", *_MEASURES]]
    for label, values in runs:
        seeds, epochs = next(iter(values.values())).shape
        rows.append([label, seeds, epochs, *(f"{found[:, -1].mean():.4g}" for found in values.values())])
    print_table(rows)
    if options.out is not None:
        save(draw_curves(runs), options.out)
