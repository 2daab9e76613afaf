"""What a row of the suite is: what it compares, what it should come to, and how much of it a run can afford."""

import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.report import spread

PIP = {
    "libtpu": "pip install 'lmjax[tpu]'",
    "jax_cuda12_plugin": "pip install 'lmjax[cuda12]'",
    "grain": "pip install grain",
    "torch": "pip install torch",
    "torchvision": "pip install torch torchvision",
    "diffrax": "pip install diffrax",
}


class Target(NamedTuple):
    """A number, and on which side of it a figure should be: "<=", ">=", or "==", of every round then."""

    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"

    def met(self, figure: Mapping[str, Any]) -> bool:
        if self.sign == "==":
            return figure["min"] == figure["max"] == self.value
        return figure["median"] <= self.value if self.sign == "<=" else figure["median"] >= self.value


def at_most(value: float) -> Target:
    return Target("<=", value)


def at_least(value: float) -> Target:
    return Target(">=", value)


def exactly(value: float) -> Target:
    return Target("==", value)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        tiny: everything shrunk until a row takes seconds on a CPU. It shows that the rows run; its times mean nothing.
        rounds: how often each side of a comparison is timed.
        ends: when the budget is spent, in `time.monotonic()`; None for no budget.
    """

    tiny: bool = False
    rounds: int = 5
    ends: float | None = None

    def of(self, full: Any, tiny: Any) -> Any:
        return tiny if self.tiny else full

    @property
    def round_seconds(self) -> float:
        """How long a side of a comparison is timed in a round, at least."""
        return self.of(0.5, 0.01)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return float("inf") if self.ends is None else self.ends - time.monotonic()


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the suite.

    Attributes:
        name: to choose it by.
        compares: in a line, what is compared with what.
        function: measures it, "module:name": from a `Plan` to a list or generator of figures made by `figure`, `ratio`
            and `missing`. A name, so that what a row needs is imported when it is measured.
        targets: what the figures of some labels should come to.
        seconds: what it is estimated to take in full, on two CPU cores or an H100.
        needs: packages without which nothing of it can be measured.
    """

    name: str
    compares: str
    function: str
    targets: Mapping[str, Target]
    seconds: float
    needs: tuple[str, ...] = ()

    def run(self, plan: Plan) -> Iterator[dict]:
        """The figures as they are found, those with a target judged by it.

        Raises:
            KeyError: if there is no figure for a target.
        """
        module, name = self.function.split(":")
        labels = set()
        for found in getattr(importlib.import_module(module), name)(plan):
            labels.add(found["label"])
            if target := self.targets.get(found["label"]):
                found["target"] = str(target)
                if "median" in found and not plan.tiny:
                    found["met"] = target.met(found)
            yield found
        if unknown := self.targets.keys() - labels:
            raise KeyError(f"no figure for {', '.join(sorted(unknown))}")


def figure(label: str, values: list[float], unit: str, **more: Any) -> dict[str, Any]:
    """A quantity as it was in each round."""
    return {"label": label, "unit": unit, **spread(values), "rounds": values, **more}


def ratio(label: str, values: list[float], to: list[float]) -> dict[str, Any]:
    """values / to, round by round: what else the machine did in a round slowed both."""
    return figure(label, [a / b for a, b in zip(values, to, strict=True)], "x")


def missing(label: str, reason: str) -> dict[str, Any]:
    """A figure that could not be measured here, and why."""
    return {"label": label, "skipped": reason}


def lacks(*packages: str) -> str | None:
    """Which package is not installed, and the command that installs it; None if all are."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: {PIP[package]}"
    return None
