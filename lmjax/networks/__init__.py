"""Networks made of steppers, as Flax NNX modules."""

from lmjax.networks.branches import Activation, Basic, Bottleneck, Projection
from lmjax.networks.named import create, names
from lmjax.networks.network import Block, Coefficient, Network, Stage, coefficients, parameter_count
from lmjax.networks.stack import Stack

__all__ = [
    "Activation",
    "Basic",
    "Block",
    "Bottleneck",
    "Coefficient",
    "Network",
    "Projection",
    "Stack",
    "Stage",
    "coefficients",
    "create",
    "names",
    "parameter_count",
]
