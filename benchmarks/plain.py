"""A ResNet written with the layers of Flax NNX alone, as most people would: the peer of the compiled programs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lmjax.devices import data_mesh, replicated
from lmjax.estimate import Summary, Target
from lmjax.estimate.summary import summarize


class Convolution(nnx.Module):
    """A convolution, batch normalization, and ReLU where desired."""

    def __init__(self, cin: int, cout: int, size: int, *, stride: int = 1, relu: bool = True, rngs: nnx.Rngs):
        how = {"use_bias": False, "dtype": jnp.bfloat16, "rngs": rngs}
        self.conv = nnx.Conv(cin, cout, (size, size), strides=stride, **how)
        self.norm = nnx.BatchNorm(cout, momentum=0.9, dtype=jnp.bfloat16, rngs=rngs)
        self.relu = relu

    def __call__(self, x):
        x = self.norm(self.conv(x))
        return nnx.relu(x) if self.relu else x


class Block(nnx.Module):
    """A post-activated residual block, basic or with a bottleneck (He et al. 2015)."""

    def __init__(self, cin: int, width: int, *, stride: int, bottleneck: bool, rngs: nnx.Rngs):
        cout = 4 * width if bottleneck else width
        shapes = (
            [(cin, width, 1), (width, width, 3), (width, cout, 1)]
            if bottleneck
            else [(cin, width, 3), (width, width, 3)]
        )
        strided = 1 if bottleneck else 0
        self.layers = nnx.List(
            Convolution(*shape, stride=stride if i == strided else 1, relu=shape is not shapes[-1], rngs=rngs)
            for i, shape in enumerate(shapes)
        )
        same = stride == 1 and cin == cout
        self.shortcut = None if same else Convolution(cin, cout, 1, stride=stride, relu=False, rngs=rngs)

    def __call__(self, x):
        y = x
        for layer in self.layers:
            y = layer(y)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """A ResNet for photographs (a stem that halves twice, and bottlenecks) or for CIFAR.

    Args:
        depths: blocks in each stage.
        width: channels of the first stage.
        classes: labels.
        photographs: for photographs, else for CIFAR.
    """

    def __init__(self, depths: Sequence[int], width: int, classes: int, *, photographs: bool, rngs: nnx.Rngs):
        size, stride = (7, 2) if photographs else (3, 1)
        self.stem = Convolution(3, width, size, stride=stride, rngs=rngs)
        self.photographs, channels, blocks = photographs, width, []
        for i, depth in enumerate(depths):
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(Block(channels, width * 2**i, stride=stride, bottleneck=photographs, rngs=rngs))
                channels = width * 2**i * (4 if photographs else 1)
        self.blocks, self.head = nnx.List(blocks), nnx.Linear(channels, classes, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME") if self.photographs else x
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def summary_of_step(model: ResNet, where: Target, batch: int, size: int) -> Summary:
    """The step of a network on one device of a target: SGD with momentum and weight decay on a given batch.

    It is compiled with XLA's own options. The arrays of the network may be shapes.
    """
    graph, variables, statistics = nnx.split(model, nnx.Param, ...)
    variables, statistics = nnx.to_pure_dict(variables), nnx.to_pure_dict(statistics)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))

    def step(variables, statistics, moments, images, labels):
        def loss(variables):
            model = nnx.merge(graph, variables, statistics)
            logits = model(images).astype(jnp.float32)
            value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return value, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

        (value, after), gradients = jax.value_and_grad(loss, has_aux=True)(variables)
        updates, moments = optimizer.update(gradients, moments, variables)
        return optax.apply_updates(variables, updates), after, moments, value

    place = replicated(data_mesh(where.devices[:1]))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    given = (
        variables,
        statistics,
        jax.eval_shape(optimizer.init, variables),
        images,
        jax.ShapeDtypeStruct((batch,), int),
    )
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), given)
    program = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*given).compile()
    return summarize(program, batch=batch, steps=1, bfloat16=True, size=(size, size))
