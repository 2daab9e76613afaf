"""Training on photographs that are read from disk: the same guarantees as for data in memory."""

import contextlib
import dataclasses
import multiprocessing
import shutil

import chex
import jax
import numpy as np
import pytest

from lmjax import InputError, training
from lmjax.config import DataConfig
from lmjax.data import WorkerDied, load
from lmjax.data.feed import evaluation_feed, training_feed
from lmjax.training import Trainer, data_mesh, evaluate, train_epoch
from tests import tiny
from tests.data.photos import write_folder
from tests.devices import ONE
from tests.parameters import slow
from tests.tiny import changed

pytest.importorskip("grain")
pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """50 photographs of three classes to train on, 21 to test: neither is a multiple of a batch."""
    return load(
        "photographs(16)", directory=write_folder(tmp_path_factory.mktemp("photos"), train=50, val=21), workers=0
    )


@pytest.fixture
def config():
    return changed(
        tiny.config,
        data=DataConfig("photographs(16)", augment=("crop_area(0.3)", "flip")),
        train={"batch_size": 16, "eval_batch_size": 16},
    )


def test_what_reaches_the_network(config, photographs):
    with Trainer(config, photographs, data_mesh()) as trainer:
        assert trainer.steps_per_epoch == 3
        batches = list(trainer.feed.arrays(0, [1, 1, 1]))
        images, labels = batches[0]
        assert images.shape == (16, 16, 16, 3)
        assert images.dtype == np.uint8
        assert [shard.data.shape for shard in images.addressable_shards] == [(2, 16, 16, 3)] * 8
        assert labels.dtype == np.int32
        tested = np.concatenate([np.asarray(labels) for _, labels in trainer.test_feed.arrays()])
        np.testing.assert_array_equal(tested[tested >= 0], photographs.test.labels)
        assert len(tested) == 32


def test_a_run_that_goes_on_from_any_step_is_the_run_itself(config, photographs):
    with Trainer(config, photographs, ONE) as whole, whole.reseeded(config.seed) as part:
        first = train_epoch(whole) | evaluate(whole)
        part.place([jax.device_get(whole.state)])
        second, again = (train_epoch(t) | evaluate(t) for t in (whole, part))
        chex.assert_trees_all_equal(whole.state, part.state)
        assert first["test_loss"] != second["test_loss"] == again["test_loss"]


@pytest.mark.slow  # for images in memory test_trainer.py has it, and what reaches eight devices is above
def test_eight_devices_compute_what_one_does(config, photographs):
    config = changed(config, train={"batch_size": 48})  # one step, before chaos sets in
    with Trainer(config, photographs, ONE) as one, Trainer(config, photographs, data_mesh()) as eight:
        a, b = (train_epoch(t) | evaluate(t) for t in (one, eight))
        assert one.step == eight.step == 1
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
        assert b["test_loss"] == pytest.approx(a["test_loss"], rel=1e-3)


def test_every_test_image_counts_once(config, photographs):
    metrics = []
    for batch in (8, 16, 24):
        with Trainer(changed(config, train={"eval_batch_size": batch}), photographs, ONE) as trainer:
            metrics.append(evaluate(trainer))
            assert evaluate(trainer) == metrics[-1]
    for other in metrics[1:]:
        assert other["test_accuracy"] == metrics[0]["test_accuracy"]
        assert other["test_loss"] == pytest.approx(metrics[0]["test_loss"], rel=1e-5)


def test_skipped_images_are_reported_and_do_not_count(config, tmp_path):
    root = write_folder(tmp_path, train=20, val=9)
    for broken in (root / "train" / "n1" / "4.JPEG", root / "val" / "n0" / "3.JPEG"):
        broken.write_bytes(broken.read_bytes()[:300])
    config = changed(config, train={"batch_size": 20, "eval_batch_size": 4})
    with Trainer(config, load("photographs(16)", directory=root, on_error="skip"), ONE) as trainer:
        train_epoch(trainer)
        metrics = evaluate(trainer)
        assert (metrics["test_accuracy"] * 8) % 1 == pytest.approx(0, abs=1e-6)
        for feed, name in ((trainer.feed, "n1/4.JPEG"), (trainer.test_feed, "n0/3.JPEG")):
            assert {"/".join(place.split("/")[-2:]) for place in feed.take_broken()} == {name}
            assert feed.take_broken() == []


