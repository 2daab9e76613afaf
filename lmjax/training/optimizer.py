"""The optimiser of a run, as an optax transformation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax.config import OptimizerConfig
from lmjax.errors import InputError


def learning_rate(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int, batch_size: int) -> optax.Schedule:
    """The learning rate of step t = 0, 1, ..., T - 1 of a run: scale * schedule(t) * ramp(t).

    - schedule: `steps` multiplies the rate by `drop` at each milestone; `cosine` is rate * (1 + cos(pi t / T)) / 2
      (Loshchilov and Hutter 2017, without restarts).
    - ramp: min(1, (t + 1) / W), W the steps of `warmup_epochs` (Goyal et al. 2017).
    - scale: batch size / `reference_batch_size` (the linear scaling rule, ibid.).

    Args:
        config: the rate and its course.
        steps_per_epoch, epochs: of the run.
        batch_size: images a step, over all devices.

    Returns:
        A function of the step, which may be traced.

    Raises:
        InputError: if the warm-up is longer than the run.
    """
    if config.warmup_epochs > epochs:
        raise InputError(
            f"optimizer.warmup_epochs: {config.warmup_epochs:g} is more than the run has (train.epochs {epochs}): "
            "choose a shorter warm-up or a longer run"
        )
    steps = steps_per_epoch * epochs
    rate = config.learning_rate * (batch_size / (config.reference_batch_size or batch_size))
    if config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, steps)
    else:
        schedule = optax.piecewise_constant_schedule(rate, _drops(config, steps))
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup == 0:
        return schedule
    return lambda step: schedule(step) * jnp.minimum(1.0, (step + 1) / warmup)


def _drops(config: OptimizerConfig, steps: int) -> dict[int, float]:
    """The steps at which the rate falls, and by what factor."""
    drops = {}
    for fraction in config.milestones:
        step = max(1, round(fraction * steps))  # never before the first step
        drops[step] = drops.get(step, 1.0) * config.drop  # in a very short run two may meet
    return drops


def create_optimizer(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum; the weight decay is part of the gradient (as in He et al. 2016), not decoupled from it.

    The coefficients of the scheme may be decayed with the weights, kept as they are, or kept within bounds.

    Args:
        config: all but the learning rate.
        rate: that, from `learning_rate`.
    """
    parts = [
        optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_coefficients else _weights),
        optax.sgd(rate, momentum=config.momentum or None, nesterov=config.nesterov),
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
