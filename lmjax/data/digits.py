"""Handwritten digits that come with scikit-learn: 1,797 gray images of 8 x 8 pixels, nothing to download."""

import numpy as np

from lmjax.data.dataset import Dataset, Split
from lmjax.errors import optional_import


def load_digits() -> Dataset:
    """Load the UCI optical digits, as `lmjax.data.datasets.digits` says.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    datasets = optional_import("sklearn.datasets", package="scikit-learn", purpose="the digits data set")
    selection = optional_import("sklearn.model_selection", package="scikit-learn", purpose="the digits data set")
    digits = datasets.load_digits()
    # Gray levels 0 to 16 become 0 to 255.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = selection.train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return Dataset(
        "digits",
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        tuple(map(str, digits.target_names)),
    )
