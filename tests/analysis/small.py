"""A small network of every kind of scheme, for the tests that look into networks."""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import networks
from lmjax.networks import Symmetric
from tests.networks.small import scrambled

IMAGES = jax.random.normal(jax.random.key(1), (3, 6, 6, 3))


def network(stepper, *, depths=(3, 2), seed=0, branch=None, **options):
    """Stages with 4 and 8 channels, in evaluation, with running statistics that are not those of the start."""
    inner = {key: options.pop(key) for key in ("boundary", "post") if key in options}
    architecture = networks.Architecture(depths, (4, 8)[: len(depths)], 4, branch or networks.basic(), **inner)
    model = networks.Network(architecture, networks.Options(stepper, classes=5, **options), rngs=nnx.Rngs(seed))
    model.eval()
    # Of either kind, mean and variance, positive numbers will do.
    nnx.update(model, scrambled(nnx.state(model, nnx.BatchStat), 0.1, 0.5, seed + 1))
    return model


KINDS = {
    "euler": ("euler", {}),
    "euler, post-activated": ("euler", {"post": True}),
    "lm": ("lm(-0.6, 0.4)", {}),
    "lm, rolled": ("lm(-0.6, 0.4)", {"unroll": False}),
    "lm, across the boundaries": ("lm(-0.6, 0.4)", {"boundary": "step"}),
    "lm in bfloat16": ("lm(-0.6, 0.4)", {"dtype": jnp.bfloat16}),
    "learned_multistep": ("learned_multistep", {}),
    "adams_bashforth, across the boundaries": ("adams_bashforth(3)", {"boundary": "step"}),
    "momentum, reversible": ("momentum", {"memory": "reversible"}),
    "dense": ("dense", {}),
    "rk4, shared": ("rk4", {"sharing": "all"}),
    "poly, convolutions shared": ("poly(2)", {"sharing": "convolutions"}),
    "backward_euler": ("backward_euler(8, 1e-3)", {}),
    "reversible": ("reversible", {"boundary": "step"}),
    "hamiltonian": ("hamiltonian", {"branch": Symmetric}),
    "stochastic_depth": ("stochastic_depth(lm, rescale='evaluation')", {}),
}
