"""Coupled schemes: the state is a pair, and each half is advanced by what the other half says."""

from lmjax.steppers.base import Properties, Stepper, combine, register


@register
def reversible() -> Stepper:
    """x+ = x + f(y), y+ = y + g(x+): RevNet's additive coupling (Gomez et al. 2017), semi-implicit (symplectic) Euler.

    The state is a pair (x, y) and the branches are (f, g): a method of order 1 for x' = F(y), y' = G(x). Its inverse,
    y = y+ - g(x+), x = x+ - f(y), needs no solve, so that training need not store the states between the steps.
    """
    return _coupled("reversible", 1)


@register
def hamiltonian() -> Stepper:
    """x+ = x + f(y), y+ = y - g(x+): symplectic Euler for x' = F(y), y' = -G(x) (Chang et al. 2018).

    `reversible` with the sign that makes a Hamiltonian system of two gradients, such as K1^T s(K1 y + b1) and
    K2^T s(K2 x + b2): with the same ones in all steps, the exact flow conserves the energy. The branches
    `networks.Symmetric` are those gradients with a minus, which is the same system with x and y exchanged. For branches
    without such a structure it is `reversible`.
    """
    return _coupled("hamiltonian", -1)


def _coupled(name, sign):
    def step(fs, u, history, coef):
        (f, g), (x, y) = fs, u
        x = combine((1, x), (1, f(y)))
        y = combine((1, y), (sign, g(x)))
        return (x, y), history

    def inverse(fs, u, history, coef):
        (f, g), (x, y) = fs, u
        y = combine((1, y), (-sign, g(x)))
        x = combine((1, x), (-1, f(y)))
        return (x, y), history

    known = Properties(sign=sign, nodes=(0, 1))
    return Stepper(name, step, inverse=inverse, evaluations=2, reads=(1,), parts=2, known=known)
