"""The convolution whose gradients are written out for a CPU, against JAX's own."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.networks.convolution import convolve

ours = convolve
jaxs = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))

# shapes of images and kernel, stride, padding
CASES = [
    ((4, 8, 8, 3), (3, 3, 3, 5), 1, 1),
    ((4, 8, 8, 3), (3, 3, 3, 5), 2, 1),
    ((4, 9, 9, 3), (3, 3, 3, 5), 2, 1),
    ((4, 8, 8, 3), (1, 1, 3, 5), 2, 0),
    ((4, 7, 7, 4), (2, 2, 4, 2), 1, 0),
    ((4, 9, 9, 2), (2, 2, 2, 3), 3, 0),
    ((4, 6, 6, 2), (3, 3, 2, 3), 1, "SAME"),
    ((4, 6, 6, 2), (3, 3, 2, 3), 1, "VALID"),
    ((2, 3, 3, 3), (5, 5, 3, 4), 1, "VALID"),  # a kernel larger than the image
    ((0, 7, 6, 3), (3, 3, 3, 4), 1, "SAME"),  # no images
    ((2, 0, 6, 3), (3, 3, 3, 4), 1, "SAME"),  # no pixels
    ((2, 7, 6, 3), (3, 3, 3, 4), 2, ((-4, -3), (0, 0))),  # all cut off
    ((2, 7, 6, 3), (3, 3, 3, 4), 1, ((-1, 2), (0, -1))),  # some cut off
]


def given(case):
    x, kernel, stride, padding = case
    keys = jax.random.split(jax.random.key(0))
    arrays = jax.random.normal(keys[0], x), jax.random.normal(keys[1], kernel)
    return *arrays, (stride, stride), [(padding, padding)] * 2 if isinstance(padding, int) else padding


def cubed(convolution, strides, padding):
    """A function of both arguments with derivatives of every order."""
    return lambda x, kernel: jnp.sum(convolution(x, kernel, strides, padding) ** 3)


@pytest.mark.versions
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradients(case):
    x, kernel, strides, padding = given(case)
    found, expected = (jax.jit(jax.value_and_grad(cubed(c, strides, padding), (0, 1)))(x, kernel) for c in (ours, jaxs))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.versions
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_every_transformation(case):
    """Forward mode, second derivatives both ways, vmap over either argument and over both, rematerialisation."""
    x, kernel, strides, padding = given(case)

    def transformed(convolution, x, kernel):
        two = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])
        f = cubed(convolution, strides, padding)
        gradient = jax.grad(f, (0, 1))
        return {
            "jvp": jax.jvp(f, (x, kernel), (x, kernel))[1],
            "forward over reverse": jax.jvp(gradient, (x, kernel), (x, kernel))[1],
            "reverse over reverse": jax.grad(lambda k: jnp.sum(gradient(x, k)[1] ** 2))(kernel),
            "vmap x": jax.vmap(gradient, (0, None))(two[0], kernel),
            "vmap kernel": jax.vmap(gradient, (None, 0))(x, two[1]),
            "vmap": jax.vmap(gradient)(*two),
            "checkpoint": jax.grad(jax.checkpoint(f), 1)(x, kernel),
        }

    # As arguments: of constants, XLA of jaxlib 0.7.2 folds the derivatives of JAX's own convolution to wrong numbers.
    found, expected = (jax.jit(transformed, static_argnums=0)(c, x, kernel) for c in (ours, jaxs))
    for name in expected:
        scale = max(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(expected[name]))
        chex.assert_trees_all_close(found[name], expected[name], atol=1e-5 * scale)


def test_grouped_dilated_and_other_orders_are_jaxs_own():
    x, kernel, strides, _ = given(((4, 8, 8, 4), (3, 3, 4, 6), 1, 1))
    for options in ({"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 2)}, {"preferred_element_type": jnp.float32}):
        program = str(jax.make_jaxpr(lambda a, b, o=options: ours(a, b, strides, [(1, 1)] * 2, **o))(x, kernel))
        assert "rhs_dilation" in program, "JAX's own has it among its parameters, ours does not"
    chex.assert_trees_all_close(
        ours(x, kernel[:, :, :2], strides, "SAME", feature_group_count=2),
        jaxs(x, kernel[:, :, :2], strides, "SAME", feature_group_count=2),
    )
    channels_first = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    numbers = ("NCHW", "OIHW", "NCHW")
    chex.assert_trees_all_close(
        ours(*channels_first, strides, "SAME", dimension_numbers=numbers).transpose(0, 2, 3, 1),
        jaxs(x, kernel, strides, "SAME"),
        atol=1e-5,
    )


def backward_convolutions(platform, convolution=ours):
    """The orders of the dimensions in the convolutions of a gradient, from the program for a platform."""
    x, kernel, strides, padding = given(CASES[1])
    gradient = jax.jit(jax.grad(cubed(convolution, strides, padding), (0, 1)))
    program = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    return sorted(
        line.split("dim_numbers = ")[1].split(", window")[0]
        for line in program.splitlines()
        if "stablehlo.convolution" in line
    )


@pytest.mark.versions
def test_a_cpu_gets_one_order_of_dimensions_and_accelerators_get_jaxs_own_gradients():
    assert set(backward_convolutions("cpu")) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    for platform in ("cuda", "tpu"):
        assert backward_convolutions(platform) == backward_convolutions(platform, jaxs)
        assert len(set(backward_convolutions(platform))) == 3


def test_in_a_loop_no_convolution_leaves_the_fast_order():
    """Else XLA:CPU runs it as a plain loop nest, dozens of times slower; see the compiled program."""
    x, kernel, strides, padding = given(((4, 8, 8, 4), (3, 3, 4, 4), 1, 1))

    def chain(kernels):
        return jnp.sum(lax.scan(lambda u, k: (jnp.tanh(ours(u, k, strides, padding)), None), x, kernels)[0])

    program = jax.jit(jax.grad(chain)).lower(jnp.stack([kernel] * 3)).compile().as_text()
    lines = [line for line in program.splitlines() if " convolution(" in line]
    assert len(lines) == 3
    assert all("dim_labels=b01f_01io->b01f" in line and "reversal" not in line for line in lines)


def test_sharded_over_eight_devices():
    x, kernel, strides, padding = given(CASES[1])
    x = jnp.concatenate([x, 2 * x])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    f = jax.grad(cubed(ours, strides, padding), (0, 1))
    arguments = jax.device_put(x, split), jax.device_put(kernel, everywhere)
    program = jax.jit(f, out_shardings=(split, everywhere)).lower(*arguments).compile()
    found = program(*arguments)
    messages = re.findall(r" (all-\w+|collective-\w+|reduce-scatter|conditional)(?:-start)?\(", program.as_text())
    assert messages == ["all-reduce"], "of the kernel's gradient"
    expected = jax.grad(cubed(jaxs, strides, padding), (0, 1))(x, kernel)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-2)


def test_values_that_are_not_numbers_stay_so():
    x, kernel, strides, padding = given(CASES[0])
    gradient = jax.jit(jax.grad(cubed(ours, strides, padding), 1))
    assert np.isnan(gradient(x.at[0, 0, 0, 0].set(jnp.nan), kernel)).any()


@pytest.mark.versions
def test_explicit_sharding_is_passed_on():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    x, kernel, strides, padding = given(CASES[0])
    x = jax.device_put(x, NamedSharding(mesh, P("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, P()))
    found = jax.jit(jax.grad(cubed(ours, strides, padding), 0))(x, kernel)
    assert found.sharding.spec[0] == "data"
