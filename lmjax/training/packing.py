"""The many arrays of a state as a few vectors, while a GPU makes several steps.

A network has a hundred small arrays of parameters, momenta and statistics. In the carry of a loop, each takes one
kernel to be updated, and another one to be copied. As parts of one vector they are all updated by one kernel.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Vectors = dict[tuple[str, str, str], jax.Array]


def packing(tree: Any) -> tuple[Callable[[Any], Vectors], Callable[[Vectors], Any]]:
    """Functions that pack arrays into vectors and unpack them, one vector for each branch of the tree, dtype and kind.

    The kinds are kernels of convolutions, other large arrays, and small ones. Kernels have their output channels first
    in the vector, as in cuDNN and in the gradients that it computes: nothing is transposed. The small arrays have a
    vector of their own, since XLA launches one more kernel to read a small part of a long vector.

    Args:
        tree: of arrays, or their shapes.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    kinds = [(str(path[0]), leaf.dtype.name, _kind(leaf)) for path, leaf in leaves]
    shapes = [leaf.shape for _, leaf in leaves]

    def pack(tree):
        vectors = {kind: [] for kind in kinds}
        for kind, x in zip(kinds, jax.tree.leaves(tree), strict=True):
            vectors[kind].append((jnp.moveaxis(x, -1, -4) if kind[-1] == "kernel" else x).ravel())
        return {kind: jnp.concatenate(parts) for kind, parts in vectors.items()}

    def unpack(vectors):
        start, found = dict.fromkeys(kinds, 0), []
        for kind, shape in zip(kinds, shapes, strict=True):
            end = start[kind] + math.prod(shape)
            x, start[kind] = vectors[kind][start[kind] : end], end
            if kind[-1] == "kernel":
                x = jnp.moveaxis(x.reshape(*shape[:-4], shape[-1], *shape[-4:-1]), -4, -1)
            found.append(x.reshape(shape))
        return jax.tree.unflatten(structure, found)

    return pack, unpack


def _kind(x):
    if x.ndim >= 4:
        return "kernel"
    return "small" if x.size < 4096 else "large"
