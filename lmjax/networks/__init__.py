"""Networks made of steppers, as Flax NNX modules."""

from lmjax.networks import convnext, fractalnet, resnet, resnext, revnet, vit
from lmjax.networks.block import Block, Coefficient
from lmjax.networks.branches import Activation, PoolAndPad, Projection, Symmetric, basic, bottleneck
from lmjax.networks.cost import branch_evaluations, convolutions, forward_macs, plain_traffic
from lmjax.networks.fractalnet import FractalNet
from lmjax.networks.named import create, get, normalize
from lmjax.networks.network import Architecture, Network, coefficients, parameter_count, scheme, zero_stability
from lmjax.networks.normalization import BatchNorm, group_batch_norm
from lmjax.networks.options import Options, activations, branches, names, normalizations, registry, shortcuts
from lmjax.networks.pretrained import from_torch, to_torch
from lmjax.networks.stack import Stack
from lmjax.networks.stage import Entry, Stage

register = registry.register

__all__ = [
    "Activation",
    "Architecture",
    "BatchNorm",
    "Block",
    "Coefficient",
    "Entry",
    "FractalNet",
    "Network",
    "Options",
    "PoolAndPad",
    "Projection",
    "Stack",
    "Stage",
    "Symmetric",
    "activations",
    "basic",
    "bottleneck",
    "branch_evaluations",
    "branches",
    "coefficients",
    "convnext",
    "convolutions",
    "create",
    "forward_macs",
    "fractalnet",
    "from_torch",
    "get",
    "group_batch_norm",
    "names",
    "normalizations",
    "normalize",
    "parameter_count",
    "plain_traffic",
    "register",
    "registry",
    "resnet",
    "resnext",
    "revnet",
    "scheme",
    "shortcuts",
    "to_torch",
    "vit",
    "zero_stability",
]
