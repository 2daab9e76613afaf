"""Linear multistep schemes: the next state depends on several earlier ones."""

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.errors import InputError, unknown
from lmjax.promotion import lenient
from lmjax.steppers.base import Properties, Stepper, combine, difference, register, uniform
from lmjax.steppers.one_step import euler


def _multistep(
    weights: Callable[[Any], tuple[Sequence[Any], Sequence[Any]]], *, steps_back: int = 1, **others: Any
) -> Properties:
    """The properties of u[n+1] = sum_j a[j] u[n-j] + sum_j b[j] f(u[n-j]) with (a, b) = weights(coef)."""

    def damping(coef):
        return _damping(*weights(coef))

    def characteristic(coef):
        return jnp.stack(jnp.broadcast_arrays(1.0, *(-x for x in weights(coef)[0])), -1)

    return Properties(damping=damping, characteristic=characteristic, steps_back=steps_back, **others)


def _damping(a: Sequence[Any], b: Sequence[Any]) -> Any:
    """c of c u' = F, which the method with the weights a of the states and b of the increments integrates."""
    return (1 + sum(j * x for j, x in enumerate(a) if j)) / sum(b)


@register
def lm(low: float = -0.1, high: float = 0.0, *, per_channel: bool = False) -> Stepper:
    """u[n+1] = (1 - k) u[n] + k u[n-1] + f(u[n]) with trainable k: LM-ResNet (Lu et al. 2018, the LM-architecture).

    One branch, one remembered state. It integrates (1 + k) u' = F, by its modified equation
    (1 + k) u' + (1 - k) (h/2) u'' = F up to O(h^2): order 1 for -1 < k < 1, and zero-stable for -1 < k <= 1. A trained
    k may leave that range, and is not clipped (`zero_stability` says by how much). There is no inverse: undoing a step
    divides by k, which multiplies the rounding error by 1/|k|.

    The sign is the paper's. The authors' code writes k u[n] + (1 - k) u[n-1] + f(u[n]) with k ~ U(1, 1.1), the same
    model with 1 - k for k; weight decay on k, which pulls towards 0, acts differently on the two.

    Args:
        low, high: k is drawn from U(low, high), once a step. Two equal numbers start every k there.
        per_channel: one k for each channel (the last axis of the state) instead of a scalar.
    """
    if low > high:
        raise InputError(f"lm: low must not exceed high, got {low!r} and {high!r}")

    def step(fs, u, previous, k):
        (f,) = fs
        # As a difference, the gradient of k is one sum over the features, not two.
        return combine((1, u), (k, difference(previous, u)), (1, f(u))), u

    def coef(key, channels):
        return uniform(key, (channels,) if per_channel else (), low, high)

    known = _multistep(lambda k: ((1 - k, k), (1,)), zero_stable=(-1, 1), family="lm")
    return Stepper("lm_per_channel" if per_channel else "lm", step, init=lambda u: u, coef=coef, known=known)


@register
def leapfrog() -> Stepper:
    """u[n+1] = u[n-1] + f(u[n]): the explicit two-step midpoint rule, LM with k = 1.

    It integrates 2 u' = F. Order 2 from an exact second starting value, order 1 from a start at rest, u[-1] = u[0].
    Exactly reversible: u[n-1] = u[n+1] - f(u[n]).
    """
    return _undoable_lm("leapfrog", 1)


@register
def verlet() -> Stepper:
    """u[n+1] = 2 u[n] - u[n-1] + f(u[n]): Stormer-Verlet (Verlet 1967), LM with k = -1.

    With increments f = h^2 F a method of order 2 for the second-order equation u'' = F(u), and none for u' = F: the
    "leapfrog" network of Chang et al. (2018). Exactly reversible: u[n-1] = 2 u[n] - u[n+1] + f(u[n]).
    """
    return _undoable_lm("verlet", -1)


def _undoable_lm(name, k):
    """`lm` with k = 1 or -1: those by which one can divide without rounding."""

    def total(*terms):
        return combine(*[(c, u) for c, u in terms if c != 0])

    def step(fs, u, previous, coef):
        (f,) = fs
        return total((1 - k, u), (k, previous), (1, f(u))), u

    def inverse(fs, u, previous, coef):
        (f,) = fs
        return previous, total((1 - k, previous), (k, u), (-k, f(previous)))  # since 1 / k = k, and k (k - 1) = 1 - k

    known = _multistep(lambda coef: ((1 - k, k), (1,)), order=2)
    return Stepper(name, step, init=lambda u: u, inverse=inverse, known=known)


