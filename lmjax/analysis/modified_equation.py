"""The equation that a scheme solves instead of the one it was given, up to smaller errors."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmjax.analysis.amplification import is_of_second_order, parasitic_roots, principal_root
from lmjax.analysis.command import (
    add_out,
    add_schemes,
    chosen_schemes,
    print_table,
    require_out,
    run_config,
    save,
)
from lmjax.analysis.learned import read_learned
from lmjax.errors import InputError
from lmjax.steppers import Stepper


def modified_rate(stepper: Stepper, coef: Any = None, *, terms: int = 5) -> np.ndarray:
    """The series of the rate with which a scheme solves u' = lambda u, by its principal root zeta(h lambda):

        log(zeta(h lambda)) / h = lambda (c[0] + c[1] h lambda + c[2] (h lambda)^2 + ...).

    It is the modified equation u' = lambda~ u (Warming and Hyett 1974): c[0] = 1 for a consistent scheme, and the
    first other c[p] that is not 0 says that the scheme is of order p on linear equations, and how large its error is.
    Of a coupled scheme it is the error of the frequency, which may be of a higher order than that of the states.

    Args:
        stepper, coef: see `amplification_matrix`.
        terms: how many to compute. The fifth is accurate to about 1e-10, relative to the one of the largest error that
            a series of the same radius of convergence could have. What rounding does not tell from 0 is 0.

    Returns:
        c, float64 [terms].
    """
    # Cauchy's formula on a circle well within the one where another root meets the principal one. For `lm` with k < 0,
    # whose other root is -k, that is at (1 - sqrt(-k)) / (1 + sqrt(-k)) > (1 + k) / 4.
    gap = np.abs(parasitic_roots(stepper, coef) - 1).min(initial=1.6)
    radius, points = gap / 16, 64
    z = radius * np.exp(2j * np.pi * np.arange(points) / points)
    rates = np.log(principal_root(stepper, z, coef)) / z
    on_circle = np.fft.fft(rates).real[:terms] / points  # c[p] radius^p, known to a rounding error of log / radius
    return np.where(np.abs(on_circle) < 1e-14 / radius, 0.0, on_circle) / radius ** np.arange(terms)


def rate_order(c: ArrayLike) -> int:
    """The order p that the series of `modified_rate` shows: 0 if c[0] is not 1, and len(c) if all others are 0."""
    c = np.abs(np.asarray(c) - np.eye(1, len(c))[0])
    return int(np.argmax(np.append(c > 1e-7, True)))


def friction_and_mass(k: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The modified equation of `lm`, friction u' + h mass u'' = F(u), up to O(h^2) (Lu et al. 2018).

    It comes from the Taylor series of u[n+1] = (1 - k) u[n] + k u[n-1] + h F(u[n]) around t[n]. With k < 0 there is
    less friction and more mass than in Euler's method (k = 0: 1 and 1/2); the field moves u with the speed
    1 / friction. At k = -1 there is no friction, and beyond it is negative: there the scheme is not zero-stable.

    Args:
        k: of any shape.

    Returns:
        (1 + k, (1 - k) / 2), float64.
    """
    k = np.asarray(k, np.float64)
    return 1 + k, (1 - k) / 2


def add(commands: Any) -> None:
    """Adds the command to those of an argparse parser."""
    parser = commands.add_parser(
        "modified-equation",
        help="the equation that schemes, or the learned steps of runs, solve instead",
        description="Finds the series of the rate with which a scheme solves u' = lambda u: lambda (c0 + c1 z + c2 z^2 "
        "+ ...) with z = h lambda. With --run, what the learned k make of (1 + k) u' + (1 - k) (h/2) u'' = F(u), along "
        "the depth of a network.",
    )
    add_schemes(parser, nargs="*")
    parser.add_argument(
        "--run", dest="directory", type=Path, metavar="RUN", help="the folder of a run of lm, or of several seeds of it"
    )
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(options: Any) -> None:
    from lmjax.analysis import modified_equation_figures

    require_out(options.out)
    if bool(options.schemes) == (options.directory is not None):
        raise InputError("modified-equation: give schemes, such as rk4, or the folder of a run by --run")
    if options.directory is not None:
        _of_run(options)
        return
    chosen = chosen_schemes(options)
    print("u' = lambda u is solved with the rate lambda (c0 + c1 z + c2 z^2 + ...), z = h lambda")
    for scheme in chosen:
        if is_of_second_order(scheme.stepper, scheme.coef):
            print(f"{scheme.label} is a scheme for u'' = F: it is given u'' = lambda^2 u")
    print()
    rows = []
    for scheme in chosen:
        c = modified_rate(scheme.stepper, scheme.coef)
        rows.append([scheme.label, rate_order(c), *(f"{x:.6g}" for x in c)])
    print_table([["scheme", "order of the rate", *(f"c{j}" for j in range(len(c)))], *rows])
    if options.out is not None:
        save(modified_equation_figures.draw_rates(chosen), options.out)


def _of_run(options: Any) -> None:
    from lmjax.analysis import modified_equation_figures

    run_config(options)
    runs = read_learned(options.directory)
    for learned in runs:
        if learned.stepper.known.family != "lm":
            raise InputError(f"{learned.directory}: is a run of {learned.stepper.name}: give one of lm")
    print("(1 + k) u' + (1 - k) (h/2) u'' = F(u), with friction 1 + k and mass (1 - k)/2\n")
    rows = [["run, stage, learned step", "k", "friction", "mass", "speed"]]
    for learned in runs:
        for stage, k in learned.k().items():
            for n, x in enumerate(k[-1], start=1):
                friction, mass = friction_and_mass(x)
                name = f"{learned.directory.name}, {stage}, {n}"
                rows.append([name, f"{x:.4f}", f"{friction:.4f}", f"{mass:.4f}", f"{1 / friction:.4f}"])
    print_table(rows)
    if options.out is not None:
        save(modified_equation_figures.draw_friction_and_mass(runs, runs[0].name), options.out)
