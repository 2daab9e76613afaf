"""Folders become tables: what belongs together, what it is called, what cannot be read; means and differences."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from lmjax import InputError, results
from lmjax.config import DataConfig
from lmjax.results.report import read_rows
from lmjax.results.runs import distinct, labels
from lmjax.results.statistics import Difference, difference, holm, spread
from tests.results.handmade import CONFIG, make_run
from tests.tiny import changed


def seeded(seed, **model):
    return changed(CONFIG, model=model, seed=seed)


def test_seeds_are_one_row(tmp_path):
    for seed, error in ((10, 7.0), (9, 5.0)):
        make_run(tmp_path / "lm" / f"seed{seed}", seeded(seed), error=error)
    make_run(tmp_path / "euler", seeded(0, stepper="euler"))
    make_run(tmp_path / "again-seed3-monday", seeded(3), error=9.0)
    rows = read_rows([tmp_path / "lm", tmp_path / "euler", tmp_path / "again-seed3-monday"])
    assert [[run.config.seed for run in row.runs] for row in rows] == [[3, 9, 10], [0]]
    assert rows[0].error == (pytest.approx(7.0), pytest.approx(2.0))  # of 9, 5, 7: over n - 1
    assert rows[1].error == (pytest.approx(8.0), None)
    assert rows[0].best_run().config.seed == 9


@pytest.mark.versions
def test_tables(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "lm" / f"seed{seed}", seeded(seed), error=4.0 + seed, parameters=1000)
    make_run(tmp_path / "euler", seeded(0, stepper="euler"), epochs=2, coefficients={"stage1": [-0.5]})
    folders = [tmp_path / "lm", tmp_path / "euler"]
    metrics, summaries = results.read(folders), results.summaries(folders)
    assert metrics.groupby(["run", "seed"]).epoch.apply(list).to_dict() == {
        ("lm", 0): [1, 2, 3], ("lm", 1): [1, 2, 3], ("euler", 0): [1, 2],
    }  # fmt: skip
    assert metrics[metrics.epoch == 2].test_error.tolist() == pytest.approx([12.0, 13.0, 16.0])
    assert metrics["model.stepper"].unique().tolist() == ["lm", "euler"]
    assert metrics.coefficients.iloc[-1] == {"stage1": [-0.5]}
    assert summaries[["run", "seed", "finished", "epochs"]].values.tolist() == [
        ["lm", 0, True, 3], ["lm", 1, True, 3], ["euler", 0, False, 2],
    ]  # fmt: skip
    assert summaries.folder.tolist() == [str(tmp_path / name) for name in ("lm/seed0", "lm/seed1", "euler")]
    assert summaries.test_error.tolist()[:2] == pytest.approx([4.0, 5.0])
    assert summaries.test_error.isna().tolist() == [False, False, True]
    assert summaries.best_error.tolist() == pytest.approx([4.0, 5.0, 16.0])
    assert summaries.parameters.tolist()[:2] == [1000, 1000]
    assert summaries.wall_seconds.tolist() == [180.0, 180.0, 120.0]


def test_the_same_seed_again_is_no_new_draw(tmp_path):
    first, again = (make_run(tmp_path / name, seeded(0), error=4.0) for name in ("a", "b"))
    (tmp_path / "link").symlink_to(first)
    assert [len(row.runs) for row in read_rows([first, again])] == [1, 1]
    assert [len(row.runs) for row in read_rows([first, first, tmp_path / "." / "a", tmp_path / "link"])] == [1]


@pytest.mark.parametrize("order", [("mine", "kept"), ("kept", "mine")])
def test_seeds_of_one_folder_stay_together(tmp_path, order):
    """Whichever folder is given first, no row has some seeds of one and some of the other."""
    for name, seeds, error in (("kept", range(4), 4.0), ("mine", range(2), 8.0)):
        for seed in seeds:
            make_run(tmp_path / name / "lm" / f"seed{seed}", seeded(seed), error=error)
    found = results.summaries([tmp_path / name / "lm" for name in order])
    assert found.groupby("run").test_error.agg(["count", "mean"]).round(6).T.to_dict("list") == {
        "kept/lm": [4, 4.0],
        "mine/lm": [2, 8.0],
    }


@pytest.mark.parametrize(("name", "count"), [("folder", 2), ("cifar10", 1)])
def test_folders_of_images_are_told_apart_by_their_place(tmp_path, name, count):
    """CIFAR is the same wherever it lies."""
    configs = [changed(CONFIG, data=DataConfig(name, dir=place), seed=i) for i, place in enumerate(("here", "there"))]
    found = results.summaries([make_run(tmp_path / f"run{config.seed}", config) for config in configs])
    assert len(found.run.unique()) == count


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["lm/seed0", "lm/seed1", "euler"], ["lm", "euler"]),
        (["x-seed0-0101", "x-seed1-0102", "y"], ["x", "y"]),
        (["x-seed10-0101", "x-seed11-0102"], ["x"]),
        (["one", "two"], ["one and 1 more"]),
        (["runs/lm", "results/lm"], ["lm and 1 more"]),
        (["lm/seed0"], ["lm/seed0"]),
        (["a/run", "b/run"], ["a/run", "b/run"]),
    ],
)
def test_names(places, names, tmp_path):
    steppers = {"euler": "euler", "y": "euler", "b/run": "euler"}
    made = [make_run(tmp_path / place, seeded(i, stepper=steppers.get(place, "lm"))) for i, place in enumerate(places)]
    assert results.summaries(made).run.unique().tolist() == names


def test_unfinished_runs_are_read(tmp_path):
    make_run(tmp_path / "a", seeded(0), epochs=2)
    make_run(tmp_path / "b", seeded(1, stepper="euler"), epochs=0)
    (tmp_path / "b" / "metrics.jsonl").unlink()
    a, b = read_rows([tmp_path / "a", tmp_path / "b"])
    assert a.error is None
    assert (a.seeds.best_error[0], a.seeds.best_epoch[0]) == (pytest.approx(16.0), 2)
    assert (b.error, b.best_run()) == (None, None)
    assert results.summaries([tmp_path / "b"])[["images_per_second", "wall_seconds"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("config.json", "{", r"config\.json: is not a config"),
        ("metrics.jsonl", '{"step": 1, "epoch": 1}\n', r"metrics\.jsonl: line 1: train_loss is not what"),
        ("metrics.jsonl", None, r"metrics\.jsonl: line 1: coefficients is not what"),
        (
            "summary.json",
            '{"test_accuracy": 0.5, "versions": "1"}',
            r"summary\.json: versions is not what",
        ),
    ],
)
def test_what_cannot_be_read_is_named(file, text, match, tmp_path):
    run = make_run(tmp_path / "run", CONFIG, coefficients={"stage1": ["x"]} if text is None else None)
    if text is not None:
        (run / file).write_text(text)
    with pytest.raises(InputError, match=match) as error:
        results.read([run])
    assert str(run) in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_runs_are_named(tmp_path):
    for folder, said in ((tmp_path / "nowhere", "there is no such folder"), (tmp_path, "holds no run")):
        with pytest.raises(InputError, match=f"{folder}: {said}"):
            results.read([folder])


def test_as_many_parts_of_the_paths_as_are_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert distinct([Path("e1/a"), Path("e2/a"), Path("e2/b")]) == ["e1/a", "e2/a", "e2/b"]
    assert distinct([Path("x/e1/a"), Path("y/e1/a")]) == ["x/e1/a", "y/e1/a"]
    assert distinct([Path("a/seed0"), Path("b")]) == ["a/seed0", "b"]
    assert distinct([Path("."), Path("..")]) == [tmp_path.name, tmp_path.parent.name]


def test_only_what_is_called_the_same_gets_its_name():
    titles = ["resnet20, lm", "resnet20, lm", "resnet20, euler", "resnet20, lm"]
    runs = [SimpleNamespace(name=name) for name in ("e1/a", "e1/a", "e1/b", "e2/a")]
    first = "resnet20, lm (e1/a)"
    assert labels(runs, titles) == [first, first, "resnet20, euler", "resnet20, lm (e2/a)"]


def test_a_folder_alone_need_not_be_in_a_list(tmp_path):
    make_run(tmp_path / "seed0", seeded(0))
    for folder in (tmp_path, str(tmp_path)):
        assert len(results.read(folder)) == 3
        assert len(results.summaries(folder)) == 1


@pytest.mark.parametrize("worst", [float("nan"), float("inf")])
def test_spread_of_what_is_not_finite(worst):
    found = spread([1.0, worst])
    assert not np.isfinite(found.mean)
    assert np.isnan(found.std)
    assert spread([worst]).std is None


def test_spread():
    assert spread([9, 5, 7]) == (7.0, 2.0)
    assert f"{spread([9, 5, 7]):.1f}" == "7.0 ± 2.0"
    assert f"{spread([0.5]):.1%}" == "50.0%"


def test_paired_difference_is_that_of_scipy():
    ours, theirs = {0: 7.0, 1: 8.5, 2: 6.0, 5: 1.0}, {0: 7.5, 1: 8.0, 2: 8.0, 4: 100.0}
    found = difference(ours, theirs)
    test = stats.ttest_rel([7.0, 8.5, 6.0], [7.5, 8.0, 8.0])
    assert found.count == 3
    np.testing.assert_allclose([*found.interval, found.p], [*test.confidence_interval(0.95), test.pvalue])
    correlation = np.corrcoef([7.0, 8.5, 6.0], [7.5, 8.0, 8.0])[0, 1]
    np.testing.assert_allclose([found.std, found.correlation], [np.std([-0.5, 0.5, -2.0], ddof=1), correlation])
    assert found.below == 2
    assert difference({1: 2.0}, {1: 3.0, 2: 0.0}) == Difference(1, -1.0, below=1)
    assert difference({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}) == Difference(2, 1.0, 0.0, None, 0.0)
    assert difference({1: 2.0, 2: 3.0}, {1: 2.0, 2: 3.0}) == Difference(2, 0.0, 0.0, None, 0.0)
    for last in (2.0, np.inf, np.nan, 1e300):
        assert difference({0: 2.0, 1: 2.0, 2: last}, {0: 1.0, 1: 2.0, 2: 3.0}).correlation is None
    assert difference({1: 2.0}, {2: 3.0}) is None
    assert found.mean == pytest.approx(-2 / 3)
    assert Difference(3, -0.2, 0.199).ends(2) == "-0.399 to -0.001"  # an end that is not 0 is not printed as 0


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.6, 0.5, 0.001], [1.0, 1.0, 0.003]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_correction_of_holm(values, corrected):
    np.testing.assert_allclose(holm(values), corrected)