@register
def momentum(gamma: float = 0.9) -> Stepper:
    """v+ = gamma v + (1 - gamma) f(u), u+ = u + v+, from v = 0: Momentum ResNet (Sander et al. 2021).

    `lm` with k = -gamma and the branch (1 - gamma) f: order 1, zero-stable. (The velocity starts from 0, in `odeint`
    whatever its `start` is.) It is reversible,
    v = (v+ - (1 - gamma) f(u)) / gamma with u = u+ - v+, but the division multiplies the rounding error of v by
    1 / gamma at every step: by 7 in 18 steps at 0.9, by 10^5 in 110.

    Args:
        gamma: how much of the velocity is kept, between 0 and 1.
    """
    if not 0 < gamma < 1:
        raise InputError(f"momentum: gamma must be between 0 and 1, got {gamma}")

    def step(fs, u, v, coef):
        (f,) = fs
        v = combine((gamma, v), (1 - gamma, f(u)))
        return combine((1, u), (1, v)), v

    def inverse(fs, u, v, coef):
        (f,) = fs
        u = combine((1, u), (-1, v))
        return u, combine((1 / gamma, v), (1 - 1 / gamma, f(u)))

    known = _multistep(lambda coef: ((1 + gamma, -gamma), (1 - gamma,)), earlier=False)
    return Stepper("momentum", step, init=functools.partial(jax.tree.map, jnp.zeros_like), inverse=inverse, known=known)


@register
def dense(steps: int | None = None) -> Stepper:
    """u[n+1] = sum_j k[j] u[n-j] / sum_j k[j] + f(u[n]) over all earlier states: the authors' DenseResNet.

    k is trainable, k[j] ~ U(-0.1, 0) (Lu et al. 2018, published code). At the start there is one earlier state: in a
    network, the projected input of the stage. The weights of states that do not exist yet are left out of both sums.
    Where the weights sum to zero, the step divides by zero. Once all states exist, it integrates c u' = F with
    c = 1 + sum_j j k[j] / sum_j k[j].

    Args:
        steps: over how many states at most; None for those of a whole stage of a network.
    """
    if steps is None:
        over, known = lambda depth: (euler(), dense(depth)), Properties(steps_back=None)
        return Stepper("dense", _undecided, init=_undecided, over=over, known=known)
    if steps < 1:
        raise InputError(f"dense: steps must be a whole number, at least 1, got {steps!r}")

    def init(u):
        return (u,) * (steps - 1), jnp.ones((), jnp.int32)

    def step(fs, u, history, k):
        (f,) = fs
        earlier, count = history
        states = (u, *earlier)
        present = jnp.arange(steps, dtype=count.dtype) <= count  # of the state, and the earlier ones there are
        k = jnp.where(present, k, 0)
        return combine(*zip(k / jnp.sum(k), states, strict=True), (1, f(u))), (states[:-1], count + 1)

    def coef(key, channels):
        return uniform(key, (steps,), -0.1, 0.0)

    @lenient()
    def damping(k):
        return 1 + jnp.sum(jnp.arange(steps) * k) / jnp.sum(k)

    return Stepper("dense", step, init=init, coef=coef, known=Properties(damping=damping, steps_back=steps - 1))


def _undecided(*_):
    raise InputError("dense: over how many states is not decided: use dense(steps)")


@register
def linear_multistep(
    a: Sequence[float | Fraction], b: Sequence[float | Fraction], *, trainable: bool = False, name: str | None = None
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
    try:
        a, b = tuple(map(float, a)), tuple(map(float, b))
    except (TypeError, ValueError):
        raise InputError(f"linear_multistep: a and b are lists of numbers, got a={a!r}, b={b!r}") from None
    if not a or not b or not np.all(np.isfinite(a + b)):
        raise InputError(f"linear_multistep: a and b need at least one weight each, finite ones, got a={a}, b={b}")
    if sum(b) == 0:
        raise InputError(f"linear_multistep: the weights b={b} sum to zero, so the field has no effect")

    def init(u):
        zero = jax.tree.map(jnp.zeros_like, u)
        return (u,) * (len(a) - 1), (zero,) * (len(b) - 1)

    def weights(coef) -> tuple[Sequence[Any], Sequence[Any]]:
        alpha, beta = (list(jnp.moveaxis(x, -1, 0)) for x in coef) if trainable else (a, b)
        return alpha, beta

    def step(fs, u, history, coef):
        (f,) = fs
        states, increments = (u, *history[0]), (f(u), *history[1])
        alpha, beta = weights(coef)
        terms = [*zip(alpha, states, strict=True), *zip(beta, increments, strict=True)]
        return combine(*terms), (states[: len(a) - 1], increments[: len(b) - 1])

    def coef(key, channels):
        return jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)

    known = _multistep(weights, order=_order(a, b), steps_back=max(len(a), len(b)) - 1, earlier=(True, False))
    name = name or f"linear_multistep{max(len(a), len(b))}"
    return Stepper(name, step, init=init, coef=coef if trainable else None, known=known)


