"""C2: `lmjax.odeint` beside diffrax, an ODE library, on a neural field with a fixed step.

Both integrate u' = MLP(u) from 0 to 1 in float32 and give the state at 1. diffrax is told all that makes it fast: the
step, `SaveAt(t1=True)`, `max_steps`, no exception for a failure, and as many checkpoints as there are steps, so that it
computes nothing twice. It has no classical Runge-Kutta method, and gets ours as a tableau for its own machinery.
"""

import time
from collections.abc import Iterator

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.row import Plan, ratio
from benchmarks.timing import Calls, interleaved
from lmjax import odeint, steppers


class RK4(diffrax.Midpoint):
    """The classical method, by the machinery of its parent."""

    tableau = diffrax.ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]), b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]), b_error=np.zeros(4),
        a_lower=(np.array([1 / 2]), np.array([0, 1 / 2]), np.array([0, 0, 1.0])),
    )  # fmt: skip


METHODS = {"euler": (steppers.euler, diffrax.Euler), "rk4": (steppers.rk4, RK4)}


def field(t, u, weights):
    w1, w2 = weights
    return jnp.tanh(u @ w1) @ w2


def solvers(method: str, steps: int):
    """Two functions (weights, u0) -> the state at 1: ours and diffrax's."""
    scheme, solver = METHODS[method]

    def ours(weights, u0):
        return odeint(scheme(), field, u0, t1=1.0, steps=steps, args=weights)

    def theirs(weights, u0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), solver(), t0=0.0, t1=1.0, dt0=1 / steps, y0=u0,
            args=weights, saveat=diffrax.SaveAt(t1=True), max_steps=steps + 1, throw=False,
            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=steps + 1),
        )  # fmt: skip
        return solution.ys[0]

    return {"lmjax": ours, "diffrax": theirs}


def solve(plan: Plan) -> Iterator[dict]:
    """diffrax's times over ours, forward and with the gradient of the weights, and our compile time over diffrax's."""
    steps, batch, width, hidden = plan.of((128, 32, 32, 64), (8, 2, 4, 8))
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.random.normal(keys[0], (width, hidden)) * 0.3, jax.random.normal(keys[1], (hidden, width)) * 0.3
    u0 = jax.random.normal(keys[2], (batch, width))
    for method in METHODS:
        forward = solvers(method, steps)
        np.testing.assert_allclose(*(f(weights, u0) for f in forward.values()), rtol=1e-3, atol=1e-4)
        backward = {name: gradient(f) for name, f in forward.items()}
        for kind, functions in (("forward", forward), ("forward and backward", backward)):
            sides, compile_times = {}, {name: [] for name in functions}
            for _ in range(plan.of(3, 1)):
                for name, function in functions.items():
                    jax.clear_caches()
                    began = time.perf_counter()
                    compiled = jax.jit(function).lower(weights, u0).compile()
                    compile_times[name].append(time.perf_counter() - began)
                    sides[name] = side(compiled, weights, u0)
            times = interleaved(sides, rounds=plan.rounds, seconds=plan.round_seconds)
            yield ratio(f"{method}, {kind}: diffrax / ours", times["diffrax"], times["lmjax"])
            label = f"{method}, {kind}: compilation, ours / diffrax"
            yield ratio(label, compile_times["lmjax"], compile_times["diffrax"])


def gradient(function):
    return jax.grad(lambda weights, u0: jnp.sum(function(weights, u0) ** 2))


def side(compiled, *arguments) -> Calls:
    return Calls(lambda: jax.block_until_ready(compiled(*arguments)))
