"""Where crops are: against the rules written down, and against a second implementation of them."""

import math

import numpy as np
import pytest
from scipy import stats

from lmjax.data.crops import middle, random_box

pytestmark = pytest.mark.versions


def test_boxes_lie_inside_and_have_an_allowed_shape_and_area():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        width, height = (int(x) for x in rng.integers(40, 600, 2))
        box = random_box(rng, width, height, 0.08)
        assert 0 <= box.left <= width - box.width
        assert 0 <= box.top <= height - box.height
        # A side is rounded to a whole pixel.
        assert 3 / 4 * (box.height - 1) <= box.width + 1
        assert 3 / 4 * (box.width - 1) <= box.height + 1
        if max(width / height, height / width) < 4 / 3:
            assert (box.width + 1) * (box.height + 1) >= 0.08 * width * height
    assert random_box(rng, 1, 1, 1.0) == (0, 0, 1, 1)


def test_area_and_ratio_are_uniform_where_every_box_fits():
    # Boxes of less than a quarter of a square always fit, whatever their shape.
    rng, size = np.random.default_rng(1), 4000
    boxes = np.array([random_box(rng, size, size, 0.08) for _ in range(20_000)], float)
    left, top, width, height = boxes[boxes[:, 2] * boxes[:, 3] < 0.25 * size**2].T
    # Between 0.08 and 0.25 lie 17 of 92 equal parts of the area, before the larger boxes that do not fit are redrawn.
    for values, low, high in (
        (width * height / size**2, 0.08, 0.25),
        (np.log(width / height), math.log(3 / 4), math.log(4 / 3)),
        (left / (size - width), 0, 1),
        (top / (size - height), 0, 1),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 100, (433, 0, 133, 100)),  # as wide as is allowed, in the middle
        (100, 1000, (0, 433, 100, 133)),
        (100, 100, (0, 0, 100, 100)),
    ],
)
def test_what_never_fits_is_the_largest_allowed_box_in_the_middle(width, height, expected):
    class Never:
        """Draws that ask for more than there is: all of the area, in the shape that fits least."""

        def uniform(self, low, high):
            return high * 1.2 if high == 1 else (low if width > height else high)

    assert random_box(Never(), width, height, 1.0) == expected


@pytest.mark.parametrize(
    ("size", "scaled", "box"),
    [
        ((500, 375), (341, 256), (58, 16, 224, 224)),
        ((375, 500), (256, 341), (16, 58, 224, 224)),
        ((256, 256), (256, 256), (16, 16, 224, 224)),
        ((100, 90), (284, 256), (30, 16, 224, 224)),
    ],
)
def test_the_middle(size, scaled, box):
    """Worked out by hand: 500 x 375 becomes 341 x 256, of which 117 columns and 32 rows are left over."""
    assert middle(*size, 224, 256) == (scaled, box)
