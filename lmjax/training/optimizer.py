"""The optimizer of a run, as an optax transformation."""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax import optimizers, schedules
from lmjax.config import OptimizerConfig
from lmjax.errors import InputError
from lmjax.promotion import lenient
from lmjax.weights import matches, name_of, replaced


def learning_rate(config: OptimizerConfig, *, steps_per_epoch: int, epochs: int, batch_size: int) -> optax.Schedule:
    """The learning rate of step t = 0, 1, ... of a run: scale * schedule(n) * ramp(n), n = t // accumulate_steps.

    n counts updates: with accumulate_steps, all is as in a run of batches so many times larger.

    - schedule: one of `lmjax.schedules`, over all updates of the run.
    - ramp: min(1, (n + 1) / W), W the updates of `warmup_epochs` (Goyal et al. 2017).
    - scale: images an update / `reference_batch_size` (the linear scaling rule, ibid.).

    Args:
        config: the rate and its course.
        steps_per_epoch, epochs: of the run.
        batch_size: images a step, over all devices.

    Returns:
        A function of the step, which may be traced.

    Raises:
        InputError: if the warm-up is longer than the run, the run too short for an update, or too long to be counted.
    """
    if config.warmup_epochs > epochs:
        raise InputError(
            f"optimizer.warmup_epochs: {config.warmup_epochs:g} is more than the run has (train.epochs {epochs}): "
            "choose a shorter warm-up or a longer run"
        )
    together, steps = config.accumulate_steps, steps_per_epoch * epochs
    if steps >= 2**31:
        raise InputError(f"train.epochs: {epochs:,} are {steps:,} steps, and a run has at most 2**31 - 1: choose fewer")
    if together > steps:
        raise InputError(f"optimizer.accumulate_steps: must be at most the {steps} steps of the run, got {together}")
    images = batch_size * together
    rate = config.learning_rate * (images / (config.reference_batch_size or images))
    schedule = schedules.get(config.schedule)(rate, steps // together)
    warmup = round(config.warmup_epochs * steps_per_epoch / together)

    @lenient()
    def of_update(n):
        return schedule(n) * jnp.minimum(1.0, (n + 1) / warmup) if warmup else schedule(n)

    def of_step(step):
        return of_update(step // together)

    return of_update if together == 1 else of_step


def create_optimizer(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """All that is done to gradients: accumulate, clip, `lmjax.optimizers`' rule with weight decay, the rate.

    The coefficients of the scheme may have another rate, be decayed with the weights, or be kept within bounds. What is
    frozen has no update and no state.

    Args:
        config: all but the learning rate.
        rate: that, from `learning_rate`.

    Returns:
        A transformation whose `update` is also given `step=`, that of the run. No state counts steps for the rate: an
        update that is left out leaves no trace, and the rate goes on. For a `loaded_rate`, `mark_loaded` changes the
        state at the beginning.
    """
    rule = optimizers.get(config.name)
    parts = [
        optax.identity() if config.clip_norm is None else _clip(config.clip_norm, config.coefficient_rate != 0),
        rule.before,
        optax.add_decayed_weights(
            config.weight_decay,
            mask=functools.partial(
                optimizers.decay_mask, decay=config.decay, of_coefficients=config.decay_coefficients
            ),
        ),
        *([] if config.coefficient_target == 0 else [optax.masked(_pull(config), optimizers.coefficients)]),
        rule.after,
        _scale_by_rate(rate),
    ]
    if config.coefficient_rate != 1:
        parts.append(optax.masked(optax.scale(config.coefficient_rate), optimizers.coefficients))
    if config.loaded_rate != 1:
        parts.append(_scale_by_own())
    if config.coefficient_bounds is not None:
        parts.append(optax.masked(_keep_between(*config.coefficient_bounds), optimizers.coefficients))
    optimizer = optax.chain(*parts)
    if config.accumulate_steps > 1:
        several = optax.MultiSteps(optimizer, config.accumulate_steps)
        update: Any = several.update  # its `params` has another type than optax asks for
        optimizer = optax.GradientTransformationExtraArgs(several.init, update)
    if config.freeze:
        kinds: Any = {"trained": optimizer, "frozen": optax.set_to_zero()}
        optimizer = optax.partition(kinds, functools.partial(_kinds, config.freeze))
    return optimizer


def _clip(norm: float, coefficients: bool) -> optax.GradientTransformation:
    """Shorten the gradient to a norm; coefficients that are not trained do not count. It has no state."""
    clip: Any = optax.clip_by_global_norm(norm)
    if coefficients:
        return clip

    def update(gradient, _):
        of_scheme = optimizers.coefficients(gradient)
        gradient = jax.tree.map(lambda g, left_out: jnp.zeros_like(g) if left_out else g, gradient, of_scheme)
        return clip.update(gradient, optax.EmptyState())[0]

    return optax.stateless(update)


def _kinds(frozen: tuple[str, ...], params: Any) -> Any:
    """For each parameter, "frozen" or "trained"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if matches(name_of(path), frozen) else "trained", params
    )


def _scale_by_own() -> optax.GradientTransformation:
    """Multiply the update of each parameter by a factor of its own, which is 1 until `mark_loaded`.

    The factors are a state, so that a checkpoint has them, and a resumed run does not need the loaded weights.
    """

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, factor: u * factor.astype(u.dtype), updates, state["own_rates"]), state

    def init(params):
        return {"own_rates": jax.tree.map(lambda _: jnp.ones((), jnp.float32), params)}

    return optax.GradientTransformation(init, update)


def mark_loaded(state: Any, loaded: Collection[str], rate: float) -> Any:
    """The state of an optimizer at the beginning, with the factor `rate` for the parameters of these names."""
    factors = optax.tree.get(state, "own_rates")
    return optax.tree.set(state, own_rates=replaced(factors, dict.fromkeys(loaded, rate)))


def _pull(config: OptimizerConfig) -> optax.GradientTransformation:
    """Move the decay from decay w to decay (w - target)."""
    size = config.weight_decay * config.coefficient_target
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: u - size, updates))


def _scale_by_rate(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the rate of the step that `update` is given."""

    def update(updates, state, params=None, **given):
        value: Any = rate(given["step"])
        size = -value
        return jax.tree.map(lambda u: jnp.asarray(size, u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _keep_between(low: float, high: float) -> optax.GradientTransformation:
    """Shorten updates so that the parameters end between the bounds."""

    def update(updates, params):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params)

    return optax.stateless(update)
