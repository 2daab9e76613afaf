"""Checkpoints: a run that goes on from one is the run that was never interrupted."""

import os

import chex
import jax
import jax.numpy as jnp
import pytest

from lmjax import InputError
from lmjax.training import Checkpoints, checkpoint, data_mesh, evaluate, integrity, train_epoch
from lmjax.training.step import TrainState
from tests.devices import ONE
from tests.parameters import few, slow
from tests.tiny import changed, create_trainer


@pytest.mark.parametrize("split", [slow(False), True], ids=["whole", "divided"])
def test_restores_onto_other_devices(tmp_path, config, digits, split, monkeypatch):
    """From one to eight, on which the parameters and the optimizer may be divided, too; and back."""
    monkeypatch.setattr("lmjax.devices._SMALL", 64)
    divided = changed(config, train={"shard_parameters": split})
    one, eight = create_trainer(config, digits, ONE), create_trainer(divided, digits, data_mesh())
    shardings = jax.tree.map(lambda x: x.sharding, eight.state)
    assert split == any(not sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))
    train_epoch(one)
    for name, saved, other in (("to", one, eight), ("back", eight, one)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(saved.state, {})
        other.restart()
        with Checkpoints(tmp_path / name) as checkpoints:
            other.state, _ = checkpoints.restore(other.state)
        chex.assert_trees_all_equal(jax.device_get(eight.state), jax.device_get(one.state))
        assert jax.tree.map(lambda x: x.sharding, eight.state) == shardings
    assert evaluate(eight)["test_loss"] == pytest.approx(evaluate(one)["test_loss"], rel=1e-4)


def test_network_only_does_not_need_the_optimizer(tmp_path, config, digits):
    trained = create_trainer(config, digits, ONE)
    train_epoch(trained)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(trained.state, {})
    other = create_trainer(changed(config, optimizer={"name": "adamw"}), digits, ONE)
    with Checkpoints(tmp_path) as checkpoints:
        other.state, _ = checkpoints.restore(other.state, network_only=True)
    assert evaluate(other) == evaluate(trained)


def small(step):
    """A state that takes no training."""
    return TrainState(jnp.int32(step), {"a": jnp.arange(5.0) + step}, {}, {"momentum": jnp.ones(3)})


@pytest.mark.versions
def test_the_newest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path / "two") as checkpoints:
        with pytest.raises(InputError, match="holds no checkpoint"):
            checkpoints.restore(small(0))
        for step in (1, 2, 3):
            checkpoints.save(small(step), {})
            checkpoints.save(small(step), {})  # twice the same is no error
        assert checkpoints.steps() == [2, 3]
    with Checkpoints(tmp_path / "best", keep_last=1, keep_best=2) as checkpoints:
        for step, accuracy in enumerate((0.3, 0.5, 0.4, None, 0.2), start=1):
            checkpoints.save(small(step), {}, test_accuracy=accuracy)
        assert checkpoints.steps() == [2, 3, 5]
        assert checkpoints.best() == 2
    with Checkpoints(tmp_path / "best", read_only=True) as checkpoints:
        assert checkpoints.best() == checkpoints.choose("best") == 2
        assert checkpoints.choose("latest") == 5


@pytest.mark.versions
def test_killed_while_an_old_one_is_removed(tmp_path, capsys):
    """What is not kept any more gets another name first, under which nothing looks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if it had been killed before
        with Checkpoints(tmp_path, keep_last=1) as checkpoints:
            checkpoints.save(small(1), {})
            checkpoints.save(small(2), {})
    (left,) = (tmp_path / "discarded").iterdir()
    next(p for p in left.rglob("*") if p.is_file()).unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        assert checkpoints.folder.set_aside() == []
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "discarded").exists()


@pytest.mark.versions
@pytest.mark.parametrize(
    "notes",
    ["[1]", '{"init_timestamp_nsecs": "now"}', '{"item_handlers": 7}', "[" * 100_000, None, "{", "{}", os.mkfifo],
    ids=["list", "time", "handlers", "deep", "missing", "cut short", "empty", "pipe"],
)
def test_notes_of_orbax_have_no_sum_and_do_no_harm(tmp_path, notes):
    """Nothing reads them: neither a reader nor a run, which goes on to save and to remove."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (22, 44):
            checkpoints.save(small(step), {})
    (tmp_path / "44" / "commit_success.txt").write_text("nonsense")
    path = tmp_path / "44" / "_CHECKPOINT_METADATA"
    path.unlink()
    if callable(notes):
        notes(path)
    elif notes is not None:
        path.write_text(notes)
    said = []
    for read_only in (True, False):
        with Checkpoints(tmp_path, read_only=read_only, report=said.append) as checkpoints:
            assert int(checkpoints.restore(small(0))[0].step) == checkpoints.latest() == 44
            if not read_only:
                for step in (66, 88):
                    checkpoints.save(small(step), {})
    assert said == []
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()) == [66, 88]


