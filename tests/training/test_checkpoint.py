"""Checkpoints: a run that goes on from one is the run that was never interrupted."""

import dataclasses

import chex
import jax
import pytest

from lmjax import InputError
from lmjax.training import Checkpoints, Trainer, data_mesh

ONE = data_mesh(jax.devices()[:1])


@pytest.mark.versions
@pytest.mark.parametrize("stepper", ["lm", "stochastic_depth(noise(lm, 0.01), 0.5)"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, config, digits, stepper):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, stepper=stepper))
    whole = Trainer(config, digits, ONE)
    rows = [whole.train_epoch() | whole.evaluate() for _ in range(3)]

    first = Trainer(config, digits, ONE)
    first.train_epoch()
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(first.state, {"note": "after one epoch"})
        first.train_epoch()  # goes on at once: the arrays that are being saved are donated

    second = Trainer(config, digits, ONE)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 5
        second.state, about = checkpoints.restore(second.state)
    assert about == {"note": "after one epoch"}
    assert second.step == 5
    resumed = [second.train_epoch() | second.evaluate() for _ in range(2)]
    chex.assert_trees_all_equal(second.state, whole.state)
    assert [r["test_loss"] for r in resumed] == [r["test_loss"] for r in rows[1:]]


def test_restores_onto_another_number_of_devices(tmp_path, config, digits):
    one, eight = Trainer(config, digits, ONE), Trainer(config, digits, data_mesh())
    one.train_epoch()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(one.state, {})
    with Checkpoints(tmp_path) as checkpoints:
        eight.state, _ = checkpoints.restore(eight.state)
    chex.assert_trees_all_equal(jax.device_get(eight.state), jax.device_get(one.state))
    assert eight.evaluate()["test_loss"] == pytest.approx(one.evaluate()["test_loss"], rel=1e-4)


def test_network_only_does_not_need_the_optimiser(tmp_path, config, digits):
    trained = Trainer(config, digits, ONE)
    trained.train_epoch()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained.state, {})
    optimizer = dataclasses.replace(config.optimizer, momentum=0.0)
    other = Trainer(dataclasses.replace(config, optimizer=optimizer), digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        other.state, _ = checkpoints.restore(other.state, network_only=True)
    assert other.evaluate() == trained.evaluate()


def test_the_newest_two_are_kept(tmp_path, config, digits):
    trainer = Trainer(config, digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(3):
            trainer.train_epoch()
            checkpoints.save(trainer.state, {})
            checkpoints.save(trainer.state, {})  # twice the same is no error
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["10", "15"]


@pytest.mark.versions
@pytest.mark.parametrize("model", [{"width": 0.5}, {"stepper": "euler"}, {"name": "resnet20"}], ids=str)
def test_checkpoint_of_another_network(tmp_path, config, digits, model):
    trainer = Trainer(config, digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trainer.state, {})
    other = Trainer(dataclasses.replace(config, model=dataclasses.replace(config.model, **model)), digits, ONE)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"is of another network \(params/\S+ is (of shape .*|missing) there and"),
    ):
        checkpoints.restore(other.state)


def test_no_checkpoint(tmp_path, config, digits):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="holds no checkpoint"):
        checkpoints.restore(Trainer(config, digits, ONE).state)
