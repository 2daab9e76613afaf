"""The images that all peers are given. Neither jax nor PyTorch is imported: a process of either can make them."""

import numpy as np


def random_batch(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal float32 [B, size, size, 3] and int32 labels, always the same."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((batch, size, size, 3), np.float32), rng.integers(0, classes, batch, np.int32)
