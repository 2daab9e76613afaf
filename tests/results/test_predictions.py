"""What the network of a real run takes the test images for."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError
from lmjax.config import DataConfig
from lmjax.results import report
from lmjax.results.predictions import Mistake, Predictions, predict
from lmjax.training import open_run
from tests.tiny import changed


@pytest.mark.versions
def test_confusion_is_the_accuracy_of_the_run(runs):
    (row,) = report.read_rows([runs["lm"]])
    run = row.best_run()
    part = predict(run, data_dir=None, limit=100, keep=0)
    assert (part.confusion.sum(), part.total, part.mistakes) == (100, 360, [])
    found = predict(run, data_dir=None, limit=10_000, keep=5)
    assert found.confusion.sum() == found.total == 360
    assert np.trace(found.confusion) / 360 == pytest.approx(run.summary["test_accuracy"])
    with open_run(run.record.directory) as trained:
        logits = np.concatenate([trained.logits(trained.model(), x) for x, _ in trained.test_batches()])
        labels = trained.dataset.test.labels
        images = trained.dataset.test.images
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    order = wrong[np.argsort(-shares.max(-1)[wrong])][:5]
    assert [mistake.confidence for mistake in found.mistakes] == pytest.approx(shares.max(-1)[order], rel=1e-4)
    for i, mistake in zip(order, found.mistakes, strict=True):
        np.testing.assert_array_equal(mistake.pixels, images[i])
        assert (mistake.truth, mistake.guess) == (labels[i], logits[i].argmax())


def test_report_of_real_runs(runs, tmp_path):
    text = report.write([runs["lm"], runs["euler"]], tmp_path / "report.html").read_text()
    assert text.count('class="confusion"') == 2
    assert text.count("<img ") == 2 * report._KEEP
    assert "digits: 1,437 training and 360 test images of 8 × 8 × 1, 10 classes" in text
    assert len(text) < 1_000_000


def test_nothing_is_downloaded(runs, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (row,) = report.read_rows([runs["euler"]])
    run = row.runs[0]
    for directory in (None, str(tmp_path)):
        moved = dataclasses.replace(run, config=changed(run.config, data=DataConfig("cifar10", dir=directory)))
        with pytest.raises(InputError, match=r"the data is not there \(cifar10 is not in "):
            predict(moved, data_dir=None, limit=1, keep=1)
    config = json.loads((runs["euler"] / "config.json").read_text())
    config["data"] = config["data"] | {"name": "folder", "dir": str(tmp_path / "gone")}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    (tmp_path / "run" / "metrics.jsonl").write_text((runs["euler"] / "metrics.jsonl").read_text())
    found = report._mistakes(report.read_rows([tmp_path / "run"]), None)
    said = f"No images of run: data.dir: there is no directory {tmp_path / 'gone'}."
    assert found == {"shown": [], "reasons": [said]}


def made(classes, side=8):
    pixels = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
    confusion = np.diag(np.full(classes, 10))
    confusion[3, 5], confusion[0, 1] = 7, 2
    return Predictions(tuple(f"<{i}>" for i in range(classes)), confusion, [Mistake(0.75, 3, 5, pixels)], 9, 100)


def test_many_classes_are_shown_as_pairs():
    few, many = (report.confusion(made(classes)) for classes in (39, 40))
    assert np.shape(few["matrix"]) == (39, 39)
    assert (few["shares"][0][1], few["shares"][3][5]) == (2 / 7, 1.0)  # of the largest count off the diagonal
    assert few["shares"][3][3] == 10 / 17  # of the images of the class
    assert many["pairs"][1] == [["<3>", "<5>", 7, "41.2%"], ["<0>", "<1>", 2, "16.7%"]]


def test_images_are_embedded_as_they_are():
    found = made(10)
    data = base64.b64decode(report.png(found.mistakes[0].pixels).partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), found.mistakes[0].pixels)
    large = base64.b64decode(report.png(made(10, side=224).mistakes[0].pixels).partition(",")[2])
    assert max(Image.open(io.BytesIO(large)).size) == report._SIDE
