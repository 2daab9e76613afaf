"""Perturbations of images, as pure functions of any differentiable loss: noise, FGSM and PGD in the maximum norm.

Images are floating-point [N, ...] from 0 to 1, so that a radius of 8/255 is eight gray levels. Whatever is returned is
in that range and, but for Gaussian noise, within the radius of the image that it came from, up to the rounding of one
addition. It is not rounded to whole gray levels.

A loss is `loss(images, labels) -> [N]`, one number an image that depends on that image alone, as the cross-entropy of
a network in evaluation does. Radii, steps and noise levels may be traced arrays: one compiled program does for all of
them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def input_gradient(loss: Loss, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of each image's loss by the image: [N, ...], as the images."""
    return jax.grad(lambda x: jnp.sum(loss(x, labels)))(images)


def project(perturbed: jax.Array, images: jax.Array, radius: float | jax.Array) -> jax.Array:
    """The nearest point of the ball |x - image| <= radius (in every number) that is an image, too."""
    return jnp.clip(perturbed, jnp.maximum(images - radius, 0), jnp.minimum(images + radius, 1))


def gaussian_noise(key: jax.Array, images: jax.Array, sigma: float | jax.Array) -> jax.Array:
    """images + N(0, sigma^2), independent for every number, cut off to the range of an image."""
    return jnp.clip(images + sigma * jax.random.normal(key, images.shape, images.dtype), 0, 1)


def uniform_noise(key: jax.Array, images: jax.Array, radius: float | jax.Array) -> jax.Array:
    """images + U(-radius, radius), cut off to the range of an image: where PGD starts."""
    return project(images + radius * jax.random.uniform(key, images.shape, images.dtype, -1.0, 1.0), images, radius)


def fgsm(loss: Loss, images: jax.Array, labels: jax.Array, radius: float | jax.Array) -> jax.Array:
    """x + radius sign(dL/dx): the fast gradient sign method (Goodfellow, Shlens and Szegedy 2015).

    The largest loss within the radius for a loss that is linear in the image, so exact for the margin of a linear
    classifier of two classes. Where the gradient is zero the image stays as it is.
    """
    return pgd(loss, images, labels, images, radius, radius, 1)


def pgd(
    loss: Loss, images: jax.Array, labels: jax.Array, start: jax.Array, radius: float | jax.Array,
    step: float | jax.Array, steps: int,
) -> jax.Array:  # fmt: skip
    """x <- P(x + step sign(dL/dx)), P the projection to the ball: projected gradient ascent (Madry et al. 2018).

    Args:
        loss, images, labels: see the module.
        start: the first iterate: `uniform_noise`, the images themselves, or what another call has come to, which then
            goes on as if it had not been interrupted.
        radius, step: of the ball, and of every number in a step, in the maximum norm.
        steps: how many.

    Returns:
        The last iterate, as the images, whether or not an earlier one had a larger loss.
    """

    def ascend(_, x):
        return project(x + step * jnp.sign(input_gradient(loss, x, labels)), images, radius)

    return lax.fori_loop(0, steps, ascend, start)
