"""One device, eight of them, parameters on each or divided, statistics over the batch or groups: the same numbers."""

import dataclasses
import re
from unittest.mock import Mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import InputError, devices
from lmjax.devices import host
from lmjax.optimizers import coefficients
from lmjax.training import Checkpoints, Trainer, data_mesh, evaluate, loop, train_epoch, trainer
from tests.devices import ONE
from tests.tiny import changed


@pytest.fixture
def wide(config):
    """Wide enough that some of its arrays are divided; one step an epoch."""
    return changed(config, model={"name": "resnet14", "width": 1.0}, train={"batch_size": 320})


@pytest.mark.versions
@pytest.mark.slow
def test_divided_parameters_are_the_same_numbers_in_less_memory(wide, digits, tmp_path):
    whole = Trainer(wide, digits, data_mesh())
    divided = Trainer(changed(wide, train={"shard_parameters": True}), digits, data_mesh())
    bytes_of = [sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(t.state)) for t in (whole, divided)]
    assert bytes_of[1] < 0.25 * bytes_of[0]
    assert divided.compiled.train(1).memory_analysis().alias_size_in_bytes >= bytes_of[1], "and it is donated"
    layouts = jax.tree.map(lambda x: x.sharding, divided.state)
    rows = [train_epoch(trainer) | evaluate(trainer) for trainer in (whole, divided)]
    for key in ("train_loss", "test_loss"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3)
    chex.assert_trees_all_close(jax.device_get(whole.state), jax.device_get(divided.state), rtol=1e-2, atol=5e-4)
    assert jax.tree.map(lambda x: x.sharding, divided.state) == layouts, "a step must leave every array where it was"
    images = digits.test.images[:2].astype(np.float32)
    chex.assert_trees_all_close(divided.model(images), whole.model(images), rtol=1e-2, atol=1e-2)
    # A run may go on with the other layout: it says where things are, not what they are.
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(divided.state, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored, _ = checkpoints.restore(whole.state)
        chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(divided.state))
        assert restored.step.sharding == whole.state.step.sharding


@pytest.mark.slow  # of groups within a device, the compiled program is looked at
def test_groups_of_images_are_the_same_on_any_number_of_devices(config, digits):
    config = changed(config, train={"batch_size": 320, "batch_norm_group": 5})
    one, eight, whole = (
        Trainer(c, digits, mesh)
        for c, mesh in ((config, ONE), (config, data_mesh()), (changed(config, train={"batch_norm_group": None}), ONE))
    )
    a, b, c = (train_epoch(trainer)["train_loss"] for trainer in (one, eight, whole))
    assert a == pytest.approx(b, rel=1e-5)
    assert a != pytest.approx(c, rel=1e-4)
    chex.assert_trees_all_close(jax.device_get(one.state), jax.device_get(eight.state), rtol=1e-2, atol=5e-4)


@pytest.mark.slow
def test_groups_within_a_device_wait_for_no_other(config, digits):
    """What is left are the gradients and the running statistics, which nothing in the step waits for."""

    def messages(depth, group):
        """How many sums over devices a compiled step makes one after another."""
        train = {"batch_size": 320, "batch_norm_group": group}
        trainer = Trainer(changed(config, model={"name": f"resnet{depth}"}, train=train), digits, data_mesh())
        return len(re.findall(r" all-reduce(?:-start)?\(", trainer.compiled.train(1).as_text()))

    normalizations = 2 * 3  # of one more block in each of three stages
    assert messages(20, None) - messages(14, None) >= 2 * normalizations, "forward and backward"
    assert messages(20, None) - messages(20, 40) >= 2 * normalizations


def test_a_group_must_divide_the_batch(config):
    with pytest.raises(
        InputError, match=r"train.batch_norm_group: must be a divisor of train.batch_size \(64\), got 48"
    ):
        changed(config, train={"batch_norm_group": 48})


def test_what_is_divided_begins_on_the_host(config, digits, monkeypatch):
    entered = Mock(wraps=host)
    monkeypatch.setattr(trainer, "host", entered)
    monkeypatch.setattr(devices, "_SMALL", 1)
    Trainer(config, digits, data_mesh())
    entered.assert_not_called()
    divided = Trainer(changed(config, train={"shard_parameters": True}), digits, data_mesh())
    entered.assert_called_once()
    whole = jax.tree.map(lambda x: x.is_fully_replicated, divided.state.params)
    learned = [x for x, told in zip(*map(jax.tree.leaves, (whole, coefficients(whole))), strict=True) if told]
    assert learned == [True] * len(learned) != [], "each process records them"
    assert not all(jax.tree.leaves(whole))


def test_no_cpu_to_compute_on(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", Mock(side_effect=RuntimeError))
    with host():  # JAX_PLATFORMS leaves it out
        assert jnp.zeros(1).shape == (1,)


def test_a_run_that_has_ended_holds_no_state(config, tmp_path):
    ended, _ = loop.run([changed(config, workdir=str(tmp_path / "run"))], ["seed 0"], resume=[False])
    assert not hasattr(ended, "state")
    ended.release()


def test_another_seed_shares_programs_and_data_and_is_the_run_it_would_be_alone(config, digits):
    first = Trainer(config, digits, ONE)
    train_epoch(first)
    second = first.reseeded(1)
    row = train_epoch(second) | evaluate(second)
    assert second.compiled.seconds > 0, "the evaluation, which the first has not needed"
    third = second.reseeded(5)
    train_epoch(third), evaluate(third)
    assert third.compiled.seconds == 0
    alone = Trainer(dataclasses.replace(config, seed=1), digits, ONE)
    expected = train_epoch(alone) | evaluate(alone)
    row.pop("images_per_second"), expected.pop("images_per_second")
    assert row == expected
    chex.assert_trees_all_equal(second.state, alone.state)
    assert first.step == 5, "the first is where it was"
