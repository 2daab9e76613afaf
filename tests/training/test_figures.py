"""What the learning curves mark."""

import numpy as np
import pytest

from lmjax.training import figures


@pytest.mark.parametrize(
    ("rates", "marked"),
    [
        ([1.0, 1.0, 0.1, 0.1, 0.01], [2, 4]),
        ([0.5, 1.0, 1.0, 0.1, 0.1], [3]),  # a warm-up is no drop
        (list((1 + np.cos(np.pi * np.arange(1, 9) / 8.5)) / 2), []),
        ([1.0], []),
    ],
)
def test_only_drops_of_the_learning_rate_are_marked(rates, marked, tmp_path, monkeypatch):
    axes = pytest.importorskip("matplotlib.axes")
    found = []
    monkeypatch.setattr(axes.Axes, "axvline", lambda self, x, **_: found.append(x))
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    rows = [{"epoch": n, "learning_rate": rate} | dict.fromkeys(names, 0.5) for n, rate in enumerate(rates, start=1)]
    figures.learning_curves(rows, tmp_path / "curves.png", "title")
    assert found == 2 * marked  # in either panel


def test_what_a_run_draws(runs):
    pytest.importorskip("matplotlib")
    found = {folder: {path.name for path in runs[folder].rglob("*.png")} for folder in ("lm", "euler")}
    assert found == {"lm": {"learning_curves.png", "coefficients.png"}, "euler": {"learning_curves.png"}}
