"""Networks made of steppers, as Flax NNX modules."""

from lmjax.networks import convnext, fractalnet, resnet, resnext, revnet, vit
from lmjax.networks.block import Block, Coefficient
from lmjax.networks.branches import Activation, PoolAndPad, Projection, Symmetric, basic, bottleneck
from lmjax.networks.cost import branch_evaluations, convolutions, forward_macs
from lmjax.networks.fractalnet import FractalNet
from lmjax.networks.named import create, get, normalize
from lmjax.networks.network import Architecture, Network, coefficients, parameter_count, scheme, zero_stability
from lmjax.networks.normalization import BatchNorm, group_batch_norm
from lmjax.networks.options import Options, activations, branches, names, normalizations, registry, shortcuts
from lmjax.networks.stack import Stack
from lmjax.networks.stage import Entry, Stage

register = registry.register
