"""Checkpoints: a run that goes on from one is the run that was never interrupted."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import pytest

from lmjax import InputError
from lmjax.training import Checkpoints, checkpoint, data_mesh, evaluate, integrity, train_epoch
from lmjax.training.step import TrainState
from tests.tiny import create_trainer

ONE = data_mesh(jax.devices()[:1])


@pytest.mark.versions
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, config, digits):
    whole = create_trainer(config, digits, ONE)
    rows = [train_epoch(whole) | evaluate(whole) for _ in range(3)]

    first = create_trainer(config, digits, ONE)
    train_epoch(first)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(first.state, {"note": "after one epoch"})
        train_epoch(first)  # goes on at once: the arrays that are being saved are donated

    second = create_trainer(config, digits, ONE)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 5
        second.state, about = checkpoints.restore(second.state)
    assert about == {"note": "after one epoch"}
    assert second.step == 5
    resumed = [train_epoch(second) | evaluate(second) for _ in range(2)]
    chex.assert_trees_all_equal(second.state, whole.state)
    assert [r["test_loss"] for r in resumed] == [r["test_loss"] for r in rows[1:]]


@pytest.mark.parametrize("split", [False, True], ids=["whole", "divided"])
def test_restores_onto_other_devices(tmp_path, config, digits, split, monkeypatch):
    """From one to eight, on which the parameters and the optimizer may be divided, too; and back."""
    monkeypatch.setattr("lmjax.devices._SMALL", 64)
    divided = dataclasses.replace(config, train=dataclasses.replace(config.train, shard_parameters=split))
    one, eight = create_trainer(config, digits, ONE), create_trainer(divided, digits, data_mesh())
    shardings = jax.tree.map(lambda x: x.sharding, eight.state)
    assert split == any(not sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))
    train_epoch(one)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(one.state, {})
    with Checkpoints(tmp_path) as checkpoints:
        eight.state, _ = checkpoints.restore(eight.state)
    assert jax.tree.map(lambda x: x.sharding, eight.state) == shardings
    chex.assert_trees_all_equal(jax.device_get(eight.state), jax.device_get(one.state))
    assert evaluate(eight)["test_loss"] == pytest.approx(evaluate(one)["test_loss"], rel=1e-4)
    with Checkpoints(tmp_path / "back") as checkpoints:
        checkpoints.save(eight.state, {})
    one.restart()
    with Checkpoints(tmp_path / "back") as checkpoints:
        one.state, _ = checkpoints.restore(one.state)
    chex.assert_trees_all_equal(jax.device_get(eight.state), jax.device_get(one.state))


def test_network_only_does_not_need_the_optimizer(tmp_path, config, digits):
    trained = create_trainer(config, digits, ONE)
    train_epoch(trained)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained.state, {})
    optimizer = dataclasses.replace(config.optimizer, name="adamw")
    other = create_trainer(dataclasses.replace(config, optimizer=optimizer), digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        other.state, _ = checkpoints.restore(other.state, network_only=True)
    assert evaluate(other) == evaluate(trained)


def test_the_newest_two_are_kept(tmp_path, config, digits):
    trainer = create_trainer(config, digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(3):
            train_epoch(trainer)
            checkpoints.save(trainer.state, {})
            checkpoints.save(trainer.state, {})  # twice the same is no error
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["10", "15"]


@pytest.mark.versions
def test_the_best_are_kept_besides(tmp_path, config, digits):
    trainer = create_trainer(config, digits, ONE)
    with Checkpoints(tmp_path, keep_last=1, keep_best=2) as checkpoints:
        for accuracy in (0.3, 0.5, 0.4, None, 0.2):
            train_epoch(trainer)
            checkpoints.save(trainer.state, {}, test_accuracy=accuracy)
        assert checkpoints.steps() == [10, 15, 25]
        assert checkpoints.best() == 10
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best() == checkpoints.choose("best") == 10
        assert checkpoints.choose("latest") == 25


@pytest.mark.versions
def test_killed_while_an_old_one_is_removed(tmp_path, config, digits, capsys):
    """What is not kept any more gets another name first, under which nothing looks for it."""
    trainer = create_trainer(config, digits, ONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if it had been killed before
        with Checkpoints(tmp_path, keep_last=1) as checkpoints:
            for _ in range(2):
                train_epoch(trainer)
                checkpoints.save(trainer.state, {})
    (left,) = (tmp_path / "discarded").iterdir()
    next(p for p in left.rglob("*") if p.is_file()).unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [10]
        assert checkpoints.folder.set_aside() == []
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "discarded").exists()


@pytest.mark.versions
@pytest.mark.parametrize(
    "model", [{"stepper": "euler"}, {"width": 0.5}, pytest.param({"name": "resnet20"}, marks=pytest.mark.slow)], ids=str
)
def test_checkpoint_of_another_network(tmp_path, config, digits, model):
    trainer = create_trainer(config, digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trainer.state, {})
    other = create_trainer(dataclasses.replace(config, model=dataclasses.replace(config.model, **model)), digits, ONE)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"is of another network \(params/\S+ is (of shape .*|missing) there and"),
    ):
        checkpoints.restore(other.state)


def test_no_checkpoint(tmp_path, config, digits):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="holds no checkpoint"):
        checkpoints.restore(create_trainer(config, digits, ONE).state)


def test_what_is_whole_is_not_called_damaged(tmp_path, config, digits, monkeypatch):
    trainer = create_trainer(config, digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trainer.state, {})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        said = r"this checkpoint cannot be read here, though its sums are right \(Out of memory\): keep it$"
        with pytest.raises(InputError, match=said):
            checkpoints.restore(trainer.state)
        (tmp_path / "0" / "about" / "metadata").write_text("")
        with pytest.raises(InputError, match="this checkpoint cannot be read: delete it, and the one before is used"):
            checkpoints.restore(trainer.state, 0)
        with pytest.raises(InputError, match=r"holds no checkpoint that is whole \(0\)"):
            checkpoints.restore(trainer.state)


NAMES = [
    "lr=[0.1]", "[2026] project/run", "a*", "a?b", "{a,b}", "a%20b", "a%2Fb", "a#b", r"c$\frac$", "größe", "e\u0301",
    "a b", "~", "$HOME", "'\"", "\n", "\udcff\udcfe", "a:b", "file:", "@x", "a~",
]  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_name_that_some_reader_interprets(tmp_path, name):
    """Whatever a folder is called, what is written there can be read, there and after a move."""
    try:
        (tmp_path / name).mkdir(parents=True)
    except OSError:
        pytest.skip("no folder can have this name here")
    state = TrainState(jnp.int32(1), {"a": jnp.arange(5.0)}, {}, {"momentum": jnp.ones(3)})
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        checkpoints.save(state, {"classes": [name]}, test_accuracy=0.5)
    (tmp_path / name / "checkpoints").rename(tmp_path / "moved")
    for place in (tmp_path / "moved", tmp_path / name / "checkpoints"):
        with Checkpoints(place, read_only=True) as checkpoints:
            found, about = checkpoints.restore(state)
        chex.assert_trees_all_equal(found, state)
        assert about == {"classes": [name], "test_accuracy": 0.5}
        place.rename(tmp_path / name / "checkpoints")


def test_first_checkpoint_is_read_back(tmp_path, config, digits, monkeypatch):
    """Before hours of training rely on a disk, or on a saver, that does not give back what it was given."""
    trainer = create_trainer(config, digits, ONE)
    seal = integrity.seal

    def lose_a_file(folder):
        (folder / "network" / "manifest.ocdbt").unlink()
        seal(folder)

    monkeypatch.setattr(integrity, "seal", lose_a_file)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match="is not what is read back"),
    ):
        checkpoints.save(trainer.state, {})
    monkeypatch.undo()
    read = checkpoint._read

    def other_numbers(*arguments):
        state, about = read(*arguments)
        return state._replace(params=jax.tree.map(lambda x: x + 1, state.params)), about

    monkeypatch.setattr(checkpoint, "_read", other_numbers)
    with Checkpoints(tmp_path / "b") as checkpoints, pytest.raises(InputError, match=r"\(other numbers\)"):
        checkpoints.save(trainer.state, {})


@pytest.mark.parametrize("name", ["lr=[0.1]", "größe"])
def test_name_that_cannot_be_hidden_is_refused(tmp_path, name, monkeypatch):
    """Where a system has no paths for open folders: before anything is trained."""
    monkeypatch.setattr("lmjax.training.checkpoint_folder._DESCRIPTORS", tmp_path / "none")
    with pytest.raises(InputError, match=r"can only have ASCII letters, digits and _ \. - in it: choose another"):
        Checkpoints(tmp_path / name)


def fail(*_, **__):
    raise RuntimeError("Out of memory\nwhile trying to allocate a page of bytes")
