"""The learned coefficients of a run, as a method: its steps as schemes, and their margins of zero-stability."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmjax import steppers
from lmjax.analysis.amplification import parasitic_roots
from lmjax.analysis.modified_equation import friction_and_mass
from lmjax.analysis.scheme import Scheme, labeled
from lmjax.errors import InputError
from lmjax.results import plots
from lmjax.results.coefficients import Coefficients, last_weights


class Learned(Coefficients):
    """The coefficients of a run through its epochs, and the schemes that they make of its steps."""

    def schemes(self) -> dict[str, list[Scheme]]:
        """The scheme of every learned step by stage, after the last epoch; with the mean k where channels differ."""
        found = {}
        for stage in self.stages:
            stepper, coef = self.of_stage(stage)
            last = jax.tree.map(lambda x, like: _one_channel(x[-1], like), coef, self.shapes(stepper))
            found[stage] = [
                labeled(f"{stage}, step {n + 1}", stepper, jax.tree.map(lambda x, n=n: x[n], last))
                for n in range(len(jax.tree.leaves(last)[0]))
            ]
        return found

    def margins(self) -> dict[str, np.ndarray]:
        """The margin of zero-stability of each step at the end, [steps] by stage: see `steppers.zero_stability`.

        The worst of the channels where they differ. Of a scheme that does not say its polynomial it is found from the
        step.
        """
        found = {}
        for stage, schemes in self.schemes().items():
            stepper, coef = self.of_stage(stage)
            if stepper.known.characteristic is not None:
                margins = steppers.zero_stability(stepper, jax.tree.map(lambda x: x[-1], coef))
                found[stage] = margins.reshape(len(schemes), -1).min(-1)
            else:
                each = (np.abs(parasitic_roots(stepper, scheme.coef)).max(initial=0) for scheme in schemes)
                found[stage] = 1 - np.array(list(each))
        return found


def _one_channel(x, like):
    """[steps, *shape] of the same, or of [steps, channels]."""
    return x if x.shape[1:] == like.shape else x.mean(-1, keepdims=True).reshape(len(x), *like.shape)


def read_learned(directories: str | Path | Iterable[str | Path]) -> list[Learned]:
    """The learned coefficients of runs, finished or not.

    Args:
        directories: their folders, or those of several seeds; one alone need not be in a list.

    Raises:
        InputError: if it holds no run, if a run has no learned coefficients or no epoch yet, or if its scheme is not
            registered.
    """
    from lmjax.results.runs import find  # which imports Flax

    return [run.coefficients(Learned) for run in find(directories)]


def read_one(directory: str | Path) -> Learned:
    """The learned coefficients of a run; see `read_learned`.

    Raises:
        InputError: if the folder holds the runs of several seeds, too.
    """
    found = read_learned(directory)
    if len(found) > 1:
        raise InputError(f"{directory} holds several runs: name one, such as {found[0].directory}")
    return found[0]


def require_alike(runs: Sequence[Learned]) -> None:
    """Check that all runs have the same scheme and the same number of learned steps in each stage.

    Raises:
        InputError: naming two runs that differ.
    """
    for run in runs:
        ours, theirs = ({key: x.shape[1:] for key, x in each.values.items()} for each in (runs[0], run))
        if ours != theirs or run.stepper is not runs[0].stepper:
            raise InputError(
                f"{run.directory} and {runs[0].directory} are runs of different schemes or networks ({run.name}; "
                f"{runs[0].name}): draw them one by one"
            )


def draw_coefficients(runs: Sequence[Learned], title: str = "") -> Any:
    """The coefficients of runs of one network, against depth and through the epochs; a matplotlib figure.

    On the left the coefficients after the last epoch, the mean of the runs and their range. Where the scheme would not
    be zero-stable it is shaded. On the right the mean of the runs at each learned step through the epochs; for a scheme
    with several coefficients a step, its margin of zero-stability against depth instead.
    """
    figure = plots.figure(10.5, 3.9)
    left, right = figure.subplots(1, 2)
    last = last_weights(runs)
    plots.coefficients(left, last, stable=runs[0].stepper.known.zero_stable)
    if "k" in last:
        epochs = min((run.epochs for run in runs), key=len)
        k = [np.concatenate([x[: len(epochs)] for x in run.k().values()], 1) for run in runs]
        plots.coefficients_by_epoch(figure, right, epochs, np.mean(k, 0), "k")
    else:
        margins = [run.margins() for run in runs]
        stages = {stage: np.stack([each[stage] for each in margins]) for stage in margins[0]}
        plots.coefficients(right, {"margin of zero-stability": stages})
    figure.suptitle(_title(runs, title), fontsize=10)
    return figure


def draw_friction_and_mass(runs: Sequence[Learned], title: str = "") -> Any:
    """Friction and mass of the learned steps of runs of `lm` against depth, their mean and range; a matplotlib figure.

    Where a step is not zero-stable it is shaded. Euler's values are lines.
    """
    figure = plots.figure(7, 5)
    panels = figure.subplots(2, 1, sharex=True)
    k = [learned.k() for learned in runs]
    for i, (axes, label) in enumerate(zip(panels, ("friction 1 + k", "mass (1 − k) / 2, of h u″"), strict=True)):
        stages = {stage: np.stack([friction_and_mass(each[stage][-1])[i] for each in k]) for stage in k[0]}
        plots.by_depth(axes, stages, color=plots.COLORS[0])
        axes.axhline(friction_and_mass(0)[i], color="0.5", linewidth=0.8, linestyle="--")
        plots.mark_stages(axes, {stage: x.shape[1] for stage, x in stages.items()}, names=i == 0)
        axes.set(ylabel=label)
        plots.shade(axes, "not zero-stable", 0, 2 - i)  # k is from -1 to 1
    panels[0].set(xlabel="")
    figure.suptitle(_title(runs, title), fontsize=10)
    return figure


def _title(runs: Sequence[Learned], title: str) -> str:
    return title if len(runs) == 1 else f"{title}: the mean of {len(runs)} runs, and the range"
