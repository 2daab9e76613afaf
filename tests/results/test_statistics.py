"""Means over seeds, and paired differences."""

import numpy as np
import pytest
from scipy import stats

from lmjax.results.statistics import Difference, difference, spread


def test_spread():
    assert spread([9, 5, 7]) == (7.0, 2.0)
    assert f"{spread([9, 5, 7]):.1f}" == "7.0 ± 2.0"
    assert f"{spread([0.5]):.1%}" == "50.0%"


def test_paired_difference_is_that_of_scipy():
    ours, theirs = {0: 7.0, 1: 8.5, 2: 6.0, 5: 1.0}, {0: 7.5, 1: 8.0, 2: 8.0, 4: 100.0}
    found = difference(ours, theirs)
    low, high = stats.ttest_rel([7.0, 8.5, 6.0], [7.5, 8.0, 8.0]).confidence_interval(0.95)
    assert found.count == 3
    np.testing.assert_allclose([found.mean - found.half_width, found.mean + found.half_width], [low, high])
    assert difference({1: 2.0}, {1: 3.0, 2: 0.0}) == Difference(1, -1.0, None)
    assert difference({1: 2.0}, {2: 3.0}) is None
    assert found.mean == pytest.approx(-2 / 3)
