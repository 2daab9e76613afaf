"""The learned coefficients of a run, as its metrics have them: from the files alone, without opening the network."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmjax import steppers
from lmjax.analysis.amplification import parasitic_roots
from lmjax.analysis.scheme import Scheme, labelled
from lmjax.errors import InputError
from lmjax.steppers import Stepper


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """The coefficients of a run through its epochs.

    Attributes:
        directory: the folder of the run.
        name: of network, scheme and data.
        stepper: the scheme.
        epochs: their numbers, from 1.
        values: {"stage1": [epochs, steps, ...], ...}, float64; with several kinds of coefficients an entry for each,
            "stage1.0", "stage1.1", ..., as in `networks.coefficients`.
    """

    directory: Path
    name: str
    stepper: Stepper
    epochs: list[int]
    values: dict[str, np.ndarray]

    @property
    def stages(self) -> list[str]:
        """The stages that have learned steps."""
        return list(dict.fromkeys(key.partition(".")[0] for key in self.values))

    def of_stage(self, stage: str) -> tuple[Stepper, Any]:
        """The scheme of a stage and its coefficients, [epochs, steps, ...] each."""
        leaves = [x for key, x in self.values.items() if key.partition(".")[0] == stage]
        _, stepper = steppers.over_stage(self.stepper, leaves[0].shape[1] + 1)
        tree = jax.tree.structure(jax.eval_shape(lambda: stepper.coef(jax.random.key(0), 1)))
        if tree.num_leaves != len(leaves):
            raise InputError(
                f"{self.directory}: {stage} has {len(leaves)} kinds of coefficients, and {stepper.name} as it is now "
                f"has {tree.num_leaves}"
            )
        return stepper, jax.tree.unflatten(tree, leaves)

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """The coefficients one by one, {name: {stage: [epochs, steps]}}; the mean of the channels where they differ.

        The only coefficient of a step is "k"; others are numbered by kind and in it, "1[2]".
        """
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in self.values:
            stage, _, kind = key.partition(".")
            leaves = jax.tree.leaves(jax.tree.map(_one_channel, self.of_stage(stage)[1], self._shapes(stage)))
            table = leaves[int(kind or 0)]
            table = table.reshape(*table.shape[:2], -1)
            for j in range(table.shape[2]):
                name = "k" if len(leaves) == table.shape[2] == 1 else f"{kind}[{j}]"
                found.setdefault(name, {})[stage] = table[:, :, j]
        return found

    def k(self) -> dict[str, np.ndarray]:
        """The coefficient of each step, [epochs, steps] by stage; the mean of the channels where they differ.

        Raises:
            InputError: if the scheme has several coefficients a step.
        """
        found = self.weights()
        if "k" not in found:
            raise InputError(f"{self.directory}: {self.stepper.name} has several coefficients a step, and not one k")
        return found["k"]

    def schemes(self) -> dict[str, list[Scheme]]:
        """The scheme of every learned step by stage, after the last epoch; with the mean k where channels differ."""
        found = {}
        for stage in self.stages:
            stepper, coef = self.of_stage(stage)
            last = jax.tree.map(lambda x, like: _one_channel(x, like)[-1], coef, self._shapes(stage))
            found[stage] = [
                labelled(f"{stage}, step {n + 1}", stepper, jax.tree.map(lambda x, n=n: x[n], last))
                for n in range(len(jax.tree.leaves(last)[0]))
            ]
        return found

    def _shapes(self, stage: str) -> Any:
        """Of the coefficients of a step, for one channel."""
        stepper, _ = self.of_stage(stage)
        return jax.eval_shape(lambda: stepper.coef(jax.random.key(0), 1))

    def margins(self) -> dict[str, np.ndarray]:
        """By how much each step is zero-stable after the last epoch, [steps] by stage: see `steppers.zero_stability`.

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
    """[epochs, steps, *shape] of the same, or of [epochs, steps, channels]."""
    return x if x.shape[2:] == like.shape else x.mean(-1, keepdims=True).reshape(*x.shape[:2], *like.shape)


def read_learned(directory: str | Path) -> list[Learned]:
    """The learned coefficients of a run, finished or not, or of the seeds in a folder.

    Args:
        directory: the folder.

    Raises:
        InputError: if it holds no run, if a run has no learned coefficients or no epoch yet, or if its scheme is not
            registered.
    """
    from lmjax.analysis.runs import seeds_of  # which imports Flax

    return [_read(run) for run in seeds_of(Path(directory))]


def read_one(directory: str | Path) -> Learned:
    """The learned coefficients of a run; see `read_learned`.

    Raises:
        InputError: if the folder holds the runs of several seeds, too.
    """
    found = read_learned(directory)
    if len(found) > 1:
        raise InputError(f"{directory} holds several runs: name one, such as {found[0].directory}")
    return found[0]


def _read(directory: Path) -> Learned:
    from lmjax.training import Record

    record = Record(directory)
    config = record.config()
    rows = record.read_rows() if record.metrics_path.exists() else []
    if not rows:
        raise InputError(f"{directory}: has no epoch yet: wait for the first")
    if not rows[-1].get("coefficients"):
        scheme = config.model.stepper or config.model.name
        raise InputError(f"{directory}: {scheme} learns no coefficients: give a run of a scheme that does, such as lm")
    try:
        values = {key: np.array([row["coefficients"][key] for row in rows], float) for key in rows[-1]["coefficients"]}
        epochs = [int(row["epoch"]) for row in rows]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{record.metrics_path}: its coefficients are not those of one network") from error
    if not all(np.isfinite(x).all() for x in values.values()):
        raise InputError(f"{record.metrics_path}: has coefficients that are not finite: the run has failed")
    name = f"{config.model.name}, {config.model.stepper}, {config.data.name}"
    return Learned(directory, name, steppers.get(config.model.stepper), epochs, values)
