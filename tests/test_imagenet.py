"""The ImageNet recipe from the command line, on generated photographs: LM-ResNet-50, narrow and at 32 pixels."""

import json
import shutil

import pytest

import train
from tests.data.photos import write_folder
from tests.tiny import logged, rows

pytest.importorskip("grain")

CONFIG = "configs/imagenet.py:lm_resnet50"
SMALL = [
    "--data.name", "photographs(32)", "--data.workers", "1", "--train.batch-size", "16",
    "--train.eval-batch-size", "16",
]  # fmt: skip
SHALLOW = ["--model.name", "tiny"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), train=33, val=10)


def run(images, workdir, *more):
    return train.main(["--config", CONFIG, "--data.dir", str(images), "--workdir", str(workdir), *SMALL, *more])


@pytest.mark.slow
def test_lm_resnet50_trains(images, tmp_path, capsys):
    assert run(images, tmp_path / "run", "--model.width", "0.125", "--train.epochs", "1") == 0
    assert "resnet50, lm" in (said := capsys.readouterr().out)
    assert "33 training and 10 test images" in said
    (row,) = logged(tmp_path / "run")
    assert row["step"] == 2
    assert row["learning_rate"] == pytest.approx(0.1 * 16 / 256 / 100)  # scaled with the batch, and fallen twice
    assert {name: len(k) for name, k in row["coefficients"].items()} == {
        "stage1": 2, "stage2": 3, "stage3": 5, "stage4": 2
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(images, tmp_path, capsys):
    whole, part = tmp_path / "whole", tmp_path / "part"
    options = (*SHALLOW, "--train.epochs", "2")
    assert run(images, whole, *options) == 0
    first, second = logged(whole)
    assert first["train_loss"] != second["train_loss"]
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints" / "4")  # as if it had been killed in the second epoch
    (part / "summary.json").unlink()
    assert run(images, part, *options, "--resume", "--data.workers", "0") == 0
    assert "going on after epoch 1" in capsys.readouterr().out
    assert rows(part) == rows(whole)


@pytest.mark.slow
def test_a_truncated_photograph_is_named_or_skipped(images, tmp_path, capsys):
    small = (*SHALLOW, "--train.epochs", "1", "--train.batch-size", "32")
    shutil.copytree(images, tmp_path / "images")
    for broken in ("train/n1/4.JPEG", "val/n0/3.JPEG"):
        path = tmp_path / "images" / broken
        path.write_bytes(path.read_bytes()[:-100])
    assert run(tmp_path / "images", tmp_path / "a", *small) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train/n1/4.JPEG: cannot be decoded (image file is truncated" in said
    assert "--data.on-error skip" in said
    assert run(tmp_path / "images", tmp_path / "b", *small, "--data.on-error", "skip") == 0
    said = capsys.readouterr().err
    assert "images could not be decoded, and were skipped: " in said
    assert "val/n0/3.JPEG" in said
    (row,) = logged(tmp_path / "b")
    assert row["broken_images"] >= 1
    assert row["test_accuracy"] * 9 == pytest.approx(round(row["test_accuracy"] * 9))

    assert run(images, tmp_path / "unused", *small, "--data.on-error", "skip", "--evaluate", str(tmp_path / "b")) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"step", "test_loss", "test_accuracy", "broken_images"}
    assert found["broken_images"] == 0
