"""The order of accuracy that a scheme shows: errors against step sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lmjax.analysis.amplification import is_of_second_order, pair
from lmjax.analysis.scheme import float64, require_coef
from lmjax.integrate import odeint
from lmjax.results import plots
from lmjax.steppers import StepInfo, Stepper

STEPS = (10, 20, 40, 80, 160, 320, 640)
_ROUNDING = 1e-12  # errors below this are rounding
_FITTED = 3  # how many of the finest errors a slope goes through


@dataclasses.dataclass(frozen=True)
class Problem:
    """A test problem q' = p, p' = G(q), with its exact solution: as a system, as a pair and as q'' = G(q) the same.

    Attributes:
        name: what it is called.
        equation: as a picture shows it.
        force: G.
        exact: (q, p) at time t, float64.
        t1: the time at which the error is taken.
    """

    name: str
    equation: str
    force: Callable[[jax.Array], jax.Array]
    exact: Callable[[float], tuple[float, float]]
    t1: float = 2.0


def _oscillation(t):
    return np.cos(t) + 0.5 * np.sin(t), 0.5 * np.cos(t) - np.sin(t)


def _pulse(t):
    q = 1 / np.cosh(t - 0.6)
    return q, -q * np.tanh(t - 0.6)


# The nonlinear one is the homoclinic orbit q = sech(t) of Duffing's equation without friction. Either field vanishes
# at 0, which `poly` needs.
LINEAR = Problem("linear", "q″ = −q", lambda q: -q, _oscillation)
NONLINEAR = Problem("nonlinear", "q″ = q − 2q³", lambda q: q - 2 * q**3, _pulse)


@dataclasses.dataclass(frozen=True)
class ObservedOrder:
    """The finding of `observed_order`.

    Attributes:
        h: the step sizes, float64 [n], falling.
        errors: the Euclidean norms of the errors at the end, float64 [n].
        order: the slope of log(error) against log(h), fitted to the three smallest h whose error is above rounding;
            NaN if there are fewer than two of them.
    """

    h: np.ndarray
    errors: np.ndarray
    order: float

    def __str__(self) -> str:
        return "diverges" if not self.errors[-1] <= self.errors[0] else f"{self.order:.2f}"


def observed_order(
    stepper: Stepper, coef: Any = None, *, problem: Problem = NONLINEAR, steps: Sequence[int] = STEPS
) -> ObservedOrder:
    """Integrates a test problem with smaller and smaller steps, in float64, by `odeint`.

    A multistep scheme takes its first values from `rk4`. A coupled scheme is given the pair of fields, and a scheme
    for u'' = F, which `odeint` refuses, the equation of second order and an exact second value.

    Args:
        stepper: the scheme.
        coef: its coefficients, the same at every step; needed where it has any.
        problem: `LINEAR`, `NONLINEAR`, or another one.
        steps: how many steps to take, from coarse to fine.

    Raises:
        InputError: if coefficients are missing, or given to a scheme that has none.
    """
    coef = require_coef(stepper, coef)
    with float64(), np.errstate(over="ignore", invalid="ignore"):  # a scheme that is not stable
        errors = np.array([_error(stepper, coef, problem, n) for n in steps])
    h = problem.t1 / np.asarray(steps)
    usable = np.flatnonzero(np.isfinite(errors) & (errors > _ROUNDING))[-_FITTED:]
    slope = np.polyfit(np.log(h[usable]), np.log(errors[usable]), 1)[0] if len(usable) > 1 else np.nan
    return ObservedOrder(h, errors, float(slope))


def _error(stepper, coef, problem, n):
    start, end = (np.array(problem.exact(t)) for t in (0.0, problem.t1))
    if is_of_second_order(stepper, coef):
        return abs(_second_order(stepper, coef, problem, n) - end[0])
    if stepper.parts > 1:
        start = tuple(start)
        pairs = pair(stepper, lambda p: p, lambda q: stepper.known.sign * problem.force(q))
        field = tuple(lambda t, x, F=F: F(x) for F in pairs)
    else:

        def field(t, u):
            return jnp.stack([u[1], problem.force(u[0])])

    if stepper.known.nodes is None:  # when its branches are evaluated is all the same: the field does not depend on t
        known = dataclasses.replace(stepper.known, nodes=(0,) * stepper.evaluations)
        stepper = dataclasses.replace(stepper, known=known)
    found = odeint(stepper, field, start, t1=problem.t1, steps=n, coef=coef)
    return np.linalg.norm(np.ravel(found) - end)


def _second_order(stepper, coef, problem, n):
    """q at the end, by a scheme for q'' = G(q) from exact first values."""
    h = problem.t1 / n
    fs = (lambda q: h**2 * problem.force(q),) * stepper.evaluations
    q = jnp.asarray(problem.exact(0.0)[0])
    history = stepper.init(q)
    for i in range(stepper.known.steps_back):
        _, history = stepper.step(fs, q, history, coef, StepInfo(None, i, n))
        q = jnp.asarray(problem.exact((i + 1) * h)[0])

    def step(carry, i):
        return stepper.step(fs, *carry, coef, StepInfo(None, i, n)), None

    return lax.scan(step, (q, history), jnp.arange(stepper.known.steps_back, n))[0][0]


def draw_orders(found: dict[Problem, dict[str, ObservedOrder]]) -> Any:
    """Errors against step sizes: a panel a problem, a line a scheme, the orders in the legend; a matplotlib figure.

    The schemes are the same for all problems.
    """
    schemes = list(next(iter(found.values())))
    figure = plots.figure(4 * len(found) + 2, max(3.6, 1 + 0.2 * len(schemes)))
    for axes, (problem, results) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for i, scheme in enumerate(schemes):
            orders = ", ".join(str(of_problem[scheme]) for of_problem in found.values())
            axes.loglog(
                results[scheme].h, results[scheme].errors, label=f"{scheme}: {orders}", linewidth=1.1,
                markersize=5, markerfacecolor="none", **plots.marked(i),
            )  # fmt: skip
        axes.set(title=f"{problem.name}, {problem.equation}", xlabel="step size h", ylabel="error at the end")
        plots.open_frame(axes)
    title = "scheme: observed orders"
    figure.legend(
        handles=axes.get_lines(), loc="outside right upper", frameon=False, fontsize=8, title=title, title_fontsize=8
    )
    return figure
