"""A scheme: a stepper together with its coefficients, in float64."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lmjax import steppers
from lmjax.devices import host
from lmjax.errors import InputError
from lmjax.promotion import lenient
from lmjax.steppers import Stepper


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A stepper as a numerical method.

    Attributes:
        label: what it is called in tables and pictures.
        stepper: the stepper.
        coef: its coefficients, float64; None if it has none.
    """

    label: str
    stepper: Stepper
    coef: Any = None


def schemes(names: Iterable[str], k: float | None = None) -> list[Scheme]:
    """The schemes of names or calls, as `steppers.get` takes them.

    Args:
        names: such as "rk4" or "lm(-0.5, -0.5)".
        k: the coefficient of those that have one; None for the mean of its initial distribution.

    Raises:
        InputError: if there is no such stepper, if k is given and none has a coefficient, or one has several.
    """
    found = [_scheme(name, k) for name in names]
    if k is not None and all(scheme.coef is None for scheme in found):
        raise InputError(f"--k {k:g}: {' and '.join(s.label for s in found)} has no coefficient: leave it out")
    return found


def _scheme(name: str, k: float | None) -> Scheme:
    stepper = steppers.get(name)
    coef = mean_coefficients(stepper)
    size = sum(x.size for x in jax.tree.leaves(coef))
    if k is not None and coef is not None:
        if size != 1:
            raise InputError(f"--k {k:g}: {stepper.name} has {size} coefficients a step, not one: leave it out")
        coef = jax.tree.map(lambda x: np.full_like(x, k), coef)
    return labeled(stepper.name if size == 1 else steppers.normalize(name), stepper, coef)


def labeled(label: str, stepper: Stepper, coef: Any) -> Scheme:
    """The scheme, with its coefficient in the label if it has just one."""
    leaves = jax.tree.leaves(coef)
    if sum(x.size for x in leaves) == 1:
        label += f", k = {leaves[0].item():.4g}"
    return Scheme(label, stepper, coef)


def mean_coefficients(stepper: Stepper) -> Any:
    """The mean of the initial distribution of a step's coefficients, for one channel, in float64.

    Returns:
        A pytree of the structure of the coefficients; None if the stepper has none.

    Raises:
        InputError: if the stepper does not say the mean.
    """
    if stepper.coef is None:
        return None
    try:
        mean = stepper.coef(None, 1)
    except TypeError:  # of jax.random, which needs a key
        raise InputError(
            f"{stepper.name}: the mean of its coefficients is not known: let coef(None, channels) give it"
        ) from None
    return jax.tree.map(lambda x: np.asarray(x).astype(str).astype(np.float64), mean)  # -0.1 for the nearest float32


def require_coef(stepper: Stepper, coef: Any) -> Any:
    """The coefficients in float64.

    Raises:
        InputError: if they are missing, or given to a stepper that has none.
    """
    if (stepper.coef is None) != (coef is None):
        what = "has no coefficients" if coef is not None else "has coefficients to choose: give coef, as k = -0.1 of lm"
        raise InputError(f"{stepper.name} {what}")
    return jax.tree.map(lambda x: np.asarray(x, np.float64), coef)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Within the block, and in this thread alone, JAX computes in float64 and complex128, on the CPU if there is one.

    Accelerators are slow at float64, or do not know complex128 at all.
    """
    if hasattr(jax, "enable_x64"):
        wide = jax.enable_x64(True)
    else:  # before jax 0.8
        from jax.experimental import enable_x64

        wide = enable_x64()
    with wide, host(), lenient():
        yield
