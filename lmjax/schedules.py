"""Schedules of the learning rate by name: "steps(0.5, 0.75, drop=0.1)", "cosine", "linear", "wsd(decay=0.2)", ...

A registered function takes the arguments of the schedule, all times as fractions of the run, and returns a
`MakeSchedule`. The warm-up, `optimizer.warmup_epochs`, is separate: its factor multiplies any schedule.
docs/api/schedules.md has an example.
"""

import itertools
from collections.abc import Callable

import optax

from lmjax.errors import InputError
from lmjax.registry import Registry

MakeSchedule = Callable[[float, int], optax.Schedule]
"""From the highest rate and the number T of updates of the run to the rate of each update n = 0, 1, ..., T - 1."""

registry: Registry[MakeSchedule] = Registry(
    "schedule", Callable, returns="a function of the rate and the number of updates", example="steps(0.5, 0.75)"
)
register, normalize = registry.register, registry.normalize
get = registry.get
"""The schedule of a name or a call; see `lmjax.registry.Registry.get`."""


@register
def constant() -> MakeSchedule:
    """Stay as it is."""
    return lambda rate, updates: optax.constant_schedule(rate)


@register
def steps(*milestones: float, drop: float = 0.1) -> MakeSchedule:
    """Fall at milestones, each a fraction of the run, to `drop` times what it was (He et al. 2016)."""
    if not milestones:
        raise InputError("steps: give the milestones, as in steps(0.5, 0.75), or choose constant")
    if not all(0 < m < 1 for m in milestones) or any(a >= b for a, b in itertools.pairwise(milestones)):
        raise InputError(f"steps: milestones must be increasing fractions between 0 and 1, got {milestones}")
    if drop <= 0:
        raise InputError(f"steps: drop must be positive, got {drop:g}")

    def schedule(rate, updates):
        drops = {}
        for fraction in milestones:
            n = max(1, round(fraction * updates))  # never before the first update
            drops[n] = drops.get(n, 1.0) * drop  # in a very short run two may fall on one update
        return optax.piecewise_constant_schedule(rate, drops)

    return schedule


@register
def cosine(final: float = 0.0) -> MakeSchedule:
    """Fall like half a cosine to `final` times the rate: (1 + cos(pi n / T)) / 2 (Loshchilov and Hutter 2017).

    Without restarts.
    """
    _require_share("cosine", final=final)
    return lambda rate, updates: optax.cosine_decay_schedule(rate, updates, alpha=final)


@register
def linear(final: float = 0.0) -> MakeSchedule:
    """Fall evenly over the run to `final` times the rate: 1 - n / T."""
    _require_share("linear", final=final)
    return lambda rate, updates: optax.linear_schedule(rate, final * rate, updates)


@register
def wsd(decay: float = 0.2, *, final: float = 0.0) -> MakeSchedule:
    """Warm-up, stable, decay: constant, and over the last fraction `decay` of the run linear to `final` times the rate.

    Hu et al. 2024, whose decay is exponential; linear as in Hägele et al. 2024. The warm-up is
    `optimizer.warmup_epochs`.
    """
    _require_share("wsd", decay=decay, final=final)

    def schedule(rate, updates):
        falling = max(1, round(decay * updates))
        return optax.linear_schedule(rate, final * rate, falling, transition_begin=updates - falling)

    return schedule


def _require_share(name: str, **values: float) -> None:
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}: {key} must be from 0 to 1, got {value:g}")
