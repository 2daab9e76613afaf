"""A run that is stopped after any step, and goes on from its checkpoint, is the run that was never stopped."""

import dataclasses
import re
import shutil

import chex
import jax
import pytest

from lmjax import optimizers
from lmjax.config import CheckpointConfig, Config, DataConfig, ModelConfig
from lmjax.data import load
from lmjax.errors import InputError
from lmjax.training import Checkpoints, Due, EpochSums, RunRecord, Trainer, evaluate, train, train_epoch
from tests.data.photos import write_folder
from tests.devices import ONE
from tests.parameters import few
from tests.tiny import changed


def require_same(config, dataset, folder):
    """Runs twice: in one go, and stopped after every step, thrown away, and brought back from a file."""
    with Trainer(config, dataset, ONE) as whole, whole.reseeded(config.seed) as part:
        before = jax.device_get(whole.state.params)
        expected = train_epoch(whole)
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, whole.state.params)), strict=True))
        for step in range(1, whole.steps_per_epoch + 1):
            found = train_epoch(part, pause=lambda now, step=step: now == step)
            assert part.step == step
            assert (found is None) == (step < whole.steps_per_epoch)
            with Checkpoints(folder) as checkpoints:
                checkpoints.save(part.state, {"sums": dataclasses.asdict(part.sums[0])})
                if step == 1:
                    train_epoch(part)  # goes on at once: the arrays that are being saved are donated
            part.close()
            part.restart()
            assert (part.step, part.sums[0]) == (0, EpochSums())
            with Checkpoints(folder) as checkpoints:
                assert checkpoints.latest() == step
                part.state, about = checkpoints.restore(part.state)
            part.sums = [EpochSums(**about["sums"])]
        chex.assert_trees_all_equal(part.state, whole.state)
        assert evaluate(part) == evaluate(whole)
    found.pop("images_per_second"), expected.pop("images_per_second")
    assert found == expected
    return expected


AUGMENT = ("crop(1)", "cutout(2)", "erase(0.25)", "mixup(0.2)", "cutmix(1.0)")
RULES = ["sgd", "rmsprop(momentum=0.5)", "adam", "adamw", "lamb", "lion", "muon"]


def test_every_rule_is_tested():
    names, maker = optimizers.registry.names(), optimizers.registry.maker
    ours = {name for name in names if maker(name).__module__ == "lmjax.optimizers"}
    assert {re.match(r"\w+", rule)[0] for rule in RULES} == ours


@pytest.mark.versions
@pytest.mark.parametrize("rule", few(RULES, ["muon"]))  # which has most to keep
def test_random_steps_mixtures_an_average_and_an_accumulation_of_every_rule(tmp_path, config, digits, rule):
    """Also in the middle of the accumulation."""
    config = changed(
        config,
        data={"augment": AUGMENT},
        model={"stepper": "stochastic_depth(noise(lm, 0.01), 0.5)"},
        optimizer={"name": rule, "learning_rate": 0.003, "accumulate_steps": 2, "clip_norm": 1.0},
        train={"average": 0.9},
    )
    row = require_same(config, digits, tmp_path)
    # Step 4, the last of the epoch, belongs to the third update.
    rate = Trainer(config, digits, ONE).learning_rate
    assert row["learning_rate"] == float(rate(4)) == float(rate(5))


@pytest.mark.slow
def test_dropout_and_drop_path(tmp_path, config, digits):
    config = dataclasses.replace(config, model=ModelConfig("fractalnet2x2", width=0.25))
    require_same(config, digits, tmp_path)


def test_settings_that_change_the_numbers_are_those_of_the_run(tmp_path, runs):
    folder = shutil.copytree(runs["euler"], tmp_path / "run")
    (folder / "summary.json").unlink()
    config = dataclasses.replace(RunRecord(folder).config(), workdir=str(folder))
    for name in ("jax_threefry_partitionable", "jax_enable_x64", "jax_default_prng_impl"):
        before = getattr(jax.config, name)
        jax.config.update(name, "rbg" if isinstance(before, str) else not before)
        try:
            said = f"was made with {name}={before}, and would go on .*: set {name.upper()}"
            with pytest.raises(InputError, match=said):
                train(config, resume="required")
        finally:
            jax.config.update(name, before)
    assert train(config, resume="required")["epochs"] == 2
    with pytest.raises(InputError, match='resume: must be "auto", "required" or None, got True'):
        train(config, resume=True)


@pytest.mark.versions
@pytest.mark.slow
def test_photographs(tmp_path, config):
    pytest.importorskip("grain")
    photographs = load("photographs(16)", directory=write_folder(tmp_path / "photos", train=50, val=21), workers=0)
    config = Config(
        data=DataConfig("photographs(16)", augment=("crop_area(0.3)", "flip")),
        model=ModelConfig("tiny", "stochastic_depth(lm, 0.5)"),
        train=dataclasses.replace(config.train, epochs=1, batch_size=16, eval_batch_size=16),
    )
    require_same(config, photographs, tmp_path / "checkpoints")


def test_photographs_go_on_after_a_pause_without_being_read_again(tmp_path, config, monkeypatch):
    pytest.importorskip("grain")
    photographs = load("photographs(16)", directory=write_folder(tmp_path, train=50, val=21), workers=0)
    config = Config(
        data=DataConfig("photographs(16)"), model=config.model,
        train=dataclasses.replace(config.train, epochs=1, batch_size=16, eval_batch_size=16),
    )  # fmt: skip
    with Trainer(config, photographs, ONE) as trainer:
        reads = []
        read = trainer.feed._read
        monkeypatch.setattr(trainer.feed, "_read", lambda start: reads.append(start) or read(start))
        while train_epoch(trainer, pause=lambda step: True) is None:
            pass
    assert trainer.step == 3
    assert reads == [0]


@pytest.mark.slow
def test_several_steps_a_program_are_not_divided(config, digits):
    config = changed(config, train={"steps_per_dispatch": 3})
    trainer = Trainer(config, digits, ONE)
    asked = []
    assert train_epoch(trainer, pause=lambda step: asked.append(step) or step >= 2) is None
    assert asked == [3]
    assert (trainer.step, trainer.sums[0].steps) == (3, 3)
    whole = Trainer(config, digits, ONE)
    assert train_epoch(trainer)["train_loss"] == train_epoch(whole)["train_loss"]
    chex.assert_trees_all_equal(trainer.state, whole.state)


def test_when_a_checkpoint_is_due(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    due = Due(CheckpointConfig(minutes=2.0, steps=10), 5)
    assert not due(14)
    assert due(15)
    due.saved(15)
    assert not due(24)
    now[0] += 119.0
    assert not due(24)
    now[0] += 1.0
    assert due(24)
    due.saved(24)
    assert not due(24)
    never = Due(CheckpointConfig(minutes=None), 0)
    now[0] += 1e6
    assert not never(10**6)
