"""What there is to say of a network before it is trained: from its program alone."""

import dataclasses
import functools
from typing import Any

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
    if not shape and row.config.data.name in published.SHAPES:
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
    return model.stepper or networks.scheme(built), networks.parameter_count(built), networks.forward_macs(built, shape)


def _zero_stable(name: str | None) -> tuple[float, float] | None:
    return steppers.get(name).known.zero_stable if name else None
