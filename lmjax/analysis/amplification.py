"""A scheme on the linear test equation: one step is a matrix, found by taking the step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from lmjax.analysis.scheme import float64, require_coef
from lmjax.errors import InputError
from lmjax.steppers import StepInfo, Stepper

_FIRST = StepInfo(None, 0, 1)
_PIECE = 1024  # how many z are done at once: the program is compiled for so many


def amplification_matrix(
    stepper: Stepper, z: ArrayLike, coef: Any = None, *, damped: bool = True, info: StepInfo = _FIRST
) -> np.ndarray:
    """The matrix M(z) of one step on u' = lambda u, z = h lambda: it maps (u, history) to the next (u, history).

    It is found by taking the step, with the branch f(u) = c z u and each unit vector for (u, history), so that any
    stepper will do whose step is linear on a linear field. For a one-step scheme M is the stability function R(z),
    for a multistep scheme its companion matrix (Hairer, Norsett, Wanner 1993, section III.4). Without a key a scheme
    that draws random numbers takes their mean.

    The equation is the one that the scheme integrates: c is its damping, 1 + k for `lm`. A scheme for u'' = F, whose
    damping is 0, is given u'' = lambda^2 u, f(u) = z^2 u. A coupled scheme is given x' = lambda y, y' = lambda x,
    which for an imaginary lambda is the oscillator; both equations have the modes exp(lambda t) and exp(-lambda t).

    Args:
        stepper: the scheme.
        z: any shape, real or complex.
        coef: its coefficients, for one channel; needed where it has any.
        damped: False makes z the slope of the branch itself, f(u) = z u.
        info: which step it is, for schemes that depend on it; by default the first.

    Returns:
        complex128 [*z.shape, m, m], with m the numbers that the scheme keeps of one variable, itself included.

    Raises:
        InputError: if coefficients are missing, or given to a scheme that has none; if the step is not linear.
    """
    coef, z = require_coef(stepper, coef), np.asarray(z, np.complex128)
    with float64():
        matrices = _matrices(stepper, z.ravel(), coef, damped, info)
    return matrices.reshape(*z.shape, *matrices.shape[1:])


def roots(
    stepper: Stepper, z: ArrayLike, coef: Any = None, *, damped: bool = True, info: StepInfo = _FIRST
) -> np.ndarray:
    """The eigenvalues of `amplification_matrix`, complex128 [*z.shape, m]: R(z), or the roots of a multistep scheme.

    They are infinite where the matrix is.
    """
    matrices = amplification_matrix(stepper, z, coef, damped=damped, info=info)
    finite = np.isfinite(matrices).all((-2, -1))  # a scheme that iterates overflows where it diverges
    found = np.linalg.eigvals(np.where(finite[..., None, None], matrices, 0))
    return np.where(finite[..., None], found, np.inf)


def principal_root(stepper: Stepper, z: ArrayLike, coef: Any = None) -> np.ndarray:
    """The root that belongs to the solution: exp(z) + O(z^2) for a consistent scheme. The others are parasitic.

    It is followed from 1 at z = 0 along the straight line to z, in 64 steps. Behind a point where two roots meet (for
    `lm` with k < 0 at z = -(1 - sqrt(-k)) / (1 + sqrt(-k))), either of them may be returned.

    Args:
        stepper, coef: see `amplification_matrix`.
        z: any shape.

    Returns:
        complex128, of the shape of z.
    """
    z = np.asarray(z, np.complex128)
    path = np.linspace(0, 1, 65)[1:]
    every = roots(stepper, z * path.reshape(-1, *[1] * z.ndim), coef)
    before, now = np.ones_like(z), _nearest(every[0], np.exp(z * path[0]))
    for candidates in every[1:]:
        before, now = now, _nearest(candidates, 2 * now - before)
    return now


def parasitic_roots(stepper: Stepper, coef: Any = None) -> np.ndarray:
    """The roots at z = 0 that belong to no solution, whatever their order: complex128 [n].

    Those nearest to 1 are taken for the others: two for a coupled scheme and for one that integrates u'' = F, else one.
    A one-step scheme has none.
    """
    found = roots(stepper, 0.0, coef)
    principal = 2 if stepper.parts > 1 or is_of_second_order(stepper, coef) else 1
    return found[np.argsort(np.abs(found - 1))[principal:]]


def is_of_second_order(stepper: Stepper, coef: Any = None) -> bool:
    """True if a scheme is one for u'' = F."""
    return bool(np.all(np.asarray(stepper.known.damping(coef)) == 0))


def pair(stepper: Stepper, first: Any, second: Any) -> tuple:
    """(first, second), repeated where a coupled scheme has more branches, such as two a half under `shake_shake`."""
    half, odd = divmod(stepper.evaluations, 2)
    if odd or stepper.parts != 2:
        raise InputError(f"{stepper.name}: {stepper.evaluations} branches for {stepper.parts} parts are no pair")
    return (first,) * half + (second,) * half


def _nearest(candidates, target):
    index = np.argmin(np.abs(candidates - target[..., None]), -1)
    return np.take_along_axis(candidates, index[..., None], -1)[..., 0]


def _matrices(stepper, z, coef, damped, info):
    """[n] -> [n, m, m]."""
    compiled = _compiled(stepper, damped and is_of_second_order(stepper, coef), damped, info)
    pieces = []
    for start in range(0, max(z.size, 1), _PIECE):
        piece = np.zeros(_PIECE, np.complex128)
        piece[: len(z[start : start + _PIECE])] = z[start : start + _PIECE]
        matrices, moved, by_matrix = map(np.asarray, compiled(piece, coef))
        finite = np.isfinite(moved) & np.isfinite(by_matrix)
        if not np.allclose(moved[finite], by_matrix[finite], rtol=1e-6, atol=1e-9):
            raise InputError(f"{stepper.name}: a step is not linear on a linear field, so that it is no matrix")
        pieces.append(matrices)
    return np.concatenate(pieces)[: z.size]


@functools.lru_cache(maxsize=64)
def _compiled(stepper, second_order, damped, info):
    """(z, coef) -> the matrices; what the steps make of some vector; and what the matrices make of it."""

    def branches(z, coef):
        c = 1.0 if second_order or not damped else stepper.known.damping(coef)
        slope = c * (z * z if second_order else z)
        if stepper.parts == 1:
            return (lambda u: slope * u,) * stepper.evaluations
        return pair(stepper, lambda y: slope * y, lambda x: stepper.known.sign * slope * x)

    @jax.jit
    def matrices(z, coef):
        leaves, tree = jax.tree.flatten(_start(stepper, coef, info))
        varies = [jnp.iscomplexobj(x) for x in leaves]  # a counter, say, does not
        sizes = [x.size for x, variable in zip(leaves, varies, strict=True) if variable]

        def step(z, vector):
            parts = iter(jnp.split(vector, np.cumsum(sizes)[:-1]))
            state = [next(parts).reshape(x.shape) if v else x for x, v in zip(leaves, varies, strict=True)]
            after = jax.tree.leaves(stepper.step(branches(z, coef), *jax.tree.unflatten(tree, state), coef, info))
            return jnp.concatenate([x.ravel() for x, v in zip(after, varies, strict=True) if v])

        def with_probe(z):
            found = jax.vmap(step, (None, 0), 1)(z, jnp.eye(sum(sizes), dtype=jnp.complex128))
            probe = jnp.cos(jnp.arange(sum(sizes))) + 1j
            return found, step(z, probe), found @ probe

        return jax.vmap(with_probe)(z)

    return matrices


def _start(stepper, coef, info):
    """(u, history) of one sample of one channel. One that counts has all the history that it ever has."""
    one = jnp.ones(1, jnp.complex128)
    u = one if stepper.parts == 1 else (one,) * stepper.parts
    history = stepper.init(u)
    for _ in range(stepper.known.steps_back):
        history = stepper.step((jnp.zeros_like,) * stepper.evaluations, u, history, coef, info)[1]
    return u, history
