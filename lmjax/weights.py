"""Weights of a network as a .safetensors file, which is all that is needed to build the network again.

The file has all parameters and running statistics by dotted names, such as stem.conv.kernel and
stage1.steps.item.branches.0.act1.norm.mean (the first axis of what is in an item counts the steps), and as metadata, in
JSON, what a network needs to be used: its config, the classes, the mean and std of the channels, the shape of an image.
"""

import dataclasses
import fnmatch
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr

import lmjax
from lmjax import files, registry
from lmjax.config import ModelConfig, from_dict
from lmjax.errors import InputError, optional_import, reason

_STAGE = re.compile(r"^stages\.(\d+)")
_PURPOSE = {"package": "safetensors", "purpose": "a .safetensors file"}


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a network, and all that is needed to build and to use it.

    Attributes:
        arrays: parameters and running statistics by name, see `names`.
        model: the config of the network.
        classes: the name of each logit.
        mean, std: of each channel, in the units of a pixel (0 to 255); float32 [C].
        shape: height, width and channels of an image in training.
        shorter_side: the pixels to which the shorter side of an image is scaled before its middle is cut out, in an
            evaluation; by default its height in training.

    Raises:
        InputError: if classes, mean, std and shape do not fit each other.
    """

    arrays: dict[str, np.ndarray]
    model: ModelConfig
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    shape: tuple[int, int, int]
    shorter_side: int | None = None

    def __post_init__(self):
        try:
            require_data(vars(self))
            if self.shorter_side is None:
                object.__setattr__(self, "shorter_side", self.shape[0])
            elif not isinstance(self.shorter_side, (int, np.integer)) or self.shorter_side < self.shape[0]:
                raise ValueError(
                    f"shorter_side must be a whole number, at least the height {self.shape[0]}, got {self.shorter_side}"
                )
        except (TypeError, ValueError) as error:
            raise InputError(f"weights: {error}") from error
        kinds = {"classes": tuple, "mean": _float32, "std": _float32, "shape": _ints, "shorter_side": int}
        for name, make in kinds.items():
            object.__setattr__(self, name, make(getattr(self, name)))

    @classmethod
    def of(cls, network: nnx.Module, model: ModelConfig, **data: Any) -> Self:
        """The weights of a network; `data` are classes, mean, std, shape and shorter_side.

        Raises:
            InputError: if they do not fit each other, or `model` is the config of another network.
        """
        found = cls({name: np.asarray(x) for name, x in variables(network).items()}, model, **data)
        found._outline()
        return found

    def network(self) -> nnx.Module:
        """The network, ready to evaluate images normalized with `mean` and `std` (`lmjax.data.normalize`).

        Raises:
            InputError: if the arrays are not those of the network of the config.
        """
        graph, state = self._outline()
        network = nnx.merge(graph, replaced(state, self.arrays))
        network.eval()
        return network

    def _outline(self) -> tuple[Any, Any]:
        """The network of the config without its numbers, as `nnx.split` gives it, with a pure dict of the state."""
        sizes = {"classes": len(self.classes), "cin": self.shape[-1]}
        graph, state = nnx.split(nnx.eval_shape(lambda: self.model.build(**sizes, rngs=nnx.Rngs(0))))
        state = nnx.to_pure_dict(state)
        wanted = {name: tuple(x.shape) for name, x in names(state).items()}
        found = {name: x.shape for name, x in self.arrays.items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                there, here = (f"of shape {x[name]}" if name in x else "missing" for x in (found, wanted))
                raise InputError(f"weights of another network than {self.model.name}: {name} is {there}, not {here}")
        return graph, state


def variables(network: nnx.Module) -> dict[str, Any]:
    """The parameters and running statistics of a network, or of an outline of one, by name."""
    return names(nnx.to_pure_dict(nnx.state(network, (nnx.Param, nnx.BatchStat))))


def names(tree: Any) -> dict[str, Any]:
    """The arrays of a network in nested dicts by name."""
    return {name_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def replaced(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """The tree with its arrays replaced by those of the same name in `arrays`, in its own dtypes; see `names`."""

    def one(path, x):
        name = name_of(path)
        return jnp.asarray(arrays[name], x.dtype) if name in arrays else x

    return jax.tree_util.tree_map_with_path(one, tree)


def name_of(path: Sequence[Any]) -> str:
    """The name of a variable or module in a network: the keys of its path, joined by dots; stages.0 is stage1.

    Args:
        path: of keys, or of the entries of `jax.tree_util`.
    """
    dotted = keystr(tuple(path), simple=True, separator=".")
    return _STAGE.sub(lambda match: f"stage{int(match[1]) + 1}", dotted)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True if a pattern, with wildcards, is the name, or its beginning up to a dot: "stage1" and "*.norm"."""
    return any(fnmatch.fnmatchcase(name, end) for pattern in patterns for end in (pattern, f"{pattern}.*"))


