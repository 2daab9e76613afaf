"""train.py --seeds: several runs, their mean and standard deviation."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import train
from lmjax import devices
from tests.tiny import environment

SMALL = ["--config", "tests/tiny.py", "--train.epochs", "1"]


def run(*arguments):
    return train.main([*SMALL, *map(str, arguments)])


def program(*arguments):
    words = [sys.executable, "train.py", *SMALL, *map(str, arguments)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "seeds"
    assert run("--workdir", workdir, "--seeds", 3, 1) == 0
    return workdir


def test_each_seed_is_a_run_and_the_summary_is_over_them(finished, tmp_path):
    summary = read(finished / "summary.json")
    assert summary["seeds"] == [3, 1]
    for key in ("test_accuracy", "test_loss"):
        values = [read(finished / f"seed{seed}" / "summary.json")[key] for seed in (3, 1)]
        assert summary[key]["values"] == values
        assert summary[key]["mean"] == pytest.approx(np.mean(values))
        assert summary[key]["std"] == pytest.approx(np.std(values, ddof=1))
    # The second has found nothing of the first: it is the run that it would have been alone.
    assert run("--workdir", tmp_path / "alone", "--seeds", 1) == 0
    assert read(tmp_path / "alone" / "summary.json")["test_loss"]["std"] is None, "of one seed"
    alone, among = (read(path / "seed1" / "metrics.jsonl") for path in (tmp_path / "alone", finished))
    for key in ("train_loss", "test_loss", "coefficients"):
        assert alone[key] == among[key]


def test_resume_goes_on_with_some_and_starts_the_others(finished, capsys):
    before = read(finished / "seed3" / "summary.json")
    assert run("--workdir", finished, "--resume", "--seeds", 3, 1, 2) == 0
    said = capsys.readouterr().out
    assert said.count("is finished: test accuracy") == 2
    assert "test accuracy of 3 seeds" in said
    assert len(read(finished / "summary.json")["test_loss"]["values"]) == 3
    assert read(finished / "seed3" / "summary.json")["test_loss"] == before["test_loss"]
    assert run("--workdir", finished, "--resume", "--seeds", 1) == 0
    assert {*read(finished / "summary.json")["seeds"]} == {3, 1, 2}, "those that are there already count"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", 0, 1, 0], "--seeds: 0 twice: give each seed once"),
        (["--seeds", -1], "--seeds: must be from 0 to 2**32 - 1, got -1"),
        (["--seeds", 0, 1, "--seed", 1], "--seed and --seeds: give one of them"),
        (["--seeds", 0, "--evaluate", "runs/a"], "--seeds: does not go with --evaluate"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_what_a_folder_holds_already(finished, tmp_path, capsys):
    """Said before the first seed is trained, and nothing is written."""
    summary = read(finished / "seed3" / "summary.json")
    for options, message in (
        (("--workdir", finished, "--seeds", 8), "already holds seeds: go on with them by --resume"),
        (("--workdir", finished / "seed3", "--seeds", 8, "--resume"), "holds a single run, not one of several seeds"),
        (("--workdir", tmp_path / "misspelt", "--seeds", 8, "--resume"), "holds no run of several seeds to go on with"),
        (("--workdir", finished, "--seeds", 8, 1, "--resume", "--train.epochs", 3), "train.epochs 1 (now 3)"),
        (("--workdir", finished, "--resume"), "name one (seed1"),
        (("--evaluate", finished), "or train all with --seeds"),
    ):
        assert run(*options) == 2
        assert message in capsys.readouterr().err
    assert not (finished / "seed8").exists()
    assert not (finished / "metrics.jsonl").exists()
    (tmp_path / "begun" / "seed1").mkdir(parents=True)
    shutil.copy(finished / "seed1" / "config.json", tmp_path / "begun" / "seed1")
    for resume in ((), ("--resume", "auto")):
        assert run("--workdir", tmp_path / "begun", *resume) == 2
        assert "already holds runs of several seeds (seed1): go on with them by --seeds" in capsys.readouterr().err
    assert read(finished / "seed3" / "summary.json") == summary


def test_all_seeds_are_made_longer_and_without_a_config(tmp_path, capsys):
    assert run("--workdir", tmp_path / "run", "--seeds", 0, 1) == 0
    rest = ["--workdir", str(tmp_path / "run"), "--resume", "--train.epochs", "2"]
    assert train.main([*rest, "--seeds", "0"]) == 2
    assert "seed1 holds another run, with train.epochs 1 (now 2)" in capsys.readouterr().err
    assert train.main([*rest, "--seeds", "0..1"]) == 0
    assert [read(tmp_path / "run" / f"seed{seed}" / "summary.json")["epochs"] for seed in (0, 1)] == [2, 2]


def test_a_cpu_becomes_a_device_for_each_of_two_seeds(tmp_path):
    result = program("--workdir", tmp_path / "both", "--seeds", 0, 1)
    assert result.returncode == 0, result.stderr
    count = min(2, devices.cores())
    assert (f"{count} times on {count} x cpu" in result.stdout) == (count > 1)
    assert read(tmp_path / "both" / "summary.json")["seeds"] == [0, 1]


@pytest.mark.slow
def test_two_that_diverge_at_the_same_time_leave_no_broken_checkpoint(tmp_path):
    result = program("--workdir", tmp_path / "both", "--seeds", 0, 1, "--optimizer.learning-rate", 1e30)
    assert result.returncode == 2
    assert "loss is nan at step" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "both" / "seed1" / "config.json").exists(), "both were under way"
    assert not list((tmp_path / "both").glob("seed*/checkpoints/[0-9]*"))
