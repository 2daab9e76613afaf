"""Several seeds as an axis of one program: each is the run that it would be alone, and none waits for another."""

import dataclasses
import re
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from lmjax.config import Config, DataConfig
from lmjax.errors import InputError
from lmjax.training import (
    Checkpoints,
    Diverged,
    Interruption,
    NonFiniteLoss,
    Trainer,
    evaluate,
    loop,
    seed_mesh,
    seeds,
    train_epoch,
    train_seeds,
)  # fmt: skip
from lmjax.training.epoch import _diverge
from lmjax.training.progress import padding
from lmjax.training.run_record_writer import RunRecordWriter
from tests import tiny
from tests.devices import ONE
from tests.parameters import slow
from tests.tiny import changed, create_trainer


def side_by_side(config, digits, *numbers):
    return create_trainer(config, digits, seed_mesh(len(numbers)), numbers)


@pytest.mark.versions
def test_each_seed_has_the_bits_of_the_seed_alone(config, digits):
    together = side_by_side(config, digits, 3, 0, 2**32 - 1)
    rows = [a | b for a, b in zip(train_epoch(together), evaluate(together), strict=True)]
    for i, seed in enumerate(together.seeds):
        alone = side_by_side(config, digits, seed)
        (row,) = [a | b for a, b in zip(train_epoch(alone), evaluate(alone), strict=True)]
        chex.assert_trees_all_equal(together.state_of(i), alone.state_of(0))
        assert {key: row[key] for key in row if key != "images_per_second"} == {
            key: value for key, value in rows[i].items() if key != "images_per_second"
        }
        assert together.coefficients(i) == alone.coefficients()


@pytest.mark.versions
def test_a_step_is_that_of_a_run_on_one_device_to_rounding(config, digits):
    """Not to the bit: XLA divides the loops of a program for one device among the cores, and those of others not."""
    run = create_trainer(dataclasses.replace(config, seed=7), digits, ONE)
    together = side_by_side(config, digits, 7, 1)
    for trainer in (run, together):
        train_epoch(trainer, pause=lambda step: step == 1)
    assert together.sums[0].metrics["loss"] == pytest.approx(run.sums[0].metrics["loss"], rel=1e-6)
    chex.assert_trees_all_close(together.state_of(0), run.state, rtol=1e-4, atol=1e-6)


def test_no_seed_communicates(config, digits):
    program = side_by_side(config, digits, 0, 1).compiled.train(1).as_text()
    assert not re.search(r"all-reduce|all-gather|reduce-scatter|collective|all-to-all", program)
    assert "num_partitions=2" in program


@pytest.mark.versions
def test_a_seed_that_diverges_ends_no_other(config, digits):
    sound, broken = (side_by_side(config, digits, 0, 1) for _ in range(2))
    states = [jax.device_get(broken.state_of(i)) for i in range(2)]
    states[0] = states[0]._replace(params=jax.tree.map(lambda x: x * np.nan, states[0].params))
    broken.place(states)
    rows = [train_epoch(trainer)[1] | evaluate(trainer)[1] for trainer in (sound, broken)]
    assert list(broken.diverged) == [0]
    assert "the training loss is nan at step 1" in str(broken.diverged[0])
    assert rows[0]["test_loss"] == rows[1]["test_loss"]
    chex.assert_trees_all_equal(sound.state_of(1), broken.state_of(1))


