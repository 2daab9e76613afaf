"""The weights that a run starts from, instead of drawn ones."""

import numpy as np

from lmjax import weights
from lmjax.config import Config, InitConfig
from lmjax.console import say
from lmjax.data import Dataset, Photographs
from lmjax.data.dataset import utf8
from lmjax.errors import InputError


def load_initial(config: Config, dataset: Dataset | Photographs) -> dict[str, np.ndarray]:
    """The arrays of `config.init` that fit the network by name and shape; {} if there are none to start from.

    The head, that is every array whose size depends on the number of classes, fits only if the classes are the same in
    the same order. What does not fit is printed.

    Raises:
        InputError: if there are no such weights, or nothing fits.
    """
    if not config.init.given:
        return {}
    found, place = _weights(config.init)
    classes, channels = utf8(dataset.classes), dataset.shape[-1]
    ours, more = (_shapes(config, len(classes) + n, channels) for n in (0, 1))
    head = {name for name in ours if ours[name] != more[name]} if list(found.classes) != classes else set()
    theirs = {name: x.shape for name, x in found.arrays.items()}
    both = ours.keys() & theirs.keys() - head
    loaded = {name: found.arrays[name] for name in both if ours[name] == theirs[name]}
    left = {
        "new, as the classes differ": head,
        "new, not in the weights": ours.keys() - theirs.keys() - head,
        "new, of another shape": {f"{name} {theirs[name]} -> {ours[name]}" for name in both - loaded.keys()},
        "not used": theirs.keys() - ours.keys(),
    }
    if not loaded:
        raise InputError(
            f"{place}: no array has the name and the shape of one of {config.model.name}: the weights are of "
            f"{found.model.name}; train that network, with the same options, or give other weights"
        )
    lines = [f"  {what}: {', '.join(sorted(names))}" for what, names in left.items() if names]
    say("\n".join([f"{place}: starting from {len(loaded)} of {len(ours)} arrays", *lines]))
    return loaded


def _weights(init: InitConfig) -> tuple[weights.Weights, str]:
    """The weights, and how messages name them."""
    if init.weights is not None:
        return weights.read(init.weights), f"init.weights {init.weights}"
    from lmjax.training.trained_network import load  # imports the trainer, which imports this

    with load(str(init.run)) as trained:
        return trained.weights(), f"init.run {init.run}, step {trained.step}"


def _shapes(config: Config, classes: int, channels: int) -> dict[str, tuple[int, ...]]:
    outline = config.model.outline(classes=classes, cin=channels)
    return {name: tuple(x.shape) for name, x in weights.variables(outline).items()}
