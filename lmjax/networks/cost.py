"""The cost of a network, from its traced program: nothing is allocated or run."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.networks.stage import Stage
from lmjax.steppers import StepInfo

_CONVOLUTION = "conv_general_dilated"


def forward_macs(network: nnx.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulate operations of the convolutions and matrix products, of one image in evaluation.

    Args:
        network: may be abstract, from `nnx.eval_shape`.
        shape: height, width and channels of the image.
    """
    total = 0
    for equation, times in _forward(network, shape):
        size = times * math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == _CONVOLUTION:
            kernel = equation.invars[1].aval.shape
            output = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += size * (math.prod(kernel) // output)  # per output element: h x w x input channels of its group
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    return total


def convolutions(network: nnx.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Count the convolutions in the evaluation of one image, and the elements of all their outputs.

    On an accelerator a small network is limited not by multiplications, but by kernel launches, a few for each
    convolution, and by memory traffic.

    Args:
        network: may be abstract, from `nnx.eval_shape`.
        shape: height, width and channels of the image.

    Returns:
        (convolutions, elements written).
    """
    found = [(x, times) for x, times in _forward(network, shape) if x.primitive.name == _CONVOLUTION]
    written = sum(times * math.prod(equation.outvars[0].aval.shape) for equation, times in found)
    return sum(times for _, times in found), written


def plain_traffic(network: Any, shape: tuple[int, int, int]) -> int | None:
    """Count the array elements that a training step reads and writes for one image, in the plain form of its blocks.

    In the plain form each of these is one kernel: a convolution, each of its two gradients, the statistics of its
    output, and the normalization with activation before it. With I elements in and O out, a convolution moves I + O
    forward and 2 (I + O) backward, the statistics O, the normalization 2 I forward and 2 I + 3 I backward (two sums,
    then the gradient): 10 I + 4 O in all. Adding the shortcut moves 3 more for each element of the state, and every
    remembered state 2, or 3 if its coefficient is learned. Stems, heads, shortcuts and parameters are left out.

    Args:
        network: may be abstract, from `nnx.eval_shape`.
        shape: height, width and channels of the image.

    Returns:
        The count; None for a network that is not made of steps, has a stage that is nothing but its `Entry`, or has
        other products in its blocks than convolutions.
    """
    if not all(isinstance(stage, Stage) and stage.steps.depth for stage in getattr(network, "stages", ((),))):
        return None
    network = nnx.clone(network)
    network.eval()
    states = []

    def visit(stage, u, history, info):
        u, history = stage(u, history, info)
        states.append(jax.ShapeDtypeStruct(u.shape, u.dtype))
        return u, history

    graph, variables = nnx.split(network)

    def features(variables, images):
        merged: Any = nnx.merge(graph, variables)
        return merged.features(images, visit=visit)

    jax.eval_shape(features, nnx.to_pure_dict(variables), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    counts = [count for count in map(_of_stage, network.stages, states) if count is not None]
    return sum(counts) if len(counts) == len(states) else None


def _of_stage(stage: Stage, u: jax.ShapeDtypeStruct) -> int | None:
    graph, variables = nnx.split(stage.steps.item)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), nnx.to_pure_dict(variables))

    def block(variables, u):
        state = stage.split(u)
        info = StepInfo(None, 0, stage.depth) if stage.stepper.informed else None
        return nnx.merge(graph, variables)(state, stage.stepper.init(state), info)

    moved = 3 * u.size
    for equation, times in _operations(jax.make_jaxpr(block)(one, u).jaxpr, 1):
        if equation.primitive.name == "dot_general":
            return None
        if equation.primitive.name == _CONVOLUTION:
            read, written = (math.prod(x.aval.shape) for x in (equation.invars[0], equation.outvars[0]))
            moved += times * (10 * read + 4 * written)
    history = jax.tree.leaves(jax.eval_shape(stage.stepper.init, u)) if stage.stepper.parts == 1 else []
    remembered = (2 if stage.stepper.coef is None else 3) * sum(x.size for x in history)
    return stage.depth * moved + stage.steps.depth * remembered


def _forward(network: nnx.Module, shape: tuple[int, int, int]) -> Iterator[tuple[Any, int]]:
    """The operations of one image in evaluation, each with how often it is done."""
    network = nnx.clone(network)
    network.eval()
    graph, state = nnx.split(network)
    program = jax.make_jaxpr(lambda state, images: nnx.merge(graph, state)(images))(
        nnx.to_pure_dict(state), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    return _operations(program.jaxpr, 1)


def _operations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    for equation in jaxpr.eqns:
        inner = [x for x in map(_inner, equation.params.values()) if x is not None]
        for program in inner:
            yield from _operations(program, times * equation.params.get("length", 1))  # of a scan
        if not inner:
            yield equation, times


def _inner(parameter: Any) -> Any:
    """The program in a parameter of an equation, if it is one."""
    parameter = getattr(parameter, "jaxpr", parameter)
    return parameter if hasattr(parameter, "eqns") else None


def branch_evaluations(network: nnx.Module) -> int | None:
    """The number of residual branches that one forward pass evaluates; None for a network that is not made of steps.

    An iteration to a tolerance counts as one evaluation and the final one.
    """
    stages = [stage for stage in getattr(network, "stages", ()) if isinstance(stage, Stage)]
    if not stages:
        return None
    return sum(
        (0 if stage.entry is None else len(stage.entry.branches))
        + stage.steps.depth * stage.stepper.evaluations * stage.stepper.repeats
        for stage in stages
    )
