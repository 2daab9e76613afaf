"""The state of a run, and its beginning."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lmjax import networks
from lmjax.config import Config
from lmjax.errors import InputError, unknown
from lmjax.training.optimizer import mark_loaded
from lmjax.weights import matches, name_of, names, replaced, variables

_SETTINGS = ("jax_default_prng_impl", "jax_threefry_partitionable", "jax_enable_x64", "jax_default_matmul_precision")


def settings() -> dict[str, Any]:
    """The settings of JAX that change the numbers of a run, and are in no config."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}


class TrainState(NamedTuple):
    """All that changes during training, as pure arrays.

    Attributes:
        step: int32, how many steps have been made.
        params: the trainable parameters, a nested dict.
        statistics: the running statistics of batch normalization, a nested dict.
        optimizer: the optimizer's state.
        average: the moving averages {"params", "statistics"} that are evaluated instead; None where there are none.
    """

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: Any
    average: Any = None

    def evaluated(self) -> tuple[Any, Any]:
        """The parameters and statistics to evaluate."""
        if self.average is None:
            return self.params, self.statistics
        return self.average["params"], self.average["statistics"]


def initialize(
    config: Config,
    classes: int,
    channels: int,
    seed: int | None,
    optimizer: optax.GradientTransformationExtraArgs | None,
    loaded: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[nnx.Module, TrainState]:
    """The network and the state at the beginning of a run, in the memory of this process.

    Args:
        config: the run.
        classes, channels: of the images.
        seed: draws the parameters; None: their shapes alone, and nothing is allocated.
        optimizer: None for a state that is evaluated only.
        loaded: by name, arrays to start from instead of those drawn.

    Raises:
        InputError: if the network has variables that a run does not keep, or none of those to be frozen.
    """

    def build():
        return config.model.build(classes=classes, cin=channels, rngs=nnx.Rngs(seed or 0))

    model = nnx.eval_shape(build) if seed is None else build()
    if optimizer is not None:
        networks.group_batch_norm(model, config.train.batch_norm_group)
        freeze(model, config.optimizer.freeze)
    try:
        _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    except ValueError as error:
        kinds = {type(variable).__name__ for _, variable in nnx.to_flat_state(nnx.state(model))}
        raise InputError(
            f"model.name {config.model.name}: has variables other than nnx.Param and nnx.BatchStat "
            f"({', '.join(sorted(kinds))}): draw random numbers from the key of the call"
        ) from error
    params, statistics = (replaced(nnx.to_pure_dict(each), loaded) for each in (params, statistics))
    average = None if config.train.average is None else {"params": params, "statistics": statistics}

    def begin(params):
        return jnp.zeros((), jnp.int32), None if optimizer is None else optimizer.init(params)

    step, inner = jax.eval_shape(begin, params) if seed is None else begin(params)
    if loaded and optimizer is not None and config.optimizer.loaded_rate != 1:  # then it has a factor for each
        inner = mark_loaded(inner, loaded, config.optimizer.loaded_rate)
    return model, TrainState(step, params, statistics, inner, average)


def freeze(network: nnx.Module, patterns: Sequence[str]) -> None:
    """Let frozen batch normalizations use their running statistics in training, too.

    Args:
        network: to be changed; its parameters are not.
        patterns: see optimizer.freeze.

    Raises:
        InputError: if nothing that can be frozen has such a name, or nothing is left to train.
    """
    if not patterns:
        return
    found = variables(network)
    kept = {name for name in names(nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))) if name.endswith(".var")}
    for pattern in patterns:
        fitting = {name for name in found if matches(name, [pattern])}
        if fitting and fitting <= kept:
            raise InputError(
                f"optimizer.freeze: {pattern} is a running variance, which is frozen with its mean: name that"
            )
        if not fitting:
            parts = {".".join(name.split(".")[:n]) for name in found for n in (1, 2)}
            raise unknown("name in optimizer.freeze", pattern, parts)
    if all(matches(name, patterns) for name in names(nnx.to_pure_dict(nnx.state(network, nnx.Param)))):
        raise InputError(f"optimizer.freeze: {' '.join(patterns)} leaves nothing to train: freeze less")
    for path, module in nnx.iter_graph(network):
        if isinstance(module, nnx.BatchNorm) and matches(name_of((*path, "mean")), patterns):
            module.use_running_average = True
