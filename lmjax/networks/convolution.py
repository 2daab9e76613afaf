"""The two-dimensional convolution of the networks, whose gradient suits the device.

On an accelerator this is `jax.lax.conv_general_dilated` and its own gradient, the forms that XLA recognizes there. On
a CPU, XLA is fast only for convolutions NHWC x HWIO -> NHWC. JAX's gradients have other orders of dimensions, which
inside of a loop are an order of magnitude slower, and which outside of one are brought about by transpositions that
XLA fuses with whatever computes the features, into loops with long strides through memory. So for a CPU both gradients
are written out as convolutions of the fast kind here, and nothing outside of this file has to know.

The convolution is bilinear, and is told to JAX as that: forward mode, reverse mode and their combinations all work.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

_NHWC = ("NHWC", "HWIO", "NHWC")

# This primitive and its parameters have the names of JAX's own, so that code that reads jaxprs, such as
# `networks.forward_macs`, understands both.
_convolution = jax.extend.core.Primitive("conv_general_dilated")
_transposition = jax.extend.core.Primitive("transpose_apart")


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, *, dimension_numbers: Any = _NHWC,
    precision: Any = None, **options: Any,
) -> jax.Array:  # fmt: skip
    """`jax.lax.conv_general_dilated`, for `nnx.Conv(..., conv_general_dilated=convolve)`: the same result.

    What is neither dilated nor grouped has the gradients of this file.

    Args:
        x, kernel: of one dtype; [N, H, W, C] and [h, w, C, D] unless dimension_numbers say otherwise.
        strides, padding, dimension_numbers, precision: as of `jax.lax.conv_general_dilated`.
        options: its other keywords.
    """
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
    given = {"window_strides": tuple(strides), "dimension_numbers": numbers, "precision": precision}
    plain = all(value in (None, 1, (1,) * (x.ndim - 2)) for value in options.values()) and x.dtype == kernel.dtype
    plain = plain and 0 not in (*x.shape, *kernel.shape) and not _explicitly_divided(x)
    if plain and x.ndim == 4 and numbers == lax.conv_dimension_numbers(x.shape, kernel.shape, _NHWC):
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        reach = zip(x.shape[1:3], kernel.shape[:2], padding, strict=True)
        if all(size + low + high >= width for size, width, (low, high) in reach):  # the kernel fits the padded image
            return _convolution.bind(x, kernel, padding=tuple(map(tuple, padding)), **given)
    return lax.conv_general_dilated(x, kernel, padding=padding, **given, **options)


def _explicitly_divided(x):
    """True if the type of an array says how it is divided over devices, which the functions here would not pass on."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    return sharding is not None and AxisType.Explicit in sharding.mesh.axis_types


def _shape(x, kernel, **parameters):
    return jax.core.ShapedArray(
        jax.eval_shape(functools.partial(lax.conv_general_dilated, **parameters), x, kernel).shape, x.dtype
    )


def _batched(arguments, axes, **parameters):
    # JAX's own batching rule (a grouped convolution if the kernels differ, as between seeds) and JAX's own gradients.
    return jax.vmap(functools.partial(lax.conv_general_dilated, **parameters), in_axes=axes)(*arguments), 0


def _axes(g, shape, sizes, parameters):
    """For each spatial axis the padding before, the stride, and the lengths of kernel, input and output."""
    before = [low for low, _ in parameters["padding"]]
    return zip(before, parameters["window_strides"], sizes, shape[1:3], g.shape[1:3], strict=True)


def _input_gradient(g, x, kernel, **parameters):
    shape = x.aval  # x is the operand to transpose for, of which only the shape is known

    def cpu(g, kernel):
        turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        padding = []
        for before, stride, size, old, new in _axes(g, shape.shape, kernel.shape[:2], parameters):
            low = size - 1 - before
            padding.append((low, old + size - 1 - low - ((new - 1) * stride + 1)))
        return lax.conv_general_dilated(
            g, turned, (1, 1), padding, lhs_dilation=parameters["window_strides"], dimension_numbers=_NHWC,
            precision=parameters["precision"],
        )  # fmt: skip

    def elsewhere(g, kernel):
        return jax.linear_transpose(lambda x: lax.conv_general_dilated(x, kernel, **parameters), shape)(g)[0]

    return lax.platform_dependent(g, kernel, cpu=cpu, default=elsewhere)


def _kernel_gradient(g, x, kernel, **parameters):
    shape = kernel.aval

    def cpu(g, x):
        # sum_n x[n, i + h s, j + w s, c] g[n, h, w, d]: a convolution with kernel g, in which the channels of x are the
        # batch, and the images are the features that are summed over.
        axes = _axes(g, x.shape, shape.shape[:2], parameters)
        padding = [(before, (new - 1) * stride + size - old - before) for before, stride, size, old, new in axes]
        gradient = lax.conv_general_dilated(
            _transposed(x, (3, 1, 2, 0)), _transposed(g, (1, 2, 0, 3)), (1, 1), padding,
            rhs_dilation=parameters["window_strides"], dimension_numbers=_NHWC, precision=parameters["precision"],
        )  # fmt: skip
        return gradient.transpose(1, 2, 0, 3)

    def elsewhere(g, x):
        return jax.linear_transpose(lambda kernel: lax.conv_general_dilated(x, kernel, **parameters), shape)(g)[0]

    return lax.platform_dependent(g, x, cpu=cpu, default=elsewhere)


def _transpose(x, order):
    return x.transpose(order)


def _transpose_apart(x, order):
    # A condition that the compiler cannot decide, or it would remove the conditional. It is false only if the first
    # element is NaN, when the gradient is lost anyway; the other side has the right shape and costs nothing.
    first = x[(0,) * x.ndim]
    return lax.cond(first == first, lambda x: x.transpose(order), lambda x: x.reshape([x.shape[i] for i in order]), x)


def _lower_transposition(context, x, *, order):
    # Not on several devices: shardings do not propagate through a conditional, and the communication that follows would
    # cost more than the slow loops.
    devices = getattr(context.module_context.axis_context, "num_devices", None)
    return mlir.lower_fun(_transpose_apart if devices == 1 else _transpose, multiple_results=False)(
        context, x, order=order
    )


def _transposed(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    """x.transpose(order) as a step of its own, several times faster than fused with what computes x.

    XLA on a CPU fuses across everything but a conditional (an optimization barrier is removed before fusion).
    """
    return _transposition.bind(x, order=order)


_convolution.def_impl(
    jax.jit(lax.conv_general_dilated, static_argnames=("window_strides", "padding", "dimension_numbers", "precision"))
)
_convolution.def_abstract_eval(_shape)
ad.defbilinear(_convolution, _input_gradient, _kernel_gradient)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(lax.conv_general_dilated, multiple_results=False))

_transposition.def_impl(jax.jit(_transpose, static_argnames="order"))
_transposition.def_abstract_eval(lambda x, *, order: jax.core.ShapedArray([x.shape[i] for i in order], x.dtype))
ad.deflinear2(_transposition, lambda g, x, *, order: [g.transpose([order.index(i) for i in range(len(order))])])
batching.primitive_batchers[_transposition] = lambda arguments, axes, *, order: (
    jax.vmap(functools.partial(_transpose, order=order), axes)(*arguments),
    0,
)
mlir.register_lowering(_transposition, _lower_transposition)
