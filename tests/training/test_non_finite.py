"""Losses that are infinite or NaN: the run stops, leaves the update out, or goes back."""

import dataclasses
import functools
import re
import signal
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import InputError, results, steppers, training
from lmjax.config import CheckpointConfig, DataConfig
from lmjax.results import report
from lmjax.steppers import Stepper, combine
from lmjax.training import Checkpoints, NonFiniteLoss, Trainer, require_finite, train_epoch
from lmjax.training.step import all_finite
from tests import tiny
from tests.devices import ONE
from tests.tiny import changed, create_trainer


@functools.cache
def faulty(probability):
    """Euler whose steps now and then give NaN in training."""

    def step(fs, u, memory, coef, info):
        (f,) = fs
        key, info = info.split()
        new = combine((1, u), (1, f(u)))
        if key is not None:
            new = jnp.where(jax.random.bernoulli(key, probability), jnp.nan, new)
        return new, memory

    return Stepper("faulty", step, informed=True, random=True)


@pytest.fixture
def config(tmp_path, digits, monkeypatch):
    steppers.register(faulty)
    monkeypatch.setattr(DataConfig, "load", lambda self: digits)
    return changed(
        tiny.config,
        model={"stepper": "faulty(0.12)", "activation": "silu"},  # relu may make 0 of NaN
        seed=2,
        train={"epochs": 3},
        checkpoint={"steps": 2},
        workdir=str(tmp_path / "run"),
    )


def rows(config):
    return tiny.logged(Path(config.workdir))


def test_stop_names_the_step_and_the_last_good_checkpoint(config, digits):
    said = r"the training loss is nan at step (\d+): try a smaller .*; the last checkpoint, of step (\d+), is in"
    with pytest.raises(InputError, match=said) as raised:
        training.train(config)
    step, saved = map(int, re.search(said, str(raised.value)).groups())
    assert step - 2 <= saved < step
    with Checkpoints(Path(config.workdir, "checkpoints"), read_only=True) as checkpoints:
        state, _ = checkpoints.restore(create_trainer(config, digits).state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state)))
    with pytest.raises(InputError, match=f"nan at step {step}"):  # the same draws lead there again
        training.train(config, resume="auto")


def test_skip_leaves_out_what_cannot_be_used(config, digits):
    config = changed(config, train={"on_nan": "skip"}, model={"stepper": "faulty(0.15)"})
    trainer = create_trainer(config, digits, ONE)
    step = trainer.compiled.train(1)
    skipped = 0
    for now, arrays in enumerate(trainer.feed.arrays(0, [1] * 5)):
        before = jax.device_get(trainer.state)
        trainer.state, metrics = step(trainer.state, np.uint32(0), arrays)
        after = jax.device_get(trainer.state)
        assert after.step == now + 1
        if not np.isfinite(metrics["loss"][0]):
            skipped += 1
            chex.assert_trees_all_equal(before._replace(step=now + 1), after)
    assert 0 < skipped < 5
    row = train_epoch(create_trainer(config, digits, ONE))
    assert row["skipped_steps"] == skipped
    assert np.isfinite(row["train_loss"])


@pytest.mark.parametrize("mode", ["stop", "rollback"])
def test_parameters_that_are_not_finite_though_the_loss_is(config, mode):
    """A rate of 1e4 breaks them, and what is broken is lost on its way to the loss."""
    config = changed(config, model={"stepper": "lm"}, optimizer={"learning_rate": 1e4}, train={"on_nan": mode})
    with pytest.raises(InputError, match=r"(not finite|is nan|is inf) at step"):
        training.train(config)
    assert not Path(config.workdir, "summary.json").exists()


