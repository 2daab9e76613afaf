"""The digits that come with scikit-learn."""

import numpy as np
import pytest

from lmjax.data import load

pytestmark = pytest.mark.versions


def test_digits():
    dataset = load("digits")
    assert dataset.shape == (8, 8, 1)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.train.images.max() == 255
    assert dataset.classes == tuple("0123456789")
    counts = np.bincount(dataset.test.labels)
    assert counts.min() >= 35  # a fifth of every class
    again = load("digits")
    assert (dataset.test.images == again.test.images).all()
    # No image is in both splits more often than it is in the file twice.
    both = np.concatenate([dataset.train.images, dataset.test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    original = np.round(load_digits().images * (255 / 16)).astype(np.uint8).reshape(1797, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original))
