"""Learning curves of runs: their numbers, their picture, and runs that have none yet."""

import re
import shutil

import numpy as np

from lmjax.results import plots
from tests.analysis import main
from tests.tiny import logged


def test_curves_of_seeds(runs, tmp_path, monkeypatch, capsys):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    assert main(["curves", *map(str, runs.values()), "--out", str(tmp_path / "curves.svg")]) == 0
    seeds = [logged(runs["lm"] / f"seed{n}") for n in (0, 1)]
    error = np.mean([[100 - 100 * row["test_accuracy"] for row in seed] for seed in seeds], 0)
    loss = np.mean([[row["train_loss"] for row in seed] for seed in seeds], 0)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny, lm"))
    assert line.split()[2:] == ["2", f"{len(error)}", f"{error[-1]:.4g}", f"{loss[-1]:.4g}"]
    left, right = figures[0].axes
    assert [axes.get_ylabel() for axes in (left, right)] == ["test error, %", "training loss"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["tiny, lm", "tiny, euler"]
    np.testing.assert_allclose(left.lines[0].get_ydata(), error)
    np.testing.assert_allclose(right.lines[0].get_ydata(), loss)
    assert len(left.collections) == 1  # the band, of the run with two seeds
    assert [line.get_color() for line in left.lines] == list(plots.COLORS[:2])


def test_curves_end_with_the_seed_that_is_farthest_behind(runs, tmp_path, capsys):
    shutil.copytree(runs["lm"], tmp_path / "lm", ignore=shutil.ignore_patterns("checkpoints", "summary.json"))
    path = tmp_path / "lm" / "seed1" / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert main(["curves", str(tmp_path / "lm")]) == 0
    error = np.mean([100 - 100 * logged(tmp_path / "lm" / f"seed{n}")[0]["test_accuracy"] for n in (0, 1)])
    assert capsys.readouterr().out.splitlines()[1].split()[2:5] == ["2", "1", f"{error:.4g}"]


def test_runs_called_the_same_are_told_apart_and_none_counts_twice(runs, tmp_path, monkeypatch, capsys):
    for name in ("e1", "e2"):
        shutil.copytree(runs["euler"], tmp_path / name / "a", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.chdir(tmp_path)
    given = ["e1/a", "e2/a", str(tmp_path / "e1" / "a"), str(runs["lm"]), str(runs["lm"] / "seed1")]
    assert main(["curves", *given]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [re.split(r"  +", line)[:2] for line in lines] == [
        ["tiny, euler (e1/a)", "1"], ["tiny, euler (e2/a)", "1"], ["tiny, lm", "2"],
    ]  # fmt: skip
