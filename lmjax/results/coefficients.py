"""The learned coefficients of a run, as its metrics have them, without opening the network."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmjax import steppers
from lmjax.errors import InputError
from lmjax.steppers import Stepper

LARGEST = 1e18  # of what is recorded: what is beyond has diverged, and no picture could hold it


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
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

    @classmethod
    def of(cls, rows: list[dict[str, Any]], stepper: Stepper | None, directory: Path, name: str):
        """The coefficients that the rows of metrics of a run have.

        Raises:
            InputError: if there is no epoch yet, or no coefficient, or what is no coefficient.
        """
        if not rows:
            raise InputError(f"{directory}: has no epoch yet: wait for the first")
        if stepper is None or not rows[-1].get("coefficients"):
            scheme = name if stepper is None else stepper.name
            raise InputError(
                f"{directory}: {scheme} learns no coefficients: give a run of a scheme that does, such as lm"
            )
        metrics = directory / "metrics.jsonl"
        try:
            keys = rows[-1]["coefficients"].keys()
            values = {key: np.array([row["coefficients"][key] for row in rows], float) for key in keys}
            epochs = [int(row["epoch"]) for row in rows]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{metrics}: its coefficients are not those of one network") from error
        if not all(np.all(np.abs(x) <= LARGEST) for x in values.values()):
            raise InputError(f"{metrics}: has coefficients that are not finite: the run has failed")
        return cls(directory, name, stepper, epochs, values)

    @property
    def stages(self) -> list[str]:
        """The stages that have learned steps."""
        return list(dict.fromkeys(key.partition(".")[0] for key in self.values))

    def of_stage(self, stage: str) -> tuple[Stepper, Any]:
        """The scheme of a stage and its coefficients, [epochs, steps, ...] each."""
        leaves = [x for key, x in self.values.items() if key.partition(".")[0] == stage]
        _, stepper = steppers.over_stage(self.stepper, leaves[0].shape[1] + 1)
        tree = jax.tree.structure(self.shapes(stepper))
        if tree.num_leaves != len(leaves):
            raise InputError(
                f"{self.directory}: {stage} has {len(leaves)} kinds of coefficients, and {stepper.name} as it is now "
                f"has {tree.num_leaves}"
            )
        return stepper, jax.tree.unflatten(tree, leaves)

    @staticmethod
    def shapes(stepper: Stepper) -> Any:
        """The shapes of the coefficients of a step, for one channel."""
        return jax.eval_shape(lambda: stepper.coef(jax.random.key(0), 1))

    def weights(self, *, channels: bool = False) -> dict[str, dict[str, np.ndarray]]:
        """The coefficients one by one, {name: {stage: [epochs, steps]}}.

        The only coefficient of a step is "k"; others are numbered by kind and in it, "1[2]".

        Args:
            channels: the coefficients of all channels, [epochs, steps, channels], instead of their mean.
        """
        found: dict[str, dict[str, np.ndarray]] = {}
        for stage in self.stages:
            stepper, coef = self.of_stage(stage)
            shapes, leaves = jax.tree.leaves(self.shapes(stepper)), jax.tree.leaves(coef)
            for kind, (x, like) in enumerate(zip(leaves, shapes, strict=True)):
                table = x.reshape(*x.shape[:2], math.prod(like.shape), -1)
                for j in range(table.shape[2]):
                    number = f"{kind if len(leaves) > 1 else ''}[{j}]"
                    name = "k" if len(leaves) == table.shape[2] == 1 else number
                    found.setdefault(name, {})[stage] = table[:, :, j] if channels else table[:, :, j].mean(-1)
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


def changes(k: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The neighboring learned steps in which Lu et al. (2018) saw k change: {what: (k before, k after)}, of each run.

    k jumped up into the first learned step of every stage but the first, and fell in the last step of the network.

    Args:
        k: [runs, steps] by stage, see `last_weights`.
    """
    stages = list(k)
    found = {f"into {now}": (k[before][:, -1], k[now][:, 0]) for before, now in itertools.pairwise(stages)}
    if k[stages[-1]].shape[1] > 1:
        found["in the last step"] = (k[stages[-1]][:, -2], k[stages[-1]][:, -1])
    return found


def last_weights(runs: Iterable[Coefficients], *, channels: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """The `weights` of runs of one network after the last epoch, [values, steps]: of the runs, and of the channels."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for run in runs:
        for name, stages in run.weights(channels=channels).items():
            for stage, x in stages.items():
                found.setdefault(name, {}).setdefault(stage, []).append(np.atleast_2d(x[-1].T))
    return {name: {stage: np.concatenate(x) for stage, x in stages.items()} for name, stages in found.items()}