@pytest.fixture
def run(config, digits, tmp_path, monkeypatch) -> Config:
    """A config whose data set is the small one."""
    monkeypatch.setattr(DataConfig, "load", lambda self: digits)
    return changed(config, checkpoint={"steps": 2}, workdir=str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def undisturbed(config, digits, tmp_path_factory):
    """The rows of seeds 0 and 1."""
    config = changed(config, checkpoint={"steps": 2}, workdir=str(tmp_path_factory.mktemp("runs")))
    with tiny.cheap(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataConfig, "load", lambda self: digits)
        train_seeds(config, [0, 1])
    return {seed: rows(config, seed) for seed in (0, 1)}


def rows(config, seed):
    return tiny.rows(Path(config.workdir, f"seed{seed}"))


class Stopping(Interruption):
    """Asks to stop when it is asked for the nth time."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __call__(self):
        self.left -= 1
        self.signal = self.signal or (15 if self.left < 0 else None)
        return self.signal is not None


def test_stopped_and_resumed_together(run, undisturbed, monkeypatch, capsys):
    """Within an epoch, at its end and in an evaluation; and after a kill between the saves of the two."""
    with monkeypatch.context() as patch:
        for n in (3, 5, 9):
            patch.setattr("lmjax.training.runs.Interruption", lambda n=n: Stopping(n))
            with pytest.raises(loop.Stopped):
                train_seeds(run, [0, 1], resume="auto")
    with Checkpoints(Path(run.workdir, "seed1", "checkpoints")) as checkpoints:
        checkpoints._manager.delete(checkpoints.latest())  # as if only the other had been saved
    train_seeds(run, [0, 1], resume="auto")
    assert {seed: rows(run, seed) for seed in (0, 1)} == undisturbed
    assert "test accuracy of 2 seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_some_begun_and_some_not(run):
    """A kill before the first checkpoint, or seeds that are added: each is begun or gone on with, as it needs."""
    run = changed(run, train={"epochs": 1})
    begun = seeds.of_seed(run, 1)
    RunRecordWriter(begun.workdir).start(begun)
    train_seeds(run, [0, 1], resume="auto")
    train_seeds(run, [0, 1, 2], resume="auto")
    assert [len(rows(run, seed)) for seed in (0, 1, 2)] == [1, 1, 1]


@pytest.mark.slow
def test_damaged_checkpoints_of_different_steps(run, undisturbed, monkeypatch, capsys):
    """Then the seeds go on one by one."""
    with monkeypatch.context() as patch:
        patch.setattr("lmjax.training.runs.Interruption", lambda: Stopping(9))
        with pytest.raises(loop.Stopped):
            train_seeds(run, [0, 1])
    for seed, which in ((0, -1), (1, -2)):
        kept = Path(run.workdir, f"seed{seed}", "checkpoints")
        steps = sorted(int(path.name) for path in kept.iterdir() if path.name.isdecimal())
        assert len(steps) >= 2
        for step in [*steps[:-2], steps[which]]:
            (kept / str(step) / "about" / "metadata").write_bytes(b"x")
    train_seeds(run, [0, 1], resume="auto")
    assert "is left out" in capsys.readouterr().err
    assert {seed: rows(run, seed) for seed in (0, 1)} == undisturbed


@pytest.mark.slow
def test_rolled_back_together(run, undisturbed, monkeypatch, capsys):
    """The seed that diverges gets other draws, and the other one the same ones again."""
    trained = loop.train_epoch

    def once(trainer, *arguments):
        if trainer.step >= 6 and not trainer.redraws[0]:
            _diverge(trainer, NonFiniteLoss("the training loss is nan", trainer.step, 0))
        return trained(trainer, *arguments)

    monkeypatch.setattr(loop, "train_epoch", once)
    train_seeds(changed(run, train={"on_nan": "rollback", "nan_limit": 50}), [0, 1])
    assert "seed 0: the training loss is nan at step 7: back to step 7, and on with" in capsys.readouterr().err
    assert rows(run, 1) == undisturbed[1], "it has made the same steps once more"
    assert rows(run, 0)[0] == undisturbed[0][0]
    assert rows(run, 0)[1] != undisturbed[0][1], "other draws"


@pytest.mark.parametrize("side_by_side", [False, slow(True)])
def test_one_that_gives_up_is_named_and_the_other_is_finished(run, side_by_side, monkeypatch, capsys):
    run = changed(run, train={"epochs": 1})
    monkeypatch.setattr(seeds, "side_by_side", lambda config: side_by_side)
    place = Trainer.place

    def broken(self, states):
        states = [state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params)) if seed == 1 else state
                  for seed, state in zip(self.seeds, states, strict=True)]  # fmt: skip
        place(self, states)

    monkeypatch.setattr(Trainer, "place", broken)
    with pytest.raises(InputError, match="seed 1 diverged, and is not counted"):
        train_seeds(run, [1, 0])
    assert "seed 1: the training loss is nan at step 1: try a smaller" in capsys.readouterr().err
    assert len(rows(run, 0)) == 1
    assert Path(run.workdir, "seed0", "summary.json").exists()
    assert not Path(run.workdir, "seed1", "summary.json").exists()


def test_all_that_give_up_are_named(run, monkeypatch):
    def diverged(*arguments, **options):
        raise Diverged("all seeds have diverged: see above")

    monkeypatch.setattr(loop, "run", diverged)
    with pytest.raises(InputError, match="seed 1, seed 0 diverged, and are not counted: see above"):
        train_seeds(run, [1, 0])


def test_groups_are_of_one_size_as_far_as_possible(run):
    for count, at_once, sizes in (
        (8, 8, [8]), (9, 8, [5, 4]), (3, 2, [2, 1]), (4, 1, [1, 1, 1, 1]), (1, 8, [1]),
    ):  # fmt: skip
        configs = [seeds.of_seed(run, seed) for seed in range(count)]
        groups = list(seeds.groups(configs, at_once))
        assert [len(group) for group in groups] == sizes
        assert [config for group in groups for config in group] == configs


def test_groups_go_on_from_one_step(run):
    for seed, steps in {0: (2, 4), 1: (2, 4, 6), 2: (), 3: (6,), 4: (2, 8, 10)}.items():
        for step in steps:
            Path(run.workdir, f"seed{seed}", "checkpoints", str(step)).mkdir(parents=True)

    def found(*numbers):
        made = seeds.groups([seeds.of_seed(run, seed) for seed in numbers], 8)
        return [[config.seed for config in group] for group in made]

    assert found(0, 1, 2) == [[0, 1], [2]]
    assert found(0, 3) == [[0], [3]]
    assert found(0, 4) == [[0], [4]], "one that diverged long ago takes no other back"
    assert found(0, 1, 3) == [[0, 1], [3]]


def test_warns_of_padding():
    config = Config()
    text = padding(config, 8, "tpu")
    assert "16 images a chip, which computes with 128 at a time: 88% of it is padding" in text
    assert "--seeds 0..7" in text
    assert "--train.batch-size 1024 --optimizer.reference-batch-size 128" in text
    assert "--seeds" not in padding(changed(config, train={"batch_size": 64}), 1, "tpu")
    assert "--seeds" not in padding(changed(config, train={"shard_parameters": True}), 8, "tpu")
    assert not padding(config, 1, "tpu")
    assert not padding(config, 8, "gpu")
