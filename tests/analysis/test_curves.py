"""Learning curves of runs: their numbers, their picture, and runs that have none yet."""

import json
import re
import shutil

import numpy as np
import pytest

from lmjax import InputError, drawing
from lmjax.analysis.curves import draw_curves, read_curves
from tests.analysis import main
from tests.analysis.handmade import OWN_SCHEME, own_run


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_curves_of_seeds(runs, tmp_path, capsys):
    label, values = read_curves(runs["lm"])
    assert label == "resnet14, lm"
    seeds = [rows(runs["lm"] / f"seed{n}") for n in (0, 1)]
    np.testing.assert_allclose(values["test error, %"], [[100 - 100 * r["test_accuracy"] for r in s] for s in seeds])
    np.testing.assert_allclose(values["training loss"], [[row["train_loss"] for row in seed] for seed in seeds])
    assert main(["curves", *map(str, runs.values()), "--out", str(tmp_path / "curves.svg")]) == 0
    assert f"{values['test error, %'][:, -1].mean():.4g}" in capsys.readouterr().out
    assert (tmp_path / "curves.svg").stat().st_size > 5000


def test_picture_has_the_mean_and_the_range(runs):
    label, values = read_curves(runs["lm"])
    error, loss = draw_curves([(label, values), read_curves(runs["euler"])]).axes
    assert [axes.get_ylabel() for axes in (error, loss)] == list(values)
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["resnet14, lm", "resnet14, euler"]
    np.testing.assert_allclose(error.lines[0].get_ydata(), values["test error, %"].mean(0))
    assert len(error.collections) == 1  # of the run with two seeds
    assert [line.get_color() for line in error.lines] == list(drawing.COLORS[:2])


def test_runs_called_the_same_are_told_apart_and_none_counts_twice(runs, tmp_path, monkeypatch, capsys):
    for name in ("e1", "e2"):
        shutil.copytree(runs["euler"], tmp_path / name / "a", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.chdir(tmp_path)
    given = ["e1/a", "e2/a", str(tmp_path / "e1" / "a"), str(runs["lm"]), str(runs["lm"] / "seed1")]
    assert main(["curves", *given]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [re.split(r"  +", line)[:2] for line in lines] == [
        ["resnet14, euler (e1/a)", "1"], ["resnet14, euler (e2/a)", "1"], ["resnet14, lm", "2"],
    ]  # fmt: skip


def test_a_scheme_of_ones_own(runs, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN_SCHEME)
    run = str(own_run(runs["euler"], tmp_path / "run"))
    assert main(["curves", run]) == 2
    assert "own_euler" in capsys.readouterr().err
    assert main(["curves", run, "--config", str(tmp_path / "own.py")]) == 0
    assert "resnet14, own_euler" in capsys.readouterr().out


def test_mistakes(tmp_path, runs, capsys):
    with pytest.raises(InputError, match="holds no run"):
        read_curves(tmp_path)
    (tmp_path / "config.json").write_text((runs["euler"] / "config.json").read_text())
    with pytest.raises(InputError, match="has no epoch yet"):
        read_curves(tmp_path)
    assert main(["curves", str(runs["euler"]), "--out", str(tmp_path / "x.docx")]) == 2
    assert "is no picture" in capsys.readouterr().err
