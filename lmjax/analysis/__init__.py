"""The analysis of schemes as numerical methods, and of what a trained network does with them.

    lmjax analyze order euler "lm(-0.5, -0.5)" rk4 --out order.png
    lmjax analyze stability --run runs/a --out regions.png

Everything about schemes is pure numerics: it takes a stepper, its coefficients, and steps, in float64.
"""

from lmjax.analysis.amplification import amplification_matrix, parasitic_roots, principal_root, roots
from lmjax.analysis.learned import Learned, draw_coefficients, draw_friction_and_mass, read_learned
from lmjax.analysis.modified_equation import draw_rates, friction_and_mass, modified_rate, rate_order
from lmjax.analysis.order import LINEAR, NONLINEAR, ObservedOrder, Problem, draw_orders, observed_order
from lmjax.analysis.scheme import Scheme, schemes
from lmjax.analysis.stability import (
    LinearStability,
    draw_learned_regions,
    draw_regions,
    is_stable,
    is_zero_stable,
    linear_stability,
    spectral_radius,
)

__all__ = [
    "LINEAR",
    "NONLINEAR",
    "Learned",
    "LinearStability",
    "ObservedOrder",
    "Problem",
    "Scheme",
    "amplification_matrix",
    "draw_coefficients",
    "draw_friction_and_mass",
    "draw_learned_regions",
    "draw_orders",
    "draw_rates",
    "draw_regions",
    "friction_and_mass",
    "is_stable",
    "is_zero_stable",
    "linear_stability",
    "modified_rate",
    "observed_order",
    "parasitic_roots",
    "principal_root",
    "rate_order",
    "read_learned",
    "roots",
    "schemes",
    "spectral_radius",
]
