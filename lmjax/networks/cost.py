"""What a network costs, from its traced program: nothing is allocated or run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.networks.stage import Stage
from lmjax.steppers import StepInfo, Stepper


def forward_macs(network: nnx.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulate operations of the convolutions and matrix products, of one image in evaluation.

    Args:
        network: may be abstract, from `nnx.eval_shape`.
        shape: height, width and channels of the image.
    """
    network = nnx.clone(network)
    network.eval()
    graph, state = nnx.split(network)
    program = jax.make_jaxpr(lambda state, images: nnx.merge(graph, state)(images))(
        nnx.to_pure_dict(state), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    return _macs(program.jaxpr)


def _macs(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        size = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            output = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += size * (math.prod(kernel) // output)  # of one output number: size x size x channels of its group
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        else:
            inner = sum(_macs(x) for x in map(_inner, equation.params.values()) if x is not None)
            total += inner * equation.params.get("length", 1)  # of a scan
    return total


def _inner(parameter: Any) -> Any:
    """The program in a parameter of an equation, if it is one."""
    parameter = getattr(parameter, "jaxpr", parameter)
    return parameter if hasattr(parameter, "eqns") else None


def branch_evaluations(network: nnx.Module) -> int | None:
    """How many residual branches one forward pass evaluates; None for a network that is not made of steps.

    An iteration to a tolerance counts as one evaluation and the final one.
    """
    stages = [stage for stage in getattr(network, "stages", ()) if isinstance(stage, Stage)]
    if not stages:
        return None
    return sum(
        (0 if stage.entry is None else len(stage.entry.branches)) + stage.steps.depth * _evaluations(stage.stepper)
        for stage in stages
    )


def _evaluations(stepper: Stepper) -> int:
    calls = 0

    def count(u):
        nonlocal calls
        calls += 1
        return u

    u = jnp.zeros(()) if stepper.parts == 1 else (jnp.zeros(()),) * stepper.parts
    coef = None if stepper.coef is None else stepper.coef(jax.random.key(0), 1)

    def step(u):
        return stepper.step((count,) * stepper.stages, u, stepper.init(u), coef, StepInfo(None, 0, 1))[0]

    jax.eval_shape(step, u)
    return calls
