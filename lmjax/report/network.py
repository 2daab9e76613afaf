"""What there is to say of a network before it is trained: from its program alone."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from lmjax import networks, published, steppers
from lmjax.config import ModelConfig
from lmjax.errors import InputError
from lmjax.report.runs import Row
from lmjax.training import Checkpoints


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of the network of a row.

    Attributes:
        scheme: what it is made of steps of.
        parameters: how many trainable numbers it has; None if its classes are not known.
        macs: multiply-accumulate operations of one image forward; None if the images are not known.
        stable: from where to where its one coefficient a step makes a zero-stable scheme; None if it has not one.
        data: what `Dataset.describe` said of the training data, as a checkpoint has it; {} if there is none.
    """

    scheme: str
    parameters: int | None
    macs: int | None
    stable: tuple[float, float] | None
    data: dict[str, Any]


def facts(row: Row) -> Facts:
    """What is known of the network of a row."""
    data = _described(row)
    shape, classes = data.get("shape"), len(data.get("classes", ()))
    if not shape and row.config.data.name in published.SHAPES and row.config.data.name != "imagenet":
        shape, classes = published.SHAPES[row.config.data.name]
    known = bool(shape and classes)
    try:
        assumed = (tuple(shape), classes) if known else ((32, 32, 3), 10)
        scheme, parameters, macs = _cost(row.config.model, *assumed)
    except InputError as error:
        raise InputError(f"{row.runs[0].record.directory}: its network cannot be built: {error}") from error
    counted = next((run.summary["parameters"] for run in row.finished if "parameters" in run.summary), None)
    parameters = counted if counted is not None else parameters if known else None
    return Facts(scheme, parameters, macs if known else None, _zero_stable(row.config.model.stepper), data)


def _described(row: Row) -> dict[str, Any]:
    for run in row.runs:
        place = run.record.directory / "checkpoints"
        if place.is_dir():
            try:
                with Checkpoints(place, read_only=True) as checkpoints:
                    about = checkpoints.about()["data"]
                if len(about["shape"]) == 3 and about["classes"]:
                    return about
            except (InputError, KeyError, TypeError):  # damaged, or of another version: the report can do without
                continue
    return {}


@functools.cache
def _cost(model: ModelConfig, shape: tuple[int, int, int], classes: int) -> tuple[str, int, int]:
    built = model.outline(classes=classes, cin=shape[-1])
    return model.stepper or built.scheme, networks.parameter_count(built), networks.forward_macs(built, shape)


@functools.cache
def _zero_stable(name: str | None) -> tuple[float, float] | None:
    """Found by trying, to a thousandth: the part around zero in which no root leaves the unit circle."""
    stepper = steppers.get(name) if name else None
    if stepper is None or stepper.coef is None or stepper.characteristic is None or stepper.over is not None:
        return None
    drawn = jax.tree.leaves(jax.eval_shape(lambda: stepper.coef(jax.random.key(0), 1)))
    if len(drawn) != 1 or drawn[0].size != 1:
        return None
    values = np.arange(-4000, 4001) / 1000
    fine = steppers.zero_stability(stepper, values) >= -1e-6
    outside = np.flatnonzero(~fine)
    zero = len(values) // 2
    if not fine[zero]:
        return None
    low, high = outside[outside < zero].max(initial=-1) + 1, outside[outside > zero].min(initial=len(values)) - 1
    return float(values[low]), float(values[high])
