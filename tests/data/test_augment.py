"""What runs on the device: order, crops, flips, normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data import crop_and_flip, epoch_order, normalise

pytestmark = pytest.mark.versions
IMAGES = np.random.default_rng(0).integers(1, 256, (20, 7, 9, 3), np.uint8)


def candidates(image, pad, padding, flip):
    """Every outcome that there may be for an image: pad, crop, mirror, in NumPy."""
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
    crops = [padded[i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    return crops + [crop[:, ::-1] for crop in crops] if flip else crops


@pytest.mark.parametrize(("pad", "padding"), [(2, "zero"), (2, "reflect"), (0, "zero"), (4, "zero")])
@pytest.mark.parametrize("flip", [True, False])
def test_every_outcome_is_a_crop_and_all_occur(pad, padding, flip):
    index = jnp.arange(4000) % 2
    out = np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(IMAGES), index, pad=pad, padding=padding, flip=flip))
    assert out.dtype == np.uint8
    seen = set()
    for i in range(2):
        possible = {crop.tobytes(): n for n, crop in enumerate(candidates(IMAGES[i], pad, padding, flip))}
        found = [possible[x.tobytes()] for x in out[i::2]]  # a KeyError: not a crop of that image at all
        seen |= set(found)
    assert len(seen) == len(possible)


def test_decisions_are_uniform_and_independent():
    ramp = jnp.broadcast_to(jnp.arange(100, 109, dtype=jnp.uint8)[None, None, :, None], (1, 9, 9, 1))
    out = np.asarray(crop_and_flip(jax.random.key(0), ramp, jnp.zeros(9000, int), pad=1, flip=True))[:, 4, :, 0]
    flipped = out[:, 4] > out[:, 5]
    shifts = np.where(flipped, 104 - out[:, 4].astype(int), out[:, 4].astype(int) - 104)
    assert flipped.mean() == pytest.approx(0.5, abs=0.02)
    for shift in (-1, 0, 1):
        assert (shifts == shift).mean() == pytest.approx(1 / 3, abs=0.02)
        assert ((shifts == shift) & flipped).mean() == pytest.approx(1 / 6, abs=0.02)


def test_no_augmentation_leaves_the_images_alone():
    index = jnp.array([3, 1, 1])
    out = crop_and_flip(jax.random.key(0), jnp.asarray(IMAGES), index, pad=0, flip=False)
    np.testing.assert_array_equal(out, IMAGES[np.asarray(index)])


def test_draws_follow_from_the_key():
    draw = [crop_and_flip(jax.random.key(s), jnp.asarray(IMAGES), jnp.arange(20), pad=2) for s in (0, 0, 1)]
    assert (draw[0] == draw[1]).all()
    assert not (draw[0] == draw[2]).all()


def test_order_is_a_permutation_a_function_of_key_and_epoch():
    key = jax.random.key(7)
    first, again, second = (np.asarray(epoch_order(key, epoch, 103, 10)) for epoch in (0, 0, 1))
    assert first.shape == (10, 10)
    assert len(np.unique(first)) == 100
    assert (first == again).all()
    assert not (first == second).all()
    left_out = [set(range(103)) - set(np.asarray(epoch_order(key, e, 103, 10)).ravel().tolist()) for e in range(5)]
    assert len(set(map(frozenset, left_out))) > 1


def test_normalise():
    out = normalise(jnp.asarray(IMAGES), jnp.float32([10, 20, 30]), jnp.float32([1, 2, 4]))
    np.testing.assert_allclose(out, (IMAGES.astype(float) - [10, 20, 30]) / [1, 2, 4], rtol=1e-6)
    assert normalise(jnp.asarray(IMAGES), jnp.zeros(3), jnp.ones(3), jnp.bfloat16).dtype == jnp.bfloat16
