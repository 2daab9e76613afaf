"""A run that is opened again: its network, its data, and what cannot be opened."""

import json
import shutil

import jax
import numpy as np
import pytest

import lmjax
from lmjax import InputError, networks
from lmjax.analysis.robustness import attacked
from lmjax.training import RunRecord, data_mesh
from tests.tiny import changed


@pytest.mark.versions
def test_network_of_a_run(runs):
    directory = runs["lm"] / "seed1"
    summary = json.loads((directory / "summary.json").read_text())
    with lmjax.load(directory) as trained:
        assert trained.name == "tiny, lm"
        assert trained.step == summary["steps"]
        model = trained.model()
        right = sum(int((trained.logits(model, x).argmax(-1) == y).sum()) for x, y in trained.test_batches())
        assert right / len(trained.dataset.test) == pytest.approx(summary["test_accuracy"])
        assert trained.evaluate()["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-5)


def test_on_any_number_of_devices(runs, monkeypatch):
    """Only training divides its batches, of 64 images here, and only there are they compared with the data."""
    summary = json.loads((runs["euler"] / "summary.json").read_text())
    monkeypatch.setattr("lmjax.training.trained_network.data_mesh", lambda: data_mesh(jax.devices()[:3]))
    config = changed(RunRecord(runs["euler"]).config(), train={"shard_parameters": True, "batch_size": 2000})
    with lmjax.load(runs["euler"], config=config) as trained:
        assert trained.mesh.size == 3
        assert trained.evaluate()["test_accuracy"] == summary["test_accuracy"]
        images, labels = trained.test_sample(100)
        found = attacked(trained, images, labels, radii=(), sigmas=(16,), seed=0)
        logits = trained.logits(trained.model(), images)
    np.testing.assert_array_equal(found["clean"]["correct"], logits.argmax(-1) == labels)


def test_the_network_without_its_data(runs, monkeypatch):
    def gone(*_, **__):
        raise InputError("the data is gone")

    monkeypatch.setattr("lmjax.data.datasets.load", gone)
    with lmjax.load(runs["lm"] / "seed1", at="best") as trained:
        assert trained.classes == tuple("0123456789")
        assert trained.logits(trained.model(), np.zeros((3, 8, 8, 1), np.uint8)).shape == (3, 10)
        for ask in (lambda: trained.dataset, trained.evaluate, lambda: trained.test_sample(1)):
            with pytest.raises(InputError, match="the data is gone"):
                ask()


def test_images_are_those_of_the_test_split(runs):
    with lmjax.load(runs["euler"]) as trained:
        test = trained.dataset.test
        images, labels = map(np.concatenate, zip(*trained.test_batches(), strict=True))
        np.testing.assert_array_equal(images, test.images)
        np.testing.assert_array_equal(labels, test.labels)
        images, labels = trained.test_sample(50, seed=3)
        chosen = np.sort(np.random.default_rng(3).choice(len(test), 50, replace=False))
        np.testing.assert_array_equal(images, test.images[chosen])
        np.testing.assert_array_equal(labels, test.labels[chosen])
        assert len(trained.test_sample(10**6)[1]) == len(test)


def test_logits_are_differentiable_in_the_pixels(runs):
    with lmjax.load(runs["euler"]) as trained:
        model, (images, _) = trained.model(), trained.test_sample(4)
        gradient = jax.grad(lambda x: trained.logits(model, x).sum())(images.astype(np.float32))
        assert gradient.shape == images.shape
        assert np.abs(gradient).max() > 0


def test_pictures_of_a_run(runs):
    pytest.importorskip("matplotlib")
    found = {folder: {path.name for path in runs[folder].rglob("*.png")} for folder in ("lm", "euler")}
    assert found == {"lm": {"learning_curves.png", "coefficients.png"}, "euler": {"learning_curves.png"}}


def test_what_cannot_be_opened(runs, tmp_path):
    with pytest.raises(InputError, match="holds no run"), lmjax.load(tmp_path):
        pass
    for at in (7, "last", "9" * 5000):
        with pytest.raises(InputError, match=f"no checkpoint {at}: choose from latest, best, "):
            lmjax.load(runs["euler"], at=at)
    shutil.copytree(runs["euler"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="holds no checkpoint"), lmjax.load(tmp_path / "run"):
        pass
    with lmjax.load(runs["euler"]) as trained:
        other = changed(trained.config, model={"stepper": "lm"})
    with pytest.raises(InputError, match=r"model\.stepper"), lmjax.load(runs["euler"], config=other):
        pass


def test_a_network_of_a_config_that_is_not_there(runs, monkeypatch):
    monkeypatch.delitem(networks.registry._makers, "tiny")
    with pytest.raises(InputError, match=r"unknown network 'tiny'.*registers it, give that by --config FILE"):
        lmjax.load(runs["euler"])
