"""A table from its runs to its page, and everything that can go wrong in between."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lmjax import InputError
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lmjax.reproduce import __main__ as command
from lmjax.reproduce import results, runs, writing
from lmjax.reproduce.tables import Table

ROOT = Path(__file__).parent.parent.parent
DATA = {"name": "digits"}


@pytest.fixture(scope="module")
def small():
    def row(scheme):
        return Config(
            data=DataConfig(pad=1, flip=False),
            model=ModelConfig("resnet14", scheme, width=0.25),
            optimizer=OptimizerConfig(learning_rate=0.05),
            train=TrainConfig(epochs=1, batch_size=128),
        )

    rows = {"euler": row("euler"), "lm": row("lm")}
    return Table("claim", "protocol", rows, {"euler": 2, "lm": 3}, (("lm", "euler"),))


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    runs.make(small, out, data=DATA)
    results.describe(out, "small", None, default="Digits")
    return out


def test_seed_by_seed(small):
    pairs = [("euler", 0), ("lm", 0), ("euler", 1), ("lm", 1)]
    assert list(runs.order(small, None)) == [*pairs, ("lm", 2)]
    assert list(runs.order(small, 2)) == pairs


@pytest.mark.versions
def test_runs_and_their_table(small, made, capsys):
    found = results.collect(small, made)
    assert {row: list(seeds) for row, seeds in found.items()} == {"euler": [0, 1], "lm": [0, 1, 2]}
    before = {path: path.stat().st_mtime_ns for path in made.rglob("summary.json")}
    runs.make(small, made, data=DATA)
    assert "5 of 5 runs are finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("summary.json")}  # nothing is done twice

    text = writing.markdown(small, made)
    lm = np.array([100 * (1 - found["lm"][seed]["test_accuracy"]) for seed in range(3)])
    euler = np.array([100 * (1 - found["euler"][seed]["test_accuracy"]) for seed in range(2)])
    assert f"| 3 | {lm.mean():.2f} ± {lm.std(ddof=1):.2f} |" in text
    test = stats.ttest_rel(lm[:2], euler)
    low, high = test.confidence_interval(0.95)
    assert f"| `lm` minus `euler` | 2 | {(lm[:2] - euler).mean():+.2f} | {low:+.2f} to {high:+.2f} |" in text
    assert "Digits; protocol. 5 runs on" in text


def test_a_run_that_diverges_ends_no_other(small, tmp_path, capsys):
    wild = dataclasses.replace(small.rows["lm"], optimizer=OptimizerConfig(learning_rate=1e30))
    wanted = dataclasses.replace(small, rows=small.rows | {"lm": wild})
    for _ in range(2):  # the same command again says the same
        assert runs.make(wanted, tmp_path, count=1, data=DATA) == ["lm, seed 0"]
        assert "lm, seed 0: the training loss is" in capsys.readouterr().err
    assert {row: list(seeds) for row, seeds in results.collect(wanted, tmp_path).items()} == {"euler": [0], "lm": []}


def test_export_is_read_as_the_runs_are(small, made, tmp_path):
    assert results.export(small, made, tmp_path / "kept") == 5
    assert writing.markdown(small, tmp_path / "kept") == writing.markdown(small, made)
    assert not list((tmp_path / "kept").rglob("checkpoints"))


def test_a_table_without_runs(small, tmp_path):
    results.describe(tmp_path, "small", None, default="Digits")
    text = writing.markdown(small, tmp_path)
    assert "No run is finished yet" in text
    assert "| `lm` minus `euler` | 0 |" in text


def test_runs_of_another_table_are_refused(small, made):
    rows = {row: dataclasses.replace(c, train=dataclasses.replace(c.train, epochs=9)) for row, c in small.rows.items()}
    other = dataclasses.replace(small, rows=rows)
    with pytest.raises(InputError, match=r"train\.epochs"):
        runs.make(other, made, data=DATA)
    with pytest.raises(InputError, match=r"train\.epochs"):
        results.collect(other, made)


def test_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    rest = "after\n<!-- table b -->\nkept\n<!-- end -->\n"
    page.write_text(f"before `<!-- table a -->`\n<!-- table a -->\nold\n<!-- end -->\n{rest}")
    assert writing.update(page, "table a", "new \\1")
    assert page.read_text() == f"before `<!-- table a -->`\n<!-- table a -->\n\nnew \\1\n\n<!-- end -->\n{rest}"
    assert not writing.update(page, "table a", "new \\1")
    with pytest.raises(InputError, match="the lines <!-- table c -->"):
        writing.update(page, "table c", "")


@pytest.mark.parametrize(("page", "places"), [("README.md", 1), ("docs/results.md", 3)])
def test_the_pages_have_what_the_command_writes(page, places, tmp_path):
    copy = tmp_path / "page.md"
    shutil.copy(ROOT / page, copy)
    found = re.findall(r"^<!-- (tables?)(?: (.+))? -->$", copy.read_text(), re.MULTILINE)
    assert len(found) == places
    for kind, name in found:
        recorded = [name, "--out", str(ROOT / "results" / name), "--only-report"] if kind == "table" else []
        assert command.main([*recorded, "--page", str(copy)]) == 0
    assert copy.read_text() == (ROOT / page).read_text()


def test_one_folder_one_table(tmp_path):
    results.describe(tmp_path, "small", "as JPEG", default="CIFAR-10")
    results.describe(tmp_path, "small", None, default="CIFAR-10")
    assert results.about(tmp_path) == {"table": "small", "data": "as JPEG"}
    results.describe(tmp_path, "small", "as PNG", default="CIFAR-10")
    assert results.about(tmp_path)["data"] == "as PNG"
    with pytest.raises(InputError, match="holds the runs of the table 'small'"):
        results.describe(tmp_path, "depth", None, default="CIFAR-10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "table 'nothing'"),
        (["small", "--out", "/nowhere/at/all", "--only-report"], "/nowhere/at/all: holds no runs of a table"),
        (["small", "--only-report", "--seeds", "3"], "--seeds: is for making runs"),
        (["--export", "results"], "--export: of which table?"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
