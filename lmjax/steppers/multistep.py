"""Linear multistep schemes: the next state depends on several earlier ones."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real

import jax
import jax.numpy as jnp

from lmjax.errors import InputError, unknown
from lmjax.steppers.base import Stepper, combine


@functools.cache
def lm(low: float = -0.1, high: float = 0.0, *, per_channel: bool = False) -> Stepper:
    """u[n+1] = (1 - k) u[n] + k u[n-1] + f(u[n]) with trainable k: LM-ResNet (Lu et al. 2018, the LM-architecture).

    One branch, one remembered state. It integrates (1 + k) u' = F, by its modified equation
    (1 + k) u' + (1 - k) (h/2) u'' = F up to O(h^2): order 1 for k != 1, and zero-stable for -1 < k <= 1. A trained k
    may leave that range, and is not clipped. There is no inverse: undoing a step divides by k, which multiplies the
    rounding error by 1/|k|.

    The sign is the paper's. The authors' code writes k u[n] + (1 - k) u[n-1] + f(u[n]) with k ~ U(1, 1.1), the same
    model with 1 - k for k; weight decay on k, which pulls towards 0, acts differently on the two.

    Args:
        low, high: k is drawn from U(low, high), once a step.
        per_channel: one k for each channel (the last axis of the state) instead of a scalar.
    """
    if not low <= high:
        raise InputError(f"lm: low must not exceed high, got {low} and {high}")

    def step(fs, u, previous, k):
        (f,) = fs
        return combine((1 - k, u), (k, previous), (1, f(u))), u

    def coef(key, channels):
        return jax.random.uniform(key, (channels,) if per_channel else (), jnp.float32, low, high)

    return Stepper(
        "lm_per_channel" if per_channel else "lm",
        step,
        init=lambda u: u,
        coef=coef,
        damping=lambda k: 1 + k,
        history=1,
    )


@functools.cache
def leapfrog() -> Stepper:
    """u[n+1] = u[n-1] + f(u[n]): the explicit two-step midpoint rule, LM with k = 1.

    It integrates 2 u' = F. Order 2 from an exact second starting value, order 1 from a start at rest, u[-1] = u[0].
    Exactly reversible: u[n-1] = u[n+1] - f(u[n]).
    """

    def step(fs, u, previous, coef):
        (f,) = fs
        return combine((1, previous), (1, f(u))), u

    def inverse(fs, u, previous, coef):
        (f,) = fs
        return previous, combine((1, u), (-1, f(previous)))

    return Stepper("leapfrog", step, init=lambda u: u, inverse=inverse, damping=lambda coef: 2.0, history=1, order=2)


def linear_multistep(
    a: Sequence[Real], b: Sequence[Real], *, trainable: bool = False, name: str | None = None
) -> Stepper:
    """u[n+1] = sum_j a[j] u[n-j] + sum_j b[j] f(u[n-j]), the explicit linear multistep method.

    One branch, evaluated once: earlier increments are remembered, not recomputed. `lm` with a given k is
    a = (1 - k, k), b = (1,). The method integrates c u' = F with c = (1 + sum_j j a[j]) / sum_j b[j].

    It starts at rest, u[-j] = u[0] and f(u[-j]) = 0. That is what a network does at the start of a stage; as an ODE
    method it costs accuracy, and `odeint` makes the first values with a one-step method instead.

    Args:
        a: weights of the states, newest first. They sum to 1 for a consistent method.
        b: weights of the increments, newest first.
        trainable: the weights become the trainable coefficients of every step, as a pair of arrays (a, b), and start
            at the values given.
        name: what to call it; made from the number of steps if not given.

    Raises:
        InputError: if a or b is empty, or b sums to zero (the method would integrate nothing).
    """
    return _linear_multistep(tuple(map(float, a)), tuple(map(float, b)), trainable, name)


@functools.cache
def _linear_multistep(a, b, trainable, name):
    if not a or not b:
        raise InputError(f"linear_multistep: a and b need at least one weight each, got a={a}, b={b}")
    if sum(b) == 0:
        raise InputError(f"linear_multistep: the weights b={b} sum to zero, so the field has no effect")

    def init(u):
        zero = jax.tree.map(jnp.zeros_like, u)
        return (u,) * (len(a) - 1), (zero,) * (len(b) - 1)

    def step(fs, u, memory, coef):
        (f,) = fs
        states, increments = (u, *memory[0]), (f(u), *memory[1])
        weights = coef if trainable else (a, b)
        terms = [*zip(weights[0], states, strict=True), *zip(weights[1], increments, strict=True)]
        return combine(*terms), (states[: len(a) - 1], increments[: len(b) - 1])

    def damping(coef):
        alpha, beta = coef if trainable else (a, b)
        return (1 + sum(j * x for j, x in enumerate(alpha))) / sum(beta)

    def coef(key, channels):
        return jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)

    history = max(len(a), len(b)) - 1
    return Stepper(
        name or f"linear_multistep{history + 1}",
        step,
        init=init,
        coef=coef if trainable else None,
        damping=damping,
        history=history,
        order=_order(a, b),
    )


def _order(a: tuple[float, ...], b: tuple[float, ...]) -> int:
    """Order of accuracy: how far the method is exact on u = 1, t, t^2, ... at the steps t = 0, -1, -2, ... ."""
    if abs(sum(a) - 1) > 1e-9:
        return 0
    c = (1 + sum(j * x for j, x in enumerate(a))) / sum(b)
    order = 0
    while order < 12:
        q = order + 1
        states = sum(x * (-j) ** q for j, x in enumerate(a))
        increments = sum(c * x * q * (-j) ** (q - 1) for j, x in enumerate(b))
        if abs(states + increments - 1) > 1e-9 * 2**q:
            break
        order = q
    return order


_ADAMS_BASHFORTH = {
    1: (Fraction(1),),
    2: (Fraction(3, 2), Fraction(-1, 2)),
    3: (Fraction(23, 12), Fraction(-16, 12), Fraction(5, 12)),
    4: (Fraction(55, 24), Fraction(-59, 24), Fraction(37, 24), Fraction(-9, 24)),
}


@functools.cache
def adams_bashforth(order: int = 2) -> Stepper:
    """The explicit Adams method of the given order, 1 to 4 (Bashforth and Adams 1883): u+ = u + sum_j b[j] f(u[n-j]).

    One branch, `order - 1` remembered increments.
    """
    if order not in _ADAMS_BASHFORTH:
        raise unknown("order of Adams-Bashforth", str(order), map(str, _ADAMS_BASHFORTH))
    return linear_multistep((1,), _ADAMS_BASHFORTH[order], name=f"adams_bashforth{order}")
