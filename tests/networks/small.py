"""Small networks for the tests of this folder, and what they compute, each by one compiled program."""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import networks

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def small(stepper=None, name="resnet14", **options):
    """A quarter of the network of that name; (the sizes of a vit and a convnext are in their names)."""
    width = {} if name.startswith(("vit", "convnext")) else {"width": 0.25}
    return networks.create(name, stepper=stepper, **(width | options), rngs=nnx.Rngs(0))


def outline(stepper=None, name="resnet20", **options):
    """A network of which nothing is allocated."""
    return nnx.eval_shape(lambda: networks.create(name, stepper=stepper, rngs=nnx.Rngs(0), **options))


def parts(model):
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


def statistics_of(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def forward(model, **options):
    """(params, statistics, key=None, images=IMAGES) -> logits, new statistics."""
    graph = parts(model)[0]

    @jax.jit
    def run(params, statistics, key=None, images=IMAGES):
        model = nnx.merge(graph, params, statistics)
        return model(images, key, **options), statistics_of(model)

    return run


def logits(model, key=None):
    return forward(model)(*parts(model)[1:], key)[0]


def backward(model):
    """(params, statistics, key=None, images=IMAGES) -> loss, (logits, new statistics), gradient."""
    graph = parts(model)[0]

    def loss(params, statistics, key, images):
        model = nnx.merge(graph, params, statistics)
        logits = model(images, key)
        picked = jnp.take_along_axis(logits, jnp.arange(len(logits))[:, None] % 4, axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked), (logits, statistics_of(model))

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda params, statistics, key=None, images=IMAGES: gradient(params, statistics, key, images)


def loss_and_gradient(model, key=None, images=IMAGES):
    return backward(model)(*parts(model)[1:], key, images)


def silent(gradient, *exceptions):
    """The parameters that took no part, but for those whose names hold one of the exceptions."""
    names = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(gradient)}
    return [n for n, x in names.items() if not jnp.abs(x).max() > 0 and not any(e in n for e in exceptions)]


def scrambled(tree, low=0.0, high=0.5, seed=5):
    """Values that no initializer makes, so that nothing hides behind a 0 or a 1."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noise = [jax.random.uniform(k, x.shape, minval=low, maxval=high) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [x + n for x, n in zip(leaves, noise, strict=True)])