@pytest.mark.parametrize("workers", [0, slow(2)])
def test_what_could_not_be_read_is_missed_again(config, tmp_path, workers):
    """No other batch takes its place in a feed that is used once more."""
    root = write_folder(tmp_path, train=20, val=12)
    for broken in (*sorted((root / "train" / "n1").iterdir()), root / "val" / "n1" / "4.JPEG"):
        broken.write_bytes(broken.read_bytes()[:300])
    config = changed(config, train={"batch_size": 4, "eval_batch_size": 4})
    data = load("photographs(16)", directory=root, workers=workers, threads=1)
    training, evaluation = training_feed(config, data, ONE, (0,)), evaluation_feed(config, data, ONE)
    with contextlib.closing(training), contextlib.closing(evaluation):
        for read in (evaluation.arrays, lambda: training.arrays(0, [1] * 5)):
            said = set()
            for _ in range(3):
                with pytest.raises(InputError, match="cannot be decoded") as error:
                    list(read())
                said.add(str(error.value))
            assert len(said) == 1


def test_broken_images_of_an_epoch_that_was_interrupted(config, tmp_path):
    """Each is counted once: what was read ahead is read again."""
    root = write_folder(tmp_path / "images", train=40, val=9)
    for broken in sorted((root / "train").rglob("*.JPEG"))[::2]:
        broken.write_bytes(broken.read_bytes()[:300])
    config = changed(
        config,
        data={"dir": str(root), "on_error": "skip", "workers": 0},
        train={"epochs": 1, "batch_size": 8},
        checkpoint={"steps": 2, "keep_last": 10},
        workdir=str(tmp_path / "whole"),
    )
    training.train(config)
    (whole,) = tiny.logged(tmp_path / "whole")
    assert whole["broken_images"] == 20
    part = shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for later in (part / "checkpoints").iterdir():
        if int(later.name) > 2:
            shutil.rmtree(later)
    (part / "summary.json").unlink()
    training.train(changed(config, workdir=str(part)), resume="required")
    (row,) = tiny.logged(part)
    assert {key: row[key] for key in ("broken_images", "train_loss")} == {
        key: whole[key] for key in ("broken_images", "train_loss")
    }


def test_time_of_the_steps_before_an_error_in_the_data_counts(config, tmp_path, monkeypatch):
    root = write_folder(tmp_path, train=20, val=9)
    with Trainer(changed(config, train={"batch_size": 4}), load("photographs(16)", directory=root), ONE) as trainer:
        batches = trainer.feed.arrays(0, [1] * 10)

        def broken(*_):
            yield next(batches)
            raise InputError("cannot be decoded")

        monkeypatch.setattr(trainer.feed, "arrays", broken)
        with pytest.raises(InputError, match="cannot be decoded"):
            train_epoch(trainer)
        assert trainer.sums[0].steps == trainer.step == 1
        assert trainer.sums[0].seconds > 0


def test_close_ends_the_reading_and_the_trainer_stays_usable(config, photographs):
    trainer = Trainer(config, photographs, ONE)
    before = evaluate(trainer)
    trainer.close()
    assert evaluate(trainer) == before
    trainer.close()
    trainer.close()


def test_top5_is_reported_from_a_hundred_classes_on(config, photographs):
    classes = tuple(f"n{i}" for i in range(100))
    dataset = dataclasses.replace(photographs, classes=classes)
    with Trainer(config, dataset, ONE) as trainer:
        metrics = evaluate(trainer)
        logits, labels = [], []
        model = trainer.model
        model.eval()
        for images, targets in trainer.test_feed.arrays():
            x = (np.asarray(images, np.float32) - dataset.mean) / dataset.std
            logits.append(np.asarray(model(x)))
            labels.append(np.asarray(targets))
    logits, labels = np.concatenate(logits), np.concatenate(labels)
    order = np.argsort(-logits[labels >= 0], -1)
    expected = (order[:, :5] == labels[labels >= 0][:, None]).any(-1).mean()
    assert metrics["test_top5_accuracy"] == pytest.approx(expected)
    with Trainer(config, photographs, ONE) as trainer:
        assert "test_top5_accuracy" not in evaluate(trainer)


@pytest.mark.parametrize("often", [1, slow(4)])
def test_lost_worker_is_replaced(config, photographs, capfd, often):
    """As if for want of memory: the batches are the same, unless it happens again and again."""
    config = changed(config, train={"epochs": often, "batch_size": 4})

    before = set(multiprocessing.active_children())

    def kill():
        (worker,) = set(multiprocessing.active_children()) - before
        worker.kill()
        worker.join()

    outside = dataclasses.replace(photographs, workers=1)
    with Trainer(config, photographs, ONE) as whole, Trainer(config, outside, ONE) as trainer:
        for epoch in range(often):
            expected = train_epoch(whole)["train_loss"]
            assert train_epoch(trainer, pause=lambda step: True) is None
            kill()
            if epoch < 3:
                assert train_epoch(trainer)["train_loss"] == expected
            else:
                with pytest.raises(WorkerDied, match="a process that decodes images has died"):
                    train_epoch(trainer)
                done = trainer.step - epoch * trainer.steps_per_epoch
                assert trainer.sums[0].steps == done > 0, "what was trained is counted, and can be saved"
    assert capfd.readouterr().err.count("Starting new ones") == min(often, 3)