@pytest.mark.versions
@pytest.mark.parametrize("model", [{"stepper": "euler"}, slow({"width": 0.5}), slow({"name": "resnet20"})], ids=str)
def test_checkpoint_of_another_network(tmp_path, config, digits, model):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(create_trainer(config, digits, ONE).state, {})
    other = create_trainer(changed(config, model=model), digits, ONE).state
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"is of another network \(params/\S+ is (of shape .*|missing) there and"),
    ):
        checkpoints.restore(other)
    narrow = small(0)._replace(params={"a": jnp.zeros(4)})
    with Checkpoints(tmp_path / "small") as checkpoints:
        checkpoints.save(small(0), {})
        with pytest.raises(InputError, match=r"is of another network \(params/a is of shape"):
            checkpoints.restore(narrow)


def test_what_is_whole_is_not_called_damaged(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small(0), {})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        said = r"this checkpoint cannot be read here, though its sums are right \(Out of memory\): keep it$"
        with pytest.raises(InputError, match=said):
            checkpoints.restore(small(0))
        (tmp_path / "0" / "about" / "metadata").write_text("")
        with pytest.raises(InputError, match="this checkpoint cannot be read: delete it, and the one before is used"):
            checkpoints.restore(small(0), 0)
        with pytest.raises(InputError, match=r"holds no checkpoint that is whole \(0\)"):
            checkpoints.restore(small(0))


NAMES = [
    "lr=[0.1]", "[2026] project/run", "a*", "a?b", "{a,b}", "a%20b", "a%2Fb", "a#b", r"c$\frac$", "größe", "e\u0301",
    "a b", "~", "$HOME", "'\"", "\n", "\udcff\udcfe", "a:b", "file:", "@x", "a~",
]  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("name", few(NAMES, ["lr=[0.1]", "a%2Fb", "größe", "\n", "\udcff\udcfe", "a~"]), ids=ascii)
def test_name_that_some_reader_interprets(tmp_path, name):
    """Whatever a folder is called, what is written there can be read, there and after a move."""
    try:
        (tmp_path / name).mkdir(parents=True)
    except OSError:
        pytest.skip("no folder can have this name here")
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        checkpoints.save(small(1), {"classes": [name]}, test_accuracy=0.5)
    (tmp_path / name / "checkpoints").rename(tmp_path / "moved")
    for place in (tmp_path / "moved", tmp_path / name / "checkpoints"):
        with Checkpoints(place, read_only=True) as checkpoints:
            found, about = checkpoints.restore(small(0))
        chex.assert_trees_all_equal(found, small(1))
        assert about == {"classes": [name], "test_accuracy": 0.5}
        place.rename(tmp_path / name / "checkpoints")


def test_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    """Before hours of training rely on a disk, or on a saver, that does not give back what it was given."""
    seal, read = integrity.seal, checkpoint._read

    def lose_a_file(folder):
        (folder / "network" / "manifest.ocdbt").unlink()
        seal(folder)

    def other_numbers(*arguments):
        state, about = read(*arguments)
        return state._replace(params=jax.tree.map(lambda x: x + 1, state.params)), about

    for module, name, fault, message in (
        (integrity, "seal", lose_a_file, "is not what is read back"),
        (checkpoint, "_read", other_numbers, r"\(other numbers\)"),
    ):
        with monkeypatch.context() as patch, Checkpoints(tmp_path / name) as checkpoints:
            patch.setattr(module, name, fault)
            with pytest.raises(InputError, match=message):
                checkpoints.save(small(0), {})


@pytest.mark.parametrize("name", ["lr=[0.1]", "größe"])
def test_name_that_cannot_be_hidden_is_refused(tmp_path, name, monkeypatch):
    """Where a system has no paths for open folders: before anything is trained."""
    monkeypatch.setattr("lmjax.training.checkpoint_folder._DESCRIPTORS", tmp_path / "none")
    with pytest.raises(InputError, match=r"can only have ASCII letters, digits and _ \. - in it: choose another"):
        Checkpoints(tmp_path / name)


def fail(*_, **__):
    raise RuntimeError("Out of memory\nwhile trying to allocate a page of bytes")