def is_file(path: Path) -> bool:
    """True if a path is that of a file of weights, there or not, and not of the folder of a run."""
    return os.path.isfile(path) or (path.suffix == ".safetensors" and not os.path.isdir(path))


def save(path: str | Path, weights: Weights) -> None:
    """Write weights to a .safetensors file, whole or not at all.

    Raises:
        InputError: if it cannot be written, or the package safetensors is missing.
    """
    safetensors, path = optional_import("safetensors.numpy", **_PURPOSE), files.local(path, "weights:")
    values = {
        "model": dataclasses.asdict(weights.model), "classes": weights.classes, "mean": weights.mean.tolist(),
        "std": weights.std.tolist(), "shape": weights.shape, "shorter_side": weights.shorter_side,
    }  # fmt: skip
    metadata = {"lmjax": lmjax.__version__} | {key: json.dumps(value) for key, value in values.items()}
    arrays = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in weights.arrays.items()}
    with files.writing(path):
        files.write(path, safetensors.save(arrays, metadata))


def read(path: str | Path) -> Weights:
    """The weights in a .safetensors file that `save` has written.

    Raises:
        InputError: if it cannot be read, is damaged or of another program, or the package safetensors is missing.
    """
    safetensors, path = optional_import("safetensors", **_PURPOSE), files.local(path, "weights:")
    if not os.path.isfile(path):  # a pipe would be waited for
        what = "is a folder, and no .safetensors file" if os.path.isdir(path) else "there is no such file"
        raise InputError(f"{path}: {what}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: is no .safetensors file, or a damaged one ({reason(error)})") from error
    if "lmjax" not in metadata:
        raise InputError(f"{path}: is a .safetensors file of another program than lmjax: it does not say its network")
    try:
        data = {key: json.loads(metadata[key]) for key in ("classes", "mean", "std", "shape", "shorter_side")}
        return Weights(arrays, from_dict({"model": json.loads(metadata["model"])}).model, **data)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: of lmjax {metadata['lmjax']}, does not say what network it is of ({error})"
            f"{registry.cure(error) or ': write it again'}"
        ) from error


def require_data(found: dict[str, Any]) -> None:
    """Check the classes, the shape, the mean and the std that a network was trained with, from anywhere.

    Raises:
        KeyError, TypeError, ValueError: if they are not valid, or do not fit each other.
    """
    classes, shape = found["classes"], found["shape"]
    named = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    if not named:
        raise ValueError(f"its classes must be a list of names, got {classes!r}")
    if len(shape) != 3 or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in shape):
        raise ValueError(f"its shape must be height, width and channels, got {shape!r}")
    for key in ("mean", "std"):
        if _float32(found[key]).shape != (shape[-1],):
            raise ValueError(f"its {key} is not that of {shape[-1]} channels")
        if not (np.isfinite(found[key]).all() and (key == "mean" or np.min(found[key]) > 0)):
            raise ValueError(f"its {key} must be finite, and a std positive, got {found[key]}")


def _ints(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, values))


def _float32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)
