"""Folders become rows: what belongs together, what it is called, and what cannot be read."""

import dataclasses
import json

import pytest

from lmjax import InputError
from lmjax.config import Config, DataConfig, ModelConfig, TrainConfig
from lmjax.report.runs import read
from tests.report.handmade import make_run

CONFIG = Config(DataConfig("digits", augment=("crop(1)",)), ModelConfig("resnet14", "lm"), train=TrainConfig(epochs=3))


def seeded(seed, **model):
    model = dataclasses.replace(CONFIG.model, **model)
    return dataclasses.replace(CONFIG, model=model, seed=seed)


def test_seeds_are_one_row(tmp_path):
    for seed, error in ((10, 7.0), (9, 5.0)):
        make_run(tmp_path / "lm" / f"seed{seed}", seeded(seed), error=error)
    make_run(tmp_path / "euler", seeded(0, stepper="euler"))
    make_run(tmp_path / "again-seed3-monday", seeded(3), error=9.0)
    rows = read([tmp_path / "lm", tmp_path / "euler", tmp_path / "again-seed3-monday"])
    assert [[run.config.seed for run in row.runs] for row in rows] == [[3, 9, 10], [0]]
    mean, std = rows[0].error()
    assert (mean, std) == (pytest.approx(7.0), pytest.approx(2.0))  # of 9, 5, 7: over n - 1
    assert rows[1].error() == (pytest.approx(8.0), None)
    assert rows[0].best_run().config.seed == 9


def test_the_same_seed_again_is_no_new_draw(tmp_path):
    first, again = (make_run(tmp_path / name, seeded(0), error=4.0) for name in ("a", "b"))
    assert [len(row.runs) for row in read([first, again])] == [1, 1]
    assert [len(row.runs) for row in read([first, first, tmp_path / "." / "a"])] == [1]


def test_folders_of_images_are_told_apart_by_their_place(tmp_path):
    places = {}
    for seed, place in enumerate(("here", "there")):
        config = dataclasses.replace(CONFIG, data=DataConfig("folder", dir=place), seed=seed)
        places[place] = make_run(tmp_path / place, config)
    assert len(read(places.values())) == 2
    # CIFAR is the same wherever it lies.
    moved = [dataclasses.replace(CONFIG, data=DataConfig("cifar10", dir=str(i)), seed=i) for i in range(2)]
    assert len(read([make_run(tmp_path / f"cifar{i}", config) for i, config in enumerate(moved)])) == 1


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["lm/seed0", "lm/seed1", "euler"], ["lm", "euler"]),
        (["x-seed0-0101", "x-seed1-0102", "y"], ["x", "y"]),
        (["x-seed10-0101", "x-seed11-0102"], ["x"]),
        (["one", "two"], ["one and 1 more"]),
        (["lm/seed0"], ["lm/seed0"]),
        (["a/run", "b/run"], ["a/run", "b/run"]),
    ],
)
def test_names(places, names, tmp_path):
    steppers = {"euler": "euler", "y": "euler", "b/run": "euler"}
    made = [make_run(tmp_path / place, seeded(i, stepper=steppers.get(place, "lm"))) for i, place in enumerate(places)]
    assert [row.name for row in read(made)] == names


def test_unfinished_runs_are_read(tmp_path):
    make_run(tmp_path / "a", seeded(0), epochs=2)
    make_run(tmp_path / "b", seeded(1, stepper="euler"), epochs=0)
    (tmp_path / "b" / "metrics.jsonl").unlink()
    a, b = read([tmp_path / "a", tmp_path / "b"])
    assert (a.error(), a.runs[0].error) == (None, None)
    assert a.runs[0].best == (pytest.approx(16.0), 2)
    assert (b.error(), b.best_run(), b.runs[0].speed(), b.runs[0].seconds()) == (None, None, None, None)


def broken_config(run):
    (run / "config.json").write_text("{")


def broken_metrics(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 1}\n')


def broken_coefficients(run):
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) | {"coefficients": {"stage1": ["x"]}}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def broken_summary(run):
    (run / "summary.json").write_text(json.dumps({"test_accuracy": 0.5, "versions": "1"}))


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (broken_config, r"config\.json: is not a config"),
        (broken_metrics, r"metrics\.jsonl: line 1 has no train_loss"),
        (broken_coefficients, r"metrics\.jsonl: line 1: coefficients are not numbers"),
        (broken_summary, r"summary\.json: versions is not what it should be"),
    ],
)
def test_what_cannot_be_read_is_named(harm, match, tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    harm(run)
    with pytest.raises(InputError, match=match) as error:
        read([run])
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_runs_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        read([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=f"{tmp_path}: holds no run"):
        read([tmp_path])
