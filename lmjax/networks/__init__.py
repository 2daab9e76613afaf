"""Networks made of steppers, as Flax NNX modules."""

from lmjax.networks.block import Block, Coefficient
from lmjax.networks.branches import Activation, Basic, Bottleneck, PoolAndPad, Projection, Symmetric
from lmjax.networks.cost import branch_evaluations, convolutions, forward_macs
from lmjax.networks.fractalnet import FractalNet
from lmjax.networks.named import architecture, create, names
from lmjax.networks.network import Architecture, Network, coefficients, parameter_count, zero_stability
from lmjax.networks.normalisation import BatchNorm, group_batch_norm
from lmjax.networks.stack import Stack
from lmjax.networks.stage import Entry, Stage

__all__ = [
    "Activation",
    "Architecture",
    "Basic",
    "BatchNorm",
    "Block",
    "Bottleneck",
    "Coefficient",
    "Entry",
    "FractalNet",
    "Network",
    "PoolAndPad",
    "Projection",
    "Stack",
    "Stage",
    "Symmetric",
    "architecture",
    "branch_evaluations",
    "coefficients",
    "convolutions",
    "create",
    "forward_macs",
    "group_batch_norm",
    "names",
    "parameter_count",
    "zero_stability",
]
