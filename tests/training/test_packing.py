"""A state in a few vectors, as a GPU keeps it between the steps of a dispatch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.training import Trainer
from lmjax.training.packing import packing
from tests.devices import ONE
from tests.tiny import changed


def test_what_is_unpacked_is_what_was_packed():
    """Arrays of any type and shape; two kinds of each branch and type, and kernels with their outputs first."""
    kernels = np.arange(2 * 9 * 20).reshape(2, 3, 3, 4, 5).astype(np.float32)
    tree = {
        "params": {"kernel": kernels, "head": np.arange(6.0).reshape(2, 3), "scale": np.float32(3)},
        "optimizer": [np.arange(4), np.zeros((0, 2), np.float32), np.arange(5.0)],
    }
    tree = jax.tree.map(jnp.asarray, tree)
    pack, unpack = packing(jax.eval_shape(lambda: tree))
    vectors = pack(tree)
    assert sorted(len(vector) for vector in vectors.values()) == [4, 5, 7, 360]
    first = next(vector for vector in vectors.values() if len(vector) == 360)
    np.testing.assert_array_equal(first.reshape(2, 5, 3, 3, 4), np.moveaxis(kernels, -1, 1))
    jax.tree.map(np.testing.assert_array_equal, unpack(vectors), tree)


def test_steps_of_a_packed_state_are_the_same_steps(config, digits):
    config = changed(config, optimizer={"name": "adam"}, train={"average": 0.9})
    with Trainer(config, digits, ONE) as trainer:
        functions, images = trainer.compiled.functions, next(iter(trainer.feed.arrays(0, [3])))
        arguments = trainer.state, trainer.random_seeds, images
        plain, packed = (
            jax.jit(functools.partial(functions.train, steps=3, packed=packed))(*arguments) for packed in (False, True)
        )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), packed, plain)
