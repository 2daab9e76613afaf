"""The optimiser of a run, as an optax transformation."""

from typing import Any

import jax
import optax

from lmjax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Piecewise constant: multiplied by `drop` at each milestone.

    Args:
        config: the rate, the drop, and the milestones as fractions of the run.
        steps: how many steps the run has.
    """
    drops = {}
    for fraction in config.milestones:
        step = max(1, round(fraction * steps))  # never before the first step
        drops[step] = drops.get(step, 1.0) * config.drop  # in a very short run two may meet
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def create_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """SGD with momentum; the weight decay is part of the gradient (as in He et al. 2016), not decoupled from it."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_coefficients else _weights),
        optax.sgd(learning_rate(config, steps), momentum=config.momentum or None, nesterov=config.nesterov),
    )


def _weights(params: Any) -> Any:
    """True for every parameter but the scheme's coefficients.

    Those are told by name: by shape they cannot be, since the variables of a stage are stacked.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(getattr(entry, "key", None) == "coefficients" for entry in path), params
    )
