"""The cost of a network, from its traced program: nothing is allocated or run."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.networks.stage import Stage

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
            total += size * (math.prod(kernel) // output)  # of one output number: size x size x channels of its group
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    return total


def convolutions(network: nnx.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """The number of convolutions of one image in evaluation, and of the numbers that these write.

    What bounds a small network on an accelerator is not the multiplications, but starting programs, some for each
    convolution, and moving feature maps.

    Args:
        network: may be abstract, from `nnx.eval_shape`.
        shape: height, width and channels of the image.
    """
    found = [(x, times) for x, times in _forward(network, shape) if x.primitive.name == _CONVOLUTION]
    written = sum(times * math.prod(equation.outvars[0].aval.shape) for equation, times in found)
    return sum(times for _, times in found), written


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
