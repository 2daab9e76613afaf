"""The attacks against closed forms, on losses that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.analysis import attacks
from lmjax.data import normalize

RADIUS = 8 / 255


def linear_loss(weights):
    """Of a classifier of two classes with the margin y (w x + 0.1), y = ±1: log(1 + exp(-margin))."""

    def loss(images, labels):
        margin = (2 * labels - 1) * (images.reshape(len(images), -1) @ weights + 0.1)
        return jnp.logaddexp(0.0, -margin)

    return loss


def pgd(loss, images, labels, key, radius, step, steps):
    """From a random start."""
    return attacks.pgd(loss, images, labels, attacks.uniform_noise(key, images, radius), radius, step, steps)


@pytest.fixture
def batch():
    """Images away from 0 and 1, so that the range does not bind within the radius; their labels; weights."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (6, 4, 4, 3)).astype(np.float32)
    return images, rng.integers(0, 2, 6), rng.normal(size=48).astype(np.float32)


@pytest.mark.versions
def test_fgsm_is_optimal_for_a_linear_classifier(batch):
    images, labels, weights = batch
    attacked = attacks.fgsm(linear_loss(weights), images, labels, RADIUS)
    best = images - RADIUS * (2 * labels - 1)[:, None, None, None] * np.sign(weights).reshape(1, 4, 4, 3)
    np.testing.assert_allclose(attacked, best, atol=1e-7)
    # Its margin falls by radius |w|_1, and that of no image within the radius by more (Hölder).
    fall = (2 * labels - 1) * ((images - attacked).reshape(6, -1) @ weights)
    np.testing.assert_allclose(fall, RADIUS * np.abs(weights).sum(), rtol=1e-4)


@pytest.mark.versions
def test_pgd_reaches_the_optimum_of_a_linear_classifier(batch):
    images, labels, weights = batch
    loss = linear_loss(weights)
    # From anywhere in the ball its other side is 2 radii away: eight steps of a quarter of the radius.
    attacked = pgd(loss, images, labels, jax.random.key(1), RADIUS, RADIUS / 4, 8)
    np.testing.assert_allclose(attacked, attacks.fgsm(loss, images, labels, RADIUS), atol=1e-6)
    short = pgd(loss, images, labels, jax.random.key(1), RADIUS, RADIUS / 4, 3)
    assert np.abs(short - attacked).max() > RADIUS / 4


def wavy(images, labels):
    """A loss with many maxima within the radius."""
    return jnp.sin(97 * images.reshape(len(images), -1)).sum(-1) + labels


@pytest.mark.parametrize("radius", [1 / 255, 2.0])
def test_nothing_leaves_the_ball_or_the_range(radius):
    images = jax.random.uniform(jax.random.key(2), (5, 7, 3)).round(1)  # with exact zeros and ones
    labels = jnp.zeros(5)
    key = jax.random.key(3)
    for attacked in (
        attacks.fgsm(wavy, images, labels, radius),
        pgd(wavy, images, labels, key, radius, radius, 5),
        attacks.pgd(wavy, images, labels, images, radius, 3 * radius, 5),
        attacks.uniform_noise(key, images, radius),
    ):
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert np.abs(np.float64(attacked) - np.float64(images)).max() <= radius + 1e-7
    noisy = attacks.gaussian_noise(key, images, radius)
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_projection_is_the_nearest_point():
    images, x = np.float32([0.02, 0.5, 0.97]), np.float32([-0.5, 0.52, 1.5])
    np.testing.assert_allclose(attacks.project(x, images, 0.05), [0.0, 0.52, 1.0], atol=1e-7)
    np.testing.assert_allclose(attacks.project(x, images, 0.01), [0.01, 0.51, 0.98], atol=1e-7)


def test_noise_has_its_distribution():
    images = jnp.full((100, 100), 0.5)
    normal = attacks.gaussian_noise(jax.random.key(0), images, 0.05) - 0.5
    assert float(normal.mean()) == pytest.approx(0, abs=4 * 0.05 / 100)
    assert float(normal.std()) == pytest.approx(0.05, rel=0.03)
    uniform = attacks.uniform_noise(jax.random.key(0), images, 0.1) - 0.5
    assert float(uniform.std()) == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert float(uniform.max()) > 0.099
    assert float(uniform.min()) < -0.099


def test_attack_that_goes_on_is_the_longer_attack():
    images, labels = jax.random.uniform(jax.random.key(2), (5, 7)), jnp.zeros(5)
    start = attacks.uniform_noise(jax.random.key(1), images, 0.1)
    whole = attacks.pgd(wavy, images, labels, start, 0.1, 0.01, 20)
    half = attacks.pgd(wavy, images, labels, start, 0.1, 0.01, 10)
    np.testing.assert_array_equal(attacks.pgd(wavy, images, labels, half, 0.1, 0.01, 10), whole)
    assert np.abs(start - attacks.uniform_noise(jax.random.key(2), images, 0.1)).max() > 1e-3


@pytest.mark.versions
def test_radius_and_step_are_arguments_of_one_compiled_program(batch):
    images, labels, weights = batch
    traces = 0

    @jax.jit
    def attack(images, labels, radius, step):
        nonlocal traces
        traces += 1
        return pgd(linear_loss(weights), images, labels, jax.random.key(0), radius, step, 5)

    near, far = (attack(images, labels, r, r / 4) for r in (0.01, 0.05))
    assert traces == 1
    assert np.abs(near - images).max() <= 0.01 + 1e-7 < np.abs(far - images).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_comes_through_the_normalization(dtype):
    """A network that computes in bfloat16 is attacked in float32: the perturbation is finer than the images' own."""
    pixels = np.random.default_rng(0).integers(30, 220, (4, 5, 5, 3)).astype(np.uint8)
    weights = jax.random.normal(jax.random.key(0), (75, 10))
    mean, std = jnp.array([120.0, 115.0, 110.0]), jnp.array([60.0, 61.0, 62.0])
    labels = jnp.arange(4)

    def loss(images, labels):
        x = normalize(255 * images, mean, std, dtype).reshape(len(images), -1)
        logits = (x @ weights.astype(dtype)).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    images = pixels.astype(np.float32) / 255
    gradient = attacks.input_gradient(loss, images, labels)
    assert gradient.dtype == jnp.float32
    assert np.all(np.abs(gradient).reshape(4, -1).max(-1) > 0)
    before = loss(images, labels)
    single = loss(attacks.fgsm(loss, images, labels, RADIUS), labels)
    iterated = pgd(loss, images, labels, jax.random.key(0), RADIUS, RADIUS / 4, 10)
    assert iterated.dtype == jnp.float32
    assert np.all(single > before)
    assert np.all(loss(iterated, labels) > before)