@register
def learned_multistep(steps: int = 3) -> Stepper:
    """`linear_multistep` over so many steps with all weights trainable, starting from Euler."""
    if not 1 <= steps <= 1000:
        raise InputError(f"learned_multistep: steps must be a whole number from 1 to 1000, got {steps!r}")
    start = (1,) + (0,) * (steps - 1)
    return linear_multistep(start, start, trainable=True, name=f"learned_multistep{steps}")


def _order(a: tuple[float, ...], b: tuple[float, ...]) -> int:
    """Order of accuracy: how far the method is exact on u = 1, t, t^2, ... at the steps t = 0, -1, -2, ... ."""
    if abs(sum(a) - 1) > 1e-9:
        return 0
    c, order = _damping(a, b), 0
    while order < 12:
        q = order + 1
        states = sum(x * (-j) ** q for j, x in enumerate(a))
        increments = sum(c * x * q * (-j) ** (q - 1) for j, x in enumerate(b))
        if abs(states + increments - 1) > 1e-9 * 2**q:
            break
        order = q
    return order


def zero_stability(stepper: Stepper, coef: Any) -> np.ndarray:
    """By how much a multistep scheme is zero-stable: 1 - |z| for the largest root z of its characteristic polynomial.

    The polynomial's principal root, 1 for a consistent scheme, does not count (the root nearest to 1 is taken for
    it). With a positive margin a perturbation of the start dies out, with a negative one it grows exponentially; at 0
    the root lies on the unit circle, and the perturbation stays (k = 1) or grows linearly (k = -1). For `lm` the
    margin is 1 - |k|.

    Args:
        stepper: the scheme.
        coef: its coefficients, with any leading axes, such as the steps.

    Returns:
        float64, with the leading axes of the coefficients; 1 where there is no other root, as for one-step schemes;
        NaN for a multistep scheme whose polynomial is not known, and where a coefficient is NaN.

    Raises:
        InputError: if there is no such scheme, or the coefficients are not those of it.
    """
    if not isinstance(stepper, Stepper):
        raise InputError(f"zero_stability: the scheme must be a Stepper, such as steppers.lm(), got {stepper!r}")
    known = stepper.known
    if known.characteristic is None:
        return np.full((), 1.0 if known.steps_back == 0 else np.nan)
    try:
        c = np.asarray(known.characteristic(jax.tree.map(np.asarray, coef, is_leaf=_is_list)), np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"zero_stability: coef does not fit {stepper.name}: {coef!r}") from error
    return np.array([_margin(row) for row in c.reshape(-1, c.shape[-1])]).reshape(c.shape[:-1])


def _is_list(x: Any) -> bool:
    return isinstance(x, list)


def _margin(polynomial: np.ndarray) -> float:
    if not np.isfinite(polynomial).all():
        return np.nan
    roots = np.roots(polynomial)
    others = np.delete(roots, np.argmin(np.abs(roots - 1))) if len(roots) else roots
    return 1 - np.abs(others).max(initial=0.0)


_ADAMS_BASHFORTH = {
    1: (Fraction(1),),
    2: (Fraction(3, 2), Fraction(-1, 2)),
    3: (Fraction(23, 12), Fraction(-16, 12), Fraction(5, 12)),
    4: (Fraction(55, 24), Fraction(-59, 24), Fraction(37, 24), Fraction(-9, 24)),
}


@register
def adams_bashforth(order: int = 2) -> Stepper:
    """The explicit Adams method of the given order, 1 to 4 (Bashforth and Adams 1883): u+ = u + sum_j b[j] f(u[n-j]).

    One branch, `order - 1` remembered increments.
    """
    if order not in _ADAMS_BASHFORTH:
        raise unknown("order of Adams-Bashforth", str(order), map(str, _ADAMS_BASHFORTH))
    return linear_multistep((1,), _ADAMS_BASHFORTH[order], name=f"adams_bashforth{order}")
