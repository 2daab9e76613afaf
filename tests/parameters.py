"""Parameters of tests of which the default run takes a few."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], kept: Iterable[Any]) -> list[Any]:
    """The values, of which all but those kept are marked slow; a tuple is one case of several arguments."""
    values, kept = list(values), list(kept)
    assert all(value in values for value in kept), "else a case is left out unseen"
    return [value if value in kept else slow(*value) if isinstance(value, tuple) else slow(value) for value in values]


def slow(*values: Any) -> Any:
    """The values of a case that is marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
