"""The learning curves of several runs in one picture; from their metrics alone, finished or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import drawing
from lmjax.errors import InputError

MEASURES = {
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
        name: np.array([[measure(row) for row in each[:epochs]] for each in rows]) for name, measure in MEASURES.items()
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
    styles = [(colour, line) for line in ("-", "--", ":") for colour in drawing.COLORS]
    panels = figure.subplots(1, len(MEASURES))
    for axes, name in zip(panels, MEASURES, strict=True):
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
