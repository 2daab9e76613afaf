"""The optimiser of a run, as an optax transformation."""

from typing import Any

import jax
import jax.numpy as jnp
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
    """SGD with momentum; the weight decay is part of the gradient (as in He et al. 2016), not decoupled from it.

    The coefficients of the scheme may be decayed with the weights, kept as they are, or kept within bounds.
    """
    parts = [
        optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_coefficients else _weights),
        optax.sgd(learning_rate(config, steps), momentum=config.momentum or None, nesterov=config.nesterov),
    ]
    if not config.train_coefficients:
        parts.append(optax.masked(optax.set_to_zero(), _coefficients))
    if config.coefficient_bounds is not None:
        parts.append(optax.masked(_keep_between(*config.coefficient_bounds), _coefficients))
    return optax.chain(*parts)


def _keep_between(low: float, high: float) -> optax.GradientTransformation:
    """Shortens updates so that the parameters end between the bounds."""

    def update(updates, params):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params)

    return optax.stateless(update)


def _coefficients(params: Any) -> Any:
    """True for the scheme's coefficients.

    They are told by name: by shape they cannot be, since the variables of a stage are stacked.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(entry, "key", None) == "coefficients" for entry in path), params
    )


def _weights(params: Any) -> Any:
    """True for every other parameter."""
    return jax.tree.map(lambda coefficient: not coefficient, _coefficients(params))
