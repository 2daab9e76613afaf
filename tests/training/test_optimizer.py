"""The learning rate of every step, and that the optimiser and the trainer follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax import InputError
from lmjax.config import OptimizerConfig
from lmjax.training import Trainer, create_optimizer, data_mesh, learning_rate
from tests.training.test_trainer import changed

pytestmark = pytest.mark.versions


def schedule(steps_per_epoch=10, epochs=4, batch_size=128, **options):
    config = OptimizerConfig(**{"learning_rate": 1.0} | options)
    return learning_rate(config, steps_per_epoch=steps_per_epoch, epochs=epochs, batch_size=batch_size)


def rates(steps_per_epoch=10, epochs=4, **options):
    rate = schedule(steps_per_epoch, epochs, **options)
    return np.array([float(rate(step)) for step in range(steps_per_epoch * epochs)])


def cosine(steps):
    return (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


def test_steps_fall_at_their_milestones():
    np.testing.assert_allclose(rates(), [1.0] * 20 + [0.1] * 10 + [0.01] * 10, rtol=1e-6)
    np.testing.assert_allclose(rates(milestones=(0.25,), drop=0.5), [1.0] * 10 + [0.5] * 30, rtol=1e-6)
    np.testing.assert_allclose(rates(milestones=()), np.ones(40), rtol=0)


def test_drops_that_meet_in_a_short_run():
    np.testing.assert_allclose(rates(1, 2, milestones=(0.5, 0.6)), [1.0, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rates(1, 1), [1.0], rtol=0)


def test_cosine_falls_to_zero_over_the_run():
    found = rates(schedule="cosine")
    np.testing.assert_allclose(found, cosine(40), atol=1e-6)
    assert found[0] == 1
    assert found[20] == pytest.approx(0.5, abs=1e-6)
    assert 0 < found[-1] < 2e-3
    assert float(schedule(schedule="cosine")(40)) == pytest.approx(0, abs=1e-7)


def test_warmup_is_a_ramp_that_multiplies_the_schedule():
    ramp = np.minimum(1, np.arange(1, 41) / 5)
    found = rates(warmup_epochs=0.5)
    np.testing.assert_allclose(found[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found, ramp * rates(), rtol=1e-6)
    np.testing.assert_allclose(rates(warmup_epochs=0.5, schedule="cosine"), ramp * cosine(40), atol=1e-6)
    # A milestone within it takes effect, too.
    early = rates(warmup_epochs=2.0, milestones=(0.25,))
    np.testing.assert_allclose(early[[0, 9, 10, 19, 20]], [0.05, 0.5, 0.055, 0.1, 0.1], rtol=1e-5)


def test_warmup_as_long_as_the_run_and_longer():
    np.testing.assert_allclose(rates(5, 2, warmup_epochs=2.0, milestones=()), np.arange(1, 11) / 10, rtol=1e-6)
    with pytest.raises(InputError, match=r"optimizer.warmup_epochs: 2.5 is more than the run has \(train.epochs 2\)"):
        schedule(5, 2, warmup_epochs=2.5)


def test_linear_scaling_with_the_batch():
    options = {"learning_rate": 0.1, "warmup_epochs": 0.2}
    expected = rates(**options)
    np.testing.assert_allclose(rates(batch_size=1024, reference_batch_size=256, **options), 4 * expected, rtol=1e-6)
    np.testing.assert_allclose(rates(batch_size=64, reference_batch_size=256, **options), expected / 4, rtol=1e-6)
    np.testing.assert_array_equal(rates(batch_size=1024, **options), expected)


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine"}, {"schedule": "cosine", "warmup_epochs": 1.0}], ids=str)
def test_the_step_may_be_traced(options):
    traced = jax.jit(jax.vmap(schedule(**options)))(jnp.arange(40, dtype=jnp.int32))
    np.testing.assert_allclose(traced, rates(**options), rtol=1e-5, atol=1e-7)


def test_the_optimizer_follows_the_schedule():
    options = {"schedule": "cosine", "warmup_epochs": 0.5, "batch_size": 64, "reference_batch_size": 32}
    config = OptimizerConfig(learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    optimizer = create_optimizer(config, schedule(2, 4, **options))
    params = {"w": jnp.zeros(3)}
    state, gradient = optimizer.init(params), {"w": jnp.array([1.0, -2.0, 0.5])}
    for rate in rates(2, 4, **options):
        updates, state = jax.jit(optimizer.update)(gradient, state, params)
        np.testing.assert_allclose(updates["w"], -rate * gradient["w"], rtol=1e-5)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], -2 * cosine(8).sum() * gradient["w"], rtol=1e-5)


def test_the_trainer_says_how_long_an_epoch_is_and_how_large_a_batch(config, digits):
    """Five batches of 64 an epoch, three epochs."""
    options = {"schedule": "cosine", "warmup_epochs": 2.0, "reference_batch_size": 32}
    trainer = Trainer(changed(config, optimizer=options), digits, data_mesh(jax.devices()[:1]))
    found = [float(trainer.learning_rate(step)) for step in range(15)]
    np.testing.assert_allclose(found, 0.1 * np.minimum(1, np.arange(1, 16) / 10) * cosine(15), rtol=1e-4, atol=1e-8)
