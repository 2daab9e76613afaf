"""Coupled schemes: the state is a pair, and each half is advanced by what the other half says."""

import functools

from lmjax.steppers.base import Stepper, combine


@functools.cache
def reversible() -> Stepper:
    """x+ = x + f(y), y+ = y + g(x+): RevNet's additive coupling (Gomez et al. 2017), semi-implicit (symplectic) Euler.

    The state is a pair (x, y) and the branches are (f, g): a method of order 1 for x' = F(y), y' = G(x). Its inverse,
    y = y+ - g(x+), x = x+ - f(y), needs no solve, so that training need not store the states between the steps.
    """

    def step(fs, u, memory, coef):
        (f, g), (x, y) = fs, u
        x = combine((1, x), (1, f(y)))
        y = combine((1, y), (1, g(x)))
        return (x, y), memory

    def inverse(fs, u, memory, coef):
        (f, g), (x, y) = fs, u
        y = combine((1, y), (-1, g(x)))
        x = combine((1, x), (-1, f(y)))
        return (x, y), memory

    return Stepper("reversible", step, inverse=inverse, stages=2, parts=2)
