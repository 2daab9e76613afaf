"""Times of several programs, in turns: all that else happens on the machine slows them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Side(Protocol):
    """One of the programs that are compared.

    Attributes:
        steps: how many steps a call makes.
    """

    steps: int

    def __call__(self) -> None:
        """Starts them: it may return before they are done."""
        ...

    def wait(self) -> None:
        """Returns when all that was started is done."""
        ...


class Calls:
    """A side made of a function that waits itself."""

    def __init__(self, call: Callable[[], object], *, steps: int = 1):
        self._call, self.steps = call, steps

    def __call__(self) -> None:
        self._call()

    def wait(self) -> None:
        pass


def interleaved(sides: Mapping[str, Side], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds a step of each side in each round.

    A round times all sides, one after another, each for `seconds` or longer; none always comes behind the same one.
    Two calls of each side come before all rounds: the first one compiles what is not compiled yet, the second one says
    how many calls a round needs.
    """
    calls = {}
    for name, side in sides.items():
        _timed(side, 1)
        calls[name] = max(1, round(seconds / max(_timed(side, 1), 1e-9)))
    found, names = {name: [] for name in sides}, list(sides)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_timed(sides[name], calls[name]) / (calls[name] * sides[name].steps))
    return found


def _timed(side, calls):
    began = time.perf_counter()
    for _ in range(calls):
        side()
    side.wait()
    return time.perf_counter() - began
