"""One-step schemes: the next state depends on the present one alone."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import gmres

from lmjax.errors import InputError
from lmjax.promotion import at_least_float32, lenient
from lmjax.steppers.base import Properties, StepInfo, Stepper, combine, register


@register
def euler() -> Stepper:
    """Forward Euler, u[n+1] = u[n] + f(u[n]): the residual network (He et al. 2016).

    Order 1, one branch.
    """

    def step(fs, u, history, coef):
        (f,) = fs
        return combine((1, u), (1, f(u))), history

    return Stepper("euler", step)


def over_stage(stepper: Stepper, depth: int) -> tuple[Stepper, Stepper]:
    """The schemes of a network's stage of so many steps: that of the first one, for a single field, and of the others.

    They are `euler` and the scheme itself, or the one over so many steps (`dense`); a wrapper wraps both.
    """
    if stepper.over is None:
        return euler(), stepper
    schemes = stepper.over(depth)
    for n, scheme in enumerate(schemes):
        if scheme is not stepper:
            scheme.made_by(functools.partial(_scheme_of_stage, stepper, depth, n))
    return schemes


def _scheme_of_stage(stepper: Stepper, depth: int, n: int) -> Stepper:
    return over_stage(stepper, depth)[n]


@register
def poly(degree: int = 2, *, drop: float = 0.0, scale: float = 1.0) -> Stepper:
    """u[n+1] = u + f(u) + f(f(u)) + ... up to `degree` applications: PolyNet (Zhang et al. 2017).

    For a linear F this is backward Euler with (I - hF)^-1 cut off after the power `degree` (Lu et al. 2018). It is a
    method for linear fields only: order 1 if F(0) = 0, and not even consistent otherwise. `backward_euler` is its
    consistent sibling.

    With one branch repeated, `(f,) * degree`, it is poly-2, poly-3, ...; with a branch for each power it is mpoly. The
    released PolyNet has a ReLU between the powers besides.

    Args:
        degree: the highest power, at least 1 (which is Euler). One branch a power.
        drop: how often each path (each power) is left out in training, independently of the others; the rate rises
            linearly with depth, from 0 to `drop` at the last step. What is kept is scaled up to the same expectation.
        scale: residual scaling: the sum of the powers is multiplied by a factor that falls linearly with depth, from 1
            to `scale` at the last step (0.7 in the released PolyNet).
    """

    def paths(fs, u):
        return list(itertools.accumulate(fs, lambda power, f: f(power), initial=u))[1:]

    return _sum_of_paths("poly", "degree", degree, paths, drop, scale)


@register
def way(count: int = 2, *, drop: float = 0.0, scale: float = 1.0) -> Stepper:
    """u[n+1] = u + f1(u) + f2(u) + ...: the 2-way and 3-way modules of PolyNet (Zhang et al. 2017).

    Euler with the increment split into branches; as a method for u' = F the increments add up to `count` steps, so
    that it integrates u' / count = F.

    Args:
        count: how many branches, at least 1 (which is Euler).
        drop: how often each is left out in training; see `poly`.
        scale: residual scaling; see `poly`.
    """

    def paths(fs, u):
        return [f(u) for f in fs]

    return _sum_of_paths("way", "count", count, paths, drop, scale, apart=True)


def _sum_of_paths(name, what, count, paths, drop, scale, *, apart=False):
    """The scheme of a sum of paths; apart: each begins at the state, so that each adds the increment of a step."""
    if not 1 <= count <= 1000:
        raise InputError(f"{name}: {what} must be a whole number from 1 to 1000, got {count}")
    if not 0 <= drop < 1:
        raise InputError(f"{name}: drop must be at least 0 and less than 1, got {drop}")

    def step(fs, u, history, coef, info: StepInfo | None = None):
        weights: list[Any] = [1] * count
        if info is not None and scale != 1:
            weights = [1 + (scale - 1) * info.depth] * count
        if info is not None and drop and info.key is not None:
            kept = 1 - drop * info.depth
            gates = jax.random.bernoulli(info.key, kept, (count,)).astype(float) / kept
            weights = [weight * gate for weight, gate in zip(weights, gates, strict=True)]
        return combine((1, u), *zip(weights, paths(fs, u), strict=True)), history

    damping, reads = (1 / count, (0,) * count) if apart else (1.0, (0,))
    known, informed = Properties(damping=lambda coef: damping, nodes=(0,) * count), drop > 0 or scale != 1
    return Stepper(
        f"{name}{count}", step, evaluations=count, reads=reads, informed=informed, random=drop > 0, known=known
    )


@register
def backward_euler(iterations: int | None = None, tolerance: float | None = None) -> Stepper:
    """Backward Euler, u[n+1] = u[n] + f(u[n+1]), by Picard iteration v <- u[n] + f(v) from v = u[n].

    Order 1, one branch, evaluated until the iteration ends. It converges where f is a contraction, i.e. for h L < 1
    with L the Lipschitz constant of F.

    Args:
        iterations: how many iterations to make, at least 1, by default 3; with a `tolerance`, how many at most, by
            default 100.
        tolerance: None makes exactly `iterations`, and the gradient is that of the unrolled iteration. A number stops
            once the update is smaller than `tolerance` times the state (Euclidean norms over the whole state, which in
            a network includes the batch), and the gradient is that of the exact solution by the implicit function
            theorem, in either mode: (I - f'(v))^-1 is applied by GMRES, in memory that does not grow with the
            iterations. (Second derivatives through several steps are `jax.jacfwd(jax.grad(...))`.) Where the iteration
            has not converged in `iterations`, neither the value nor the gradient is that of backward Euler. Cannot be
            smaller than the rounding of the state's dtype.
    """
    most, usual = (1000, 3) if tolerance is None else (10**9, 100)
    iterations = usual if iterations is None else iterations
    if not 1 <= iterations <= most:
        raise InputError(f"backward_euler: iterations must be a whole number from 1 to {most}, got {iterations!r}")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"backward_euler: tolerance must be positive, got {tolerance}")

    def step(fs, u, history, coef):
        (f,) = fs

        def picard(v):
            return combine((1, u), (1, f(v)))

        if tolerance is None:
            v = u
            for _ in range(iterations):
                v = picard(v)
            return v, history
        root = _fixed_point(picard, u, tolerance, iterations)
        # One more evaluation, outside the solver: at a fixed point it changes neither value nor gradient, and in it a
        # branch updates its running statistics.
        return picard(root), history

    name = "backward_euler" if tolerance is None else "backward_euler_implicit"
    return Stepper(name, step, repeats=iterations if tolerance is None else 2, known=Properties(nodes=(1,)))


def _fixed_point(picard, u, tolerance, iterations):
    """The v with v = picard(v), by iteration from u; differentiated as the solution that it approximates."""

    def solve(_, u):
        def advance(carry):
            v, _, n = carry
            new = picard(v)
            return new, _norm(combine((1, new), (-1, v))) > tolerance * _norm(new), n + 1

        return lax.while_loop(lambda carry: carry[1] & (carry[2] < iterations), advance, (u, True, 0))[0]

    def tangent_solve(linear, b):
        def wide(w):  # the linear algebra of GMRES does not know the half precisions
            return jax.tree.map(lambda x: x.astype(at_least_float32(x.dtype)), w)

        def narrow(w):
            return jax.tree.map(lambda x, like: x.astype(like.dtype), w, b)

        def krylov(matrix, b):
            return gmres(matrix, b, tol=tolerance, restart=10, maxiter=iterations)[0]

        # By itself, GMRES within a root cannot be transposed.
        return narrow(lax.custom_linear_solve(lambda w: wide(linear(narrow(w))), wide(b), krylov, krylov))

    return lax.custom_root(lambda v: combine((1, picard(v)), (-1, v)), u, solve, tangent_solve)


@lenient()
def _norm(u):
    squares = [jnp.sum(jnp.abs(x).astype(at_least_float32(x.dtype)) ** 2) for x in jax.tree.leaves(u)]
    return jnp.sqrt(sum(squares))


@register
def fractal(columns: int = 2, half_steps: bool = True) -> Stepper:
    """FractalNet's expansion rule (Larsson et al. 2017) as a scheme.

    With p_1(u; h) = u + h f(u), the rule is

        p_{c+1}(u; h) = ( p_c(p_c(u; h/2); h/2) + u + h f(u) ) / 2,

    the mean of a deep path of two half steps and a shallow path of one. One step is p_columns(u; 1), in a network
    the steps' sizes being part of the branches. Two columns have the form of a Runge-Kutta method of two
    evaluations (Lu et al. 2018), of order 1.

    Args:
        columns: how many paths are averaged, at least 1 (which is Euler). There are 2**columns - 1 branches, in this
            order: the shallow one, then those of the first half of the deep path, then those of the second.
        half_steps: False leaves every step at full size, as the published network does. Then the paths advance time
            by different amounts, (columns + 1) / 2 on average: it integrates 2 / (columns + 1) u' = F.
    """
    if not 1 <= columns <= 10:  # 10 are 1,023 branches
        raise InputError(f"fractal: columns must be a whole number from 1 to 10, got {columns!r}")

    def step(fs, u, history, coef):
        branches = iter(fs)

        def expand(u, c, h):
            shallow = combine((1, u), (h, next(branches)(u)))
            if c == 1:
                return shallow
            h = h / 2 if half_steps else h
            deep = expand(expand(u, c - 1, h), c - 1, h)
            return combine((0.5, deep), (0.5, shallow))

        return expand(u, columns, 1), history

    def nodes(c, t, h):
        if c == 1:
            return (t,)
        h = h / 2 if half_steps else h
        return (t, *nodes(c - 1, t, h), *nodes(c - 1, t + h, h))

    name = f"fractal{columns}" if half_steps else f"fractal{columns}_full_steps"
    damping = 1.0 if half_steps else 2 / (columns + 1)
    known = Properties(damping=lambda coef: damping, nodes=nodes(columns, 0.0, damping))
    return Stepper(name, step, evaluations=2**columns - 1, reads=(0,) * columns, known=known)