def test_skipping_has_a_limit_over_epochs_and_processes(config, monkeypatch, capsys):
    """With fewer steps an epoch than the limit, and resumed within one; no loss is made up for an epoch without any."""
    config = changed(config, train={"on_nan": "skip", "batch_size": 64}, model={"stepper": "faulty(1.0)"})
    with monkeypatch.context() as patch:
        patch.setattr("lmjax.training.loop.say_epoch", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(training.Stopped, match="stopped at step 6"):
            training.train(config)
    with pytest.raises(InputError, match="the training loss is nan at step 11"):
        training.train(config, resume="required")
    assert "epoch 2/3  no update  test loss" in capsys.readouterr().out
    assert [[row[f"train_{key}"] for key in ("loss", "accuracy")] for row in rows(config)] == [[None, None]] * 2
    table = results.read([config.workdir])
    assert table[["train_loss", "train_accuracy"]].isna().all(None)
    assert table.test_error.notna().all()
    assert report.write([config.workdir], Path(config.workdir, "report.html")).exists()


@pytest.mark.slow
def test_skip_has_a_limit(config, digits):
    config = changed(config, train={"on_nan": "skip", "nan_limit": 2}, model={"stepper": "faulty(1.0)"})
    with pytest.raises(NonFiniteLoss, match="at step 3"):
        train_epoch(Trainer(config, digits, ONE))


def test_rollback_goes_on_with_other_draws(config, capsys):
    config = changed(config, train={"on_nan": "rollback", "nan_limit": 50})
    summary = training.train(config)
    said = re.findall(r"back to step (\d+), and on with other random draws \((\d+) of", capsys.readouterr().err)
    assert len(said) >= 1
    assert [int(n) for _, n in said] == list(range(1, len(said) + 1))
    assert [row["step"] for row in rows(config)] == [5, 10, 15]
    assert np.isfinite(summary["test_loss"])


def test_rollback_to_the_beginning_makes_all_epochs_once_more(config, capsys, monkeypatch):
    """Where no checkpoint was due yet, the rows of the epochs before are dropped, too."""
    failures = []

    def fail_once_in_the_second_epoch(trainer, *arguments):
        if trainer.step == 5 and not failures:
            failures.append(NonFiniteLoss("the training loss is nan", 6, trainer.seeds[0]))
            raise failures[0]
        return train_epoch(trainer, *arguments)

    monkeypatch.setattr(training.loop, "train_epoch", fail_once_in_the_second_epoch)
    config = changed(config, train={"on_nan": "rollback"}, model={"stepper": "lm"})
    training.train(dataclasses.replace(config, checkpoint=CheckpointConfig(minutes=None, keep_best=0)))
    printed = capsys.readouterr()
    assert "back to step 0" in printed.err
    assert printed.out.count("epoch 1/3") == 2
    assert [row["step"] for row in rows(config)] == [5, 10, 15]


@pytest.mark.slow
def test_rollback_has_a_limit(config, capsys):
    config = changed(config, train={"on_nan": "rollback", "nan_limit": 3}, model={"stepper": "faulty(1.0)"})
    with pytest.raises(InputError, match="the training loss is nan at step 1: try a smaller"):
        training.train(config)
    assert capsys.readouterr().err.count("back to step 0") == 3


def test_large_numbers_are_finite():
    """Also where the sum of their squares is not."""
    for value in (np.nan, np.inf, -np.inf):
        assert not all_finite({"a": jnp.ones(3), "b": jnp.array([1, value])})
    assert all_finite({"a": jnp.full(3, 3e19), "b": jnp.float32(0)})


def test_parameters_that_the_last_step_has_broken_are_not_saved(config, digits):
    trainer = create_trainer(changed(config, model={"stepper": "lm"}), digits, ONE)
    require_finite(trainer)
    leaves, structure = jax.tree.flatten(trainer.state.params)
    leaves[3] = leaves[3].at[0].set(np.inf)
    trainer.state = trainer.state._replace(params=jax.tree.unflatten(structure, leaves))
    with pytest.raises(NonFiniteLoss, match="parameters that are not finite at step 0"):
        require_finite(trainer)
