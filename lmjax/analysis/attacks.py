"""Perturbations of images, as pure functions of any differentiable loss: noise, FGSM and PGD in the maximum norm.

Images are floating-point [N, ...] with values from `low` to `high`, by default 0 to 1, so that a radius of 8/255 is
eight gray levels. Whatever is returned lies in that range and, but for Gaussian noise, within the radius of the image
that it came from, up to the rounding of one addition. It is not rounded to whole gray levels.

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


def project(
    perturbed: jax.Array, images: jax.Array, radius: float | jax.Array, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """The nearest point of the ball |x - image| <= radius (in every number) that is an image, too."""
    return jnp.clip(perturbed, jnp.maximum(images - radius, low), jnp.minimum(images + radius, high))


def gaussian_noise(
    key: jax.Array, images: jax.Array, sigma: float | jax.Array, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """images + N(0, sigma^2), independent for every number, cut off to the range of an image."""
    return jnp.clip(images + sigma * jax.random.normal(key, images.shape, images.dtype), low, high)


def uniform_noise(
    key: jax.Array, images: jax.Array, radius: float | jax.Array, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """images + U(-radius, radius), cut off to the range of an image: where PGD starts."""
    noise = jax.random.uniform(key, images.shape, images.dtype, -1.0, 1.0)
    return project(images + radius * noise, images, radius, low, high)


def fgsm(
    loss: Loss, images: jax.Array, labels: jax.Array, radius: float | jax.Array, low: float = 0.0, high: float = 1.0
) -> jax.Array:
    """x + radius sign(dL/dx): the fast gradient sign method (Goodfellow, Shlens and Szegedy 2015).

    The largest loss within the radius for a loss that is linear in the image, so exact for the margin of a linear
    classifier of two classes. Where the gradient is zero the image stays as it is.

    Args:
        loss: see the module.
        images: floating-point [N, ...], from low to high.
        labels: what the loss takes, [N].
        radius: in the maximum norm.
        low, high: the range of an image.

    Returns:
        The perturbed images, as the images.
    """
    return project(images + radius * jnp.sign(input_gradient(loss, images, labels)), images, radius, low, high)


def pgd(
    loss: Loss,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    radius: float | jax.Array,
    step: float | jax.Array,
    steps: int,
    *,
    start: jax.Array | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> jax.Array:
    """x <- P(x + step sign(dL/dx)), P the projection to the ball: projected gradient ascent (Madry et al. 2018).

    It starts from uniform noise within the radius. What is returned is the last iterate, whether or not an earlier one
    had a larger loss.

    Args:
        loss: see the module.
        images: floating-point [N, ...], from low to high.
        labels: what the loss takes, [N].
        key: draws the start; not used if a start is given.
        radius: in the maximum norm.
        step: how far every number goes in a step.
        steps: how many.
        start: where to start instead: the images themselves, or the iterates that another call has come to, which then
            goes on as if it had not been interrupted.
        low, high: the range of an image.

    Returns:
        The perturbed images, as the images.
    """
    start = uniform_noise(key, images, radius, low, high) if start is None else start

    def ascend(_, x):
        return project(x + step * jnp.sign(input_gradient(loss, x, labels)), images, radius, low, high)

    return lax.fori_loop(0, steps, ascend, start)
