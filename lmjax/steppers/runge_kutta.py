"""Explicit Runge-Kutta schemes, from checked Butcher tableaus."""

import dataclasses
import functools
import math
from fractions import Fraction

from lmjax.errors import InputError
from lmjax.steppers.base import Properties, Stepper, combine, register


@dataclasses.dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method (Butcher 1964).

        k_i = f_i(u + sum_{j<i} a[i][j] k_j),    u+ = u + sum_i b[i] k_i.

    Checked on construction: explicit, row sums equal to the nodes, and every order condition up to `order` (Hairer,
    Norsett, Wanner 1993, section II.2).

    Attributes:
        name: the method's name.
        a: row i holds the i coefficients of evaluation i, so that the first row is empty.
        b: the weights, one an evaluation.
        c: the nodes, `c[i] = sum_j a[i][j]`.
        order: the order claimed, 1 to 4.

    Raises:
        InputError: naming the row or the order condition that does not hold.
    """

    name: str
    a: tuple[tuple[float | Fraction, ...], ...]
    b: tuple[float | Fraction, ...]
    c: tuple[float | Fraction, ...]
    order: int

    def __post_init__(self):
        object.__setattr__(self, "a", tuple(map(tuple, self.a)))
        object.__setattr__(self, "b", tuple(self.b))
        object.__setattr__(self, "c", tuple(self.c))
        if not len(self.a) == len(self.b) == len(self.c) > 0:
            raise InputError(
                f"tableau {self.name}: a, b and c must have one entry an evaluation, got {len(self.a)}, "
                f"{len(self.b)} and {len(self.c)}"
            )
        for i, (row, node) in enumerate(zip(self.a, self.c, strict=True)):
            if len(row) != i:
                raise InputError(
                    f"tableau {self.name}: an explicit method has {i} coefficients in row {i} of a (counted from 0), "
                    f"got {len(row)}"
                )
            total = math.fsum(row)
            if not _equal(total, node):
                raise InputError(
                    f"tableau {self.name}: row {i} of a sums to {total:g}, but its node c[{i}] is {float(node):g}"
                )
        if self.order not in (1, 2, 3, 4):
            raise InputError(f"tableau {self.name}: order must be 1, 2, 3 or 4 to be checked, got {self.order}")
        for order, condition, left, right in self._conditions():
            if order <= self.order and not _equal(left, right):
                raise InputError(
                    f"tableau {self.name}: claims order {self.order}, but {condition} = {left:g} instead of {right:g}"
                )

    def _conditions(self):
        """The order conditions, one for each rooted tree of up to four vertices: (order, its name, value, target)."""

        def weigh(v):
            return math.fsum(x * y for x, y in zip(self.b, v, strict=True))

        def apply(v):
            return [math.fsum(x * y for x, y in zip(row, v[: len(row)], strict=True)) for row in self.a]

        c = [float(x) for x in self.c]
        c2 = [x**2 for x in c]
        ac = apply(c)
        return (
            (1, "sum b", math.fsum(self.b), 1),
            (2, "sum b c", weigh(c), 1 / 2),
            (3, "sum b c^2", weigh(c2), 1 / 3),
            (3, "sum b a c", weigh(ac), 1 / 6),
            (4, "sum b c^3", weigh([x**3 for x in c]), 1 / 4),
            (4, "sum b c a c", weigh([x * y for x, y in zip(c, ac, strict=True)]), 1 / 8),
            (4, "sum b a c^2", weigh(apply(c2)), 1 / 12),
            (4, "sum b a a c", weigh(apply(ac)), 1 / 24),
        )


def _equal(x: float | Fraction, y: float | Fraction) -> bool:
    return math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9)


@functools.cache
def runge_kutta(tableau: Tableau) -> Stepper:
    """The explicit Runge-Kutta method of a tableau, one branch an evaluation.

    In a network every evaluation has its own branch unless one is repeated; a method keeps its order only with one
    branch throughout.
    """
    a = [[float(x) for x in row] for row in tableau.a]
    b = [float(x) for x in tableau.b]

    def step(fs, u, history, coef):
        slopes = []

        def advanced(weights):
            terms = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0]
            return combine((1, u), *terms) if terms else u

        for f, row in zip(fs, a, strict=True):
            slopes.append(f(advanced(row)))
        return advanced(b), history

    known = Properties(order=tableau.order, nodes=tuple(map(float, tableau.c)))
    made = Stepper(tableau.name, step, evaluations=len(b), known=known)
    return made.made_by(functools.partial(runge_kutta, tableau))


@register
def midpoint() -> Stepper:
    """The explicit midpoint method, u+ = u + f(u + f(u)/2) (Runge 1895). Order 2, two branches."""
    return runge_kutta(Tableau("midpoint", a=((), (1 / 2,)), b=(0, 1), c=(0, 1 / 2), order=2))


@register
def heun() -> Stepper:
    """Heun's method, the explicit trapezoidal rule: u+ = u + (k1 + k2)/2 with k1 = f(u), k2 = f(u + k1) (Heun 1900).

    Order 2, two branches.
    """
    return runge_kutta(Tableau("heun", a=((), (1,)), b=(1 / 2, 1 / 2), c=(0, 1), order=2))


@register
def rk4() -> Stepper:
    """The classical Runge-Kutta method (Kutta 1901). Order 4, four branches."""
    a, b, c = ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0, 1 / 2, 1 / 2, 1)
    return runge_kutta(Tableau("rk4", a, b, c, order=4))
