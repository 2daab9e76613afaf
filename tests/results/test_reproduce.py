"""The tables of claims: comparable rows, their runs, the pages, and everything that can go wrong in between."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from scipy import optimize, stats

from lmjax import InputError, cli, command_line, data, networks
from lmjax.config import OptimizerConfig
from lmjax.results import published
from lmjax.results.reproduce import cost, results, runs, writing
from lmjax.results.reproduce.tables import TABLES, Images, Table, table
from lmjax.results.statistics import difference, holm
from tests import tiny
from tests.parameters import slow
from tests.tiny import ROOT, changed, said_on

DATA = {"name": "digits"}
DIGITS = Images("Digits", (8, 8, 1), 10, 1437)


def test_tables_fit_together():
    """Pairs are rows, every row has its seeds, and tables that share a folder share their rows."""
    places = {}
    for found in map(table, TABLES):
        assert found.seeds.keys() == found.rows.keys() >= {row for pair in found.pairs for row in pair}
        assert min(found.seeds.values()) >= 3
        for row, config in found.rows.items():
            assert places.setdefault((found.folder, runs.folder_of(row)), (row, config)) == (row, config)
    with pytest.raises(InputError, match="did you mean 'depth'"):
        table("dept")


def parameters(model):
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}


@pytest.mark.parametrize("name", [slow("schemes"), "small"])
def test_schemes_are_compared_at_equal_cost(name):
    rows = {row: config for row, config in table(name).rows.items() if not row.endswith("9")}
    made = {row: config.model.outline(classes=10, cin=3) for row, config in rows.items()}
    macs = {row: networks.forward_macs(model, (32, 32, 3)) for row, model in made.items()}
    counts = {row: networks.parameter_count(model) for row, model in made.items()}
    learned = {row: sum(x.size for path, x in parameters(made[row]).items() if "coefficients" in path) for row in rows}
    for row in rows:
        assert macs[row] == pytest.approx(macs["euler"], rel=1e-3)  # RevNet's shortcuts are two small ones
        if row != "reversible":
            assert counts[row] - learned[row] == counts["euler"]
            assert networks.branch_evaluations(made[row]) == 15
    assert counts["reversible"] == pytest.approx(counts["euler"], rel=0.02)
    assert len({(config.optimizer, config.train, config.data) for config in rows.values()}) == 1


def test_published_rows_are_the_published_ones():
    for name in ("depth", "deep", "stochastic-depth"):
        for row, config in table(name).rows.items():
            same, comma, epochs = row.partition(", ")
            assert config.model == published.CIFAR10[same].config.model
            assert (config == published.CIFAR10[same].config) == (not comma)
            assert not comma or epochs == f"{config.train.epochs} epochs"


@pytest.mark.slow
def test_the_same_seed_draws_the_same_branches():
    rows = table("small").rows

    @functools.cache
    def drawn(row):
        model = rows[row].model
        return jax.jit(lambda: parameters(model.build(classes=10, cin=3, rngs=nnx.Rngs(5))))()

    def assert_same(row, paths):
        assert len(paths) > 10
        for path in paths:
            np.testing.assert_array_equal(drawn("euler")[path], drawn(row)[path])

    for row in ("lm", "leapfrog"):  # of one shape throughout
        assert_same(row, drawn("euler"))
    # Of the others: stem, the plain steps at the beginnings of the stages, head.
    for row in ("midpoint", "poly(2)", "rk4", "reversible"):
        assert_same(row, [path for path in drawn("euler") if "steps" not in path])


def test_the_images_are_those_that_are_trained_on():
    assert table("digits").rows["lm"] == command_line.load(ROOT / "configs" / "digits.py")
    wanted, digits = table("digits").images, data.load("digits")
    assert (wanted.shape, wanted.classes, wanted.train) == (digits.shape, len(digits.classes), len(digits.train.labels))
    for name in ("depth", "deep", "stochastic-depth", "schemes"):
        assert (table(name).images.shape, table(name).images.classes) == published.SHAPES["cifar10"]
    small = table("small")
    assert {config.data.name for config in small.rows.values()} == {f"folder({small.images.shape[0]})"}


def test_cost_is_bound_by_what_it_says():
    images = table("depth").images
    stored = published.CIFAR10["resnet20"].config
    assert cost.steps(stored, images) == 160 * 390

    def seconds(config, **bounds):
        chip = cost.Accelerator("", **{"multiplications": 1e30, "bandwidth": 1e30, "launch": 0.0} | bounds)
        return cost.hours(config, images, chip) * 3600 / (160 * 390)

    again = changed(stored, model={"memory": "remat"})
    # 19 convolutions of 3 x 3 and 2 in shortcuts, each of 7 kernels, and of 3 more that are done again, a second apart.
    assert seconds(stored, launch=1.0) == pytest.approx(21 * 7)
    assert seconds(again, launch=1.0) == pytest.approx(21 * 10)
    # 40.8 million multiplications, three times; half of what the chip can do.
    assert seconds(stored, multiplications=128 * 40.8e6 * 2) == pytest.approx(3, rel=0.01)
    assert seconds(again, multiplications=128 * 40.8e6 * 2) == pytest.approx(4, rel=0.01)
    # 31 passes over the maps of 9 branches of 86,016 numbers in all, but for the stem and the shortcuts.
    assert seconds(stored, bandwidth=128 * 4 * 86_016 * 2) == pytest.approx(31, rel=0.2)


@pytest.fixture(scope="module")
def small():
    rows = {scheme: changed(tiny.config, model={"stepper": scheme}) for scheme in ("euler", "lm")}
    return Table("claim", "protocol", rows, {"euler": 2, "lm": 3}, (("lm", "euler"),), "small", DIGITS)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    with tiny.cheap():
        assert runs.make(small, out, data=DATA) == []
    return out


@pytest.fixture
def out(made, tmp_path):
    """A copy of the runs, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def change(path, how):
    held = json.loads(path.read_text())
    how(held)
    path.write_text(json.dumps(held))


def summaries(table, out):
    return {row: {seed: run.summary for seed, run in runs.items()} for row, runs in results.collect(table, out).items()}


@pytest.mark.versions
def test_runs_and_their_table(small, made, capsys):
    pairs = [("euler", 0), ("lm", 0), ("euler", 1), ("lm", 1)]  # seed by seed
    assert list(runs.order(small, None)) == [*pairs, ("lm", 2)]
    assert list(runs.order(small, 2)) == pairs
    found = results.collect(small, made)
    assert {row: list(seeds) for row, seeds in found.items()} == {"euler": [0, 1], "lm": [0, 1, 2]}
    before = {path: path.stat().st_mtime_ns for path in made.rglob("summary.json")}
    runs.make(small, made, data=DATA)
    assert "5 of 5 runs are finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("summary.json")}  # nothing is done twice

    text = writing.markdown(small, made)
    lm = np.array([100 * (1 - found["lm"][seed].summary["test_accuracy"]) for seed in range(3)])
    euler = np.array([100 * (1 - found["euler"][seed].summary["test_accuracy"]) for seed in range(2)])
    assert f"| 3 | {lm.mean():.2f} ± {lm.std(ddof=1):.2f} |" in text
    test = stats.ttest_rel(lm[:2], euler)
    low, high = test.confidence_interval(0.95)
    difference = lm[:2] - euler
    cells = (
        f"2 | {difference.mean():+.2f} | {low:+.2f} to {high:+.2f} | {test.pvalue:.3f} | {difference.std(ddof=1):.2f}"
    )
    assert f"| `lm` minus `euler` | {cells} | {sum(difference < 0)} of 2 |" in text
    losses = [run.epochs[-1]["train_loss"] for run in found["lm"].values()]
    assert f" | {np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f} |" in text
    assert "Digits; protocol. 5 runs on" in text


def test_epochs_to_a_level():
    assert results._epochs_to(45.0, [60.0, 50.0, 40.0, 50.0]) == 2.5
    assert results._epochs_to(60.0, [60.0, 50.0]) == 1
    assert results._epochs_to(45.0, [60.0, 50.0]) == np.inf


def test_level_and_families(small, out):
    """A pair where a run never reaches the level has no number there; all pairs but the primary are corrected."""
    again = dataclasses.replace(small, rows=small.rows | {"lm, again": small.rows["lm"]}, level=100.0)
    again = dataclasses.replace(again, seeds=again.seeds | {"lm, again": 3})
    again = dataclasses.replace(again, pairs=(("lm", "euler"), ("lm, again", "euler"), ("lm, again", "lm")))
    shutil.copytree(out / "lm", out / "lm-again")
    lines = writing.markdown(again, out).splitlines()
    assert sum("| epochs to 100% |" in line for line in lines) == 2
    alone = float(next(line for line in writing.markdown(small, out).splitlines() if " minus " in line).split("|")[5])
    first, second, last, *others = (line.split("|") for line in lines if " minus " in line)
    assert float(first[5]) == float(second[5]) == pytest.approx(min(1, 3 * alone), abs=3e-3)
    assert last[5].strip() == ""  # all differ by 0
    assert float(others[0][4]) == 0  # both reach 100% in the first epoch
    decided = writing.markdown(dataclasses.replace(again, primary=("lm", "euler")), out).splitlines()
    first, second, *_ = (line.split("|")[5].strip() for line in decided if " minus " in line)
    assert first == f"{alone:.3f} (primary, not corrected)"
    assert float(second) == pytest.approx(min(1, 2 * alone), abs=2e-3)
    never = writing.markdown(dataclasses.replace(again, level=0.0), out)
    assert "| 0 of 3 |" in never
    assert "inf" not in never


def test_picture_of_the_differences(small, made, out, tmp_path):
    assert writing.picture(small, made).axes[0].get_yticklabels()[0].get_text() == "lm - euler"
    shutil.rmtree(out / "lm" / "seed1")
    with pytest.raises(InputError, match="no pair of this table has two seeds in common"):
        writing.picture(small, out)
    results.write_note(out, "Digits\n<!-- end -->")
    assert results.note(out) == "Digits <!-- end -->"
    arguments = ["reproduce", "digits", "--out", str(ROOT / "results" / "digits"), "--only-report"]
    assert cli.main([*arguments, "--picture", str(tmp_path / "differences.png")]) == 0
    assert (tmp_path / "differences.png").stat().st_size > 10_000
    for name in ("differences.txt", "differences.pgf"):
        assert cli.main([*arguments, "--picture", str(tmp_path / name)]) != 0


@pytest.mark.slow
def test_a_run_that_diverges_ends_no_other(small, tmp_path, capsys):
    wild = dataclasses.replace(small.rows["lm"], optimizer=OptimizerConfig(learning_rate=1e30))
    wanted = dataclasses.replace(small, rows=small.rows | {"lm": wild})
    for _ in range(2):  # the same command again says the same
        assert runs.make(wanted, tmp_path, count=1, data=DATA) == ["lm, seed 0"]
        assert "lm, seed 0: the training loss is" in capsys.readouterr().err
    assert {row: list(seeds) for row, seeds in results.collect(wanted, tmp_path).items()} == {"euler": [0], "lm": []}


def test_export_is_read_as_the_runs_are(small, out, tmp_path):
    kept, whole = tmp_path / "kept", writing.markdown(small, out)
    assert results.export(small, out, kept) == 5
    assert writing.markdown(small, kept) == whole
    assert not list(kept.rglob("checkpoints"))
    assert not any(str(out) in path.read_text() for path in kept.rglob("*.json"))
    shutil.rmtree(out / "lm" / "seed2")
    assert results.export(small, out, kept) == 5  # again, over itself, what is there stays


def test_export_goes_over_nothing_else(small, made, out, tmp_path):
    def refused(to, match):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=match):
            results.export(small, made, to)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    for to in (made, made / "below", made.parent):
        refused(to, "holds the runs themselves")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "below", "cannot be written")
    refused(out, "is a run itself")
    kept = tmp_path / "kept"
    results.export(small, made, kept)
    results.write_note(kept, "As JPEG")
    refused(kept, "says 'As JPEG' of its data")
    (kept / "about.json").unlink()
    change(kept / "lm" / "seed1" / "config.json", lambda held: held["train"].update(epochs=3))
    refused(kept, r"train\.epochs")
    shutil.rmtree(kept / "lm")
    shutil.rmtree(kept / "euler" / "seed0")
    metrics = kept / "euler" / "seed1" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train_loss": ', '"train_loss": 1', 1))
    refused(kept, "euler/seed1: has other numbers than")


def test_the_page_has_what_is_kept(tmp_path):
    """The runs that were exported before, too; and nothing is written where the export is refused."""
    digits, page, few = ROOT / "results" / "digits", tmp_path / "page.md", tmp_path / "few"
    shutil.copytree(digits / "lm" / "seed3", few / "lm" / "seed3")
    kept = shutil.copytree(digits, tmp_path / "kept")
    page.write_text("<!-- table digits -->\n<!-- end -->\n")
    command = ["reproduce", "digits", "--only-report", "--out", str(few), "--export", str(kept), "--page", str(page)]
    assert cli.main(command) == 0
    assert "| `lm` minus `euler` | 20 |" in page.read_text()
    results.write_note(few, "others")
    before = page.read_text()
    assert cli.main(command) == 2
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("config.json", lambda held: held.update(seed=7), "seed 7"),
        ("config.json", lambda held: held["data"].update(augment=["flip"]), r"data\.augment"),
        ("config.json", lambda held: held["data"].update(name="folder"), r"another run, with data\.name 'folder'"),
        ("config.json", lambda held: held["train"].update(epochs=9), r"train\.epochs"),
        ("config.json", lambda held: held["init"].update(run="/elsewhere"), r"init\.run '/elsewhere'"),
        ("summary.json", lambda held: held["data"].update(training_images=7), "trained on different images"),
        ("summary.json", lambda held: held.update(test_accuracy=float("nan")), "no test_accuracy"),
        ("summary.json", lambda held: held.pop("device"), "has no device"),
        ("summary.json", lambda held: held.pop("versions"), "has no versions"),
        (
            "summary.json",
            lambda held: held.update(parameters=5),
            "is of a network with 5 parameters, and its config of",
        ),
        ("summary.json", lambda held: held.update(steps=5), r"metrics\.jsonl: has not the epochs 1 to"),
    ],
)
def test_what_is_not_the_run_of_its_place_is_refused(small, out, file, how, message):
    first, other = out / "euler" / "seed0" / "summary.json", out / "lm" / "seed1" / file
    change(first, lambda held: held.pop("data"))  # an earlier version has not noted the images
    assert results.collect(small, out)["euler"].keys() == {0, 1}
    change(other, how)
    with pytest.raises(InputError, match=message):
        results.collect(small, out)


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[:1],
        lambda rows: [*rows, rows[0]],
        lambda rows: rows[::-1],
        lambda rows: [*rows[:-1], rows[-1] | {"test_accuracy": 0.5 * rows[-1]["test_accuracy"] + 0.01}],
        lambda rows: [],
    ],
)
def test_epochs_that_are_not_those_of_the_run_are_refused(small, out, edit):
    path = out / "lm" / "seed1" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 1
    path.write_text("".join(json.dumps(row) + "\n" for row in edit(rows)))
    with pytest.raises(InputError, match=r"lm/seed1/metrics\.jsonl: has not the epochs 1 to"):
        results.collect(small, out)


def test_a_run_that_was_made_longer_is_refused(small, out):
    """Its schedule began again; and of a run that has checkpoints, both files can be written anew."""
    path = out / "lm" / "seed1" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for other in (rows[0]["learning_rate"] / 2, "text"):
        path.write_text("".join(json.dumps(row | {"learning_rate": other}) + "\n" for row in rows))
        with pytest.raises(InputError, match=r"lm/seed1/metrics\.jsonl: has other learning rates than its config says"):
            results.collect(small, out)
    path.write_text(json.dumps(rows[0]) + "\n")
    assert list((path.parent / "checkpoints").iterdir())
    with pytest.raises(InputError, match=r"delete .*/seed1/summary\.json, and the same command without --only-report"):
        results.collect(small, out)


def test_what_cannot_be_told_of_is_found_before_runs_are_made(tmp_path, monkeypatch, capsys):
    out = shutil.copytree(ROOT / "results" / "digits", tmp_path / "digits")
    path = out / "lm" / "seed1" / "metrics.jsonl"
    path.write_text(path.read_text().partition("\n")[2])
    monkeypatch.setattr("lmjax.cli.reproduce.runs.make", lambda *_, **__: pytest.fail("runs are made"))
    assert cli.main(["reproduce", "digits", "--out", str(out)]) == 2
    assert f"{path}: has not the epochs 1 to 15" in capsys.readouterr().err


def test_a_difference_of_nothing_has_no_sign():
    assert [writing._signed(x, 2) for x in (-1e-9, 0.004, -0.006)] == ["+0.00", "+0.00", "-0.01"]


def test_a_copy_is_no_seed(small, out):
    found = summaries(small, out)
    shutil.copytree(out / "lm" / "seed1", out / "lm" / "seed1 (copy)")
    shutil.copytree(out / "lm" / "seed1", out / "lm" / "seed01")
    assert summaries(small, out) == found
    shutil.copytree(out / "lm" / "seed1", out / "lm" / "seed3")
    with pytest.raises(InputError, match="seed 1 "):
        results.collect(small, out)


def test_images_that_are_stored_otherwise(small, made, out):
    for path in out.rglob("checkpoints"):
        shutil.rmtree(path)
    stored = dataclasses.replace(small, images=dataclasses.replace(small.images, stored=("digits", "folder")))
    for path in out.rglob("config.json"):
        change(path, lambda held: held["data"].update(name="folder", dir="here"))
    assert summaries(stored, out) == summaries(small, made)
    change(out / "lm" / "seed1" / "config.json", lambda held: held["data"].update(name="digits", dir=None))
    with pytest.raises(InputError, match="were trained on different images"):
        results.collect(stored, out)


def test_rows_without_runs(small, out, tmp_path):
    shutil.rmtree(out / "lm")
    text = writing.markdown(small, out)
    assert "| `lm` minus `euler` | 0 |" in text
    assert "2 runs (3 of the 5 planned are missing) on" in text
    results.write_note(out, "Digits as JPEG")
    assert "Digits as JPEG; protocol. 2 runs" in writing.markdown(small, out)
    (out / "about.json").write_text("{}")
    with pytest.raises(InputError, match=r"about\.json: says nothing of the data .*: delete it"):
        writing.markdown(small, out)
    with pytest.raises(InputError, match="holds no finished run of this table"):
        writing.markdown(small, tmp_path / "none")


def test_no_run_is_made_among_others(small, out):
    """Of another recipe, on other images, or unknown."""
    shutil.rmtree(out / "lm" / "seed2")

    def refused(message, table=small):
        with pytest.raises(InputError, match=message):
            runs.make(table, out, data=DATA)

    rows = {row: changed(config, train={"epochs": 9}) for row, config in small.rows.items()}
    refused(r"train\.epochs", dataclasses.replace(small, rows=rows))
    for path in out.rglob("summary.json"):
        change(path, lambda held: held["data"].update(training_images=7))
    refused("its runs were trained on other images")
    (out / "lm" / "seed1" / "config.json").unlink()
    refused(r"lm/seed1: holds a run without a config\.json: move it away")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_place_in_a_page(tmp_path, newline):
    page = tmp_path / "page.md"

    def write(text):
        page.write_text(text.replace("\n", newline), newline="")

    def read():
        return page.read_bytes().decode().replace(newline, "\n")

    rest = "after\n<!-- table b -->\nkept\n<!-- end -->\n"
    write(f"before `<!-- table a -->`\n<!-- table a -->\nold\n<!-- end -->\n{rest}")
    for _ in range(2):
        writing.update(page, "table a", "new \\1")
        assert read() == f"before `<!-- table a -->`\n<!-- table a -->\n\nnew \\1\n\n<!-- end -->\n{rest}"
    with pytest.raises(InputError, match="the lines <!-- table c -->"):
        writing.update(page, "table c", "")
    unended = "<!-- table a -->\nkept\n<!-- table b -->\n<!-- end -->\n"
    write(unended)
    with pytest.raises(InputError, match="the lines <!-- table a --> and <!-- end -->"):
        writing.update(page, "table a", "new")
    assert read() == unended
    write("<!-- table a -->\n<!-- end -->\n" * 2)
    with pytest.raises(InputError, match="has 2 places for this"):
        writing.update(page, "table a", "new")


@pytest.mark.parametrize(
    ("page", "kind", "places"),
    [("README.md", "table", 1), ("docs/results.md", "table", 4), slow("docs/results.md", "tables", 1)],
)
def test_the_pages_have_what_the_command_writes(page, kind, places, tmp_path):
    copy = Path(shutil.copy(ROOT / page, tmp_path / "page.md"))
    found = re.findall(rf"^<!-- {kind}(?: (.+))? -->$", copy.read_text(), re.MULTILINE)
    assert len(found) == places
    for name in found:
        recorded = [name, "--out", str(ROOT / "results" / name), "--only-report"] if kind == "table" else []
        assert cli.main(["reproduce", *recorded, "--page", str(copy)]) == 0
    assert copy.read_text() == (ROOT / page).read_text()


def test_what_the_pages_say_of_the_difference_that_decides():
    found = results.collect(table("small"), ROOT / "results" / "small")
    lm, euler = (results.errors(found[row]) for row in ("lm", "euler"))
    end, later = difference(lm, euler), difference({seed: x for seed, x in lm.items() if seed >= 5}, euler)
    said, readme = said_on("docs/results.md"), said_on("README.md")
    assert (end.count, later.count) == (20, 15)
    assert f"is {end.mean:+.2f} points of test error (95% interval {end.ends(2)}, p = {end.p:.2f};" in said
    assert f"seeds 5 to 19 alone, which the earlier runs did not have: {later.mean:+.2f}, {later.ends(2)})" in said
    assert f"LM has the lower error with {end.below} of {end.count} seeds." in said
    least, most = end.interval
    assert f"LM is ahead by at most {-least:.2f} points or behind by at most {most:.2f}, with" in said
    assert f"(0.33 of 7.51%, here {0.33 / 7.51 * np.mean(list(euler.values())):.1f} points)" in said
    assert -0.33 / 7.51 * np.mean(list(euler.values())) < least < -0.33
    assert f"is {end.mean:+.2f} points of test error (95% interval {end.ends(2)}, 20 seeds)" in readme

    differences = np.array([lm[seed] - euler[seed] for seed in sorted(lm)])
    assert f"their median is {np.median(differences):+.2f}, and two of them are near +3 (seeds 12 and 17)" in said
    assert sorted(np.argsort(differences)[-2:]) == [12, 17]
    assert differences[[12, 17]] == pytest.approx(3, abs=0.25)
    assert f"decides nothing either (p = {stats.wilcoxon(differences).pvalue:.2f})" in said
    r, width = np.arctanh(end.correlation), stats.norm.ppf(0.975) / np.sqrt(20 - 3)
    low, high = np.tanh([r - width, r + width])
    assert f"from the same seed ({end.correlation:+.2f}, {low:+.2f} to {high:+.2f})" in said


def test_what_the_pages_say_of_other_recipes_and_networks():
    said, names = said_on("docs/results.md"), ("small", "recipe", "vit")
    found = {name: results.collect(table(name), ROOT / "results" / name) for name in names}
    errors = {name: {row: results.errors(runs) for row, runs in rows.items()} for name, rows in found.items()}
    for name in names[1:]:
        end = difference(errors[name]["lm"], errors[name]["euler"])
        assert end.count == 10
        assert f"`lm` minus `euler` is {end.mean:+.2f} points (95% interval {end.ends(2)}, p = {end.p:.2f})" in said
        assert f"{end.mean:+.2f} ({end.ends(2)})" in said_on("README.md")
        assert end.interval[0] < 0 < end.interval[1]  # "cannot be told apart"
    loss = difference(*(results.losses(found["vit"][row]) for row in ("euler", "lm")))
    assert "with LM, by {:.3f} ({:.3f} to {:.3f}), which is".format(loss.mean, *loss.interval) in said
    gains = []
    for row in ("euler", "lm"):
        end = difference(errors["small"][row], errors["recipe"][row])
        gains.append("{:.2f} points ({:.2f} to {:.2f})".format(end.mean, *end.interval))
    assert f"an error lower by {gains[0]} than with the recipe above" in said
    assert f"and LM by {gains[1].replace(' points', '')}." in said


def detected(seeds, tests=1):
    """The true difference, in standard deviations, that a paired t-test finds at 5% with a chance of 80%."""
    limit = stats.t.ppf(1 - 0.025 / tests, seeds - 1)
    return optimize.brentq(lambda x: stats.nct.sf(limit, seeds - 1, x * np.sqrt(seeds)) - 0.8, 0.01, 10)


def seeds_for(ratio):
    """How many seeds find a difference of this many standard deviations."""
    return next(n for n in range(3, 1000) if detected(n) <= ratio)


def test_what_the_pages_say_of_the_number_of_seeds():
    found = results.collect(table("small"), ROOT / "results" / "small")
    ends = {pair: difference(*(results.errors(found[row]) for row in pair)) for pair in table("small").pairs}
    said, std = said_on("docs/results.md"), ends["lm", "euler"].std
    low, high = (std * np.sqrt(19 / stats.chi2.ppf(q, 19)) for q in (0.975, 0.025))
    assert f"their standard deviation is {std:.2f} points, not 0.42" in said
    assert f"20 seeds find a true difference of {std * detected(20):.1f} points with a chance of 80%" in said
    numbers = [round(seeds_for(0.33 / x), -1) for x in (std, low, high)]
    assert "0.33 points would take about {} seeds ({} to {}:".format(*numbers) in said
    assert f"is known to be between {low:.2f} and {high:.2f})" in said
    low, high = (0.42 * np.sqrt(4 / stats.chi2.ppf(q, 4)) for q in (0.975, 0.025))
    tests = len(table("small").pairs) - 1
    planned, five = 0.42 * detected(20), 0.42 * detected(5, tests)
    assert f"0.42 (itself uncertain, {low:.2f} to {high:.2f})" in said
    assert f"20 seeds find a true difference of {planned:.2f} points with a chance of 80%; five seeds, with p" in said
    assert f"with p corrected, one of {five:.1f} points." in said
    stds = [end.std for end in ends.values() if end.count == 5]
    least, most = (x * detected(5, tests) for x in (min(stds), max(stds)))
    assert f"{min(stds):.1f} to {max(stds):.1f}, it is {least:.0f} to {most:.0f} points" in said


def test_what_the_pages_say_of_the_other_schemes():
    small, said = table("small"), said_on("docs/results.md")
    found = results.collect(small, ROOT / "results" / "small")
    assert all(len(found[row]) == count for row, count in small.seeds.items())
    ends = {pair: difference(*(results.errors(found[row]) for row in pair)) for pair in small.pairs}
    p = dict(zip(small.pairs[1:], holm([ends[pair].p for pair in small.pairs[1:]]), strict=True))
    for pair in small.pairs[1:]:
        assert f"{ends[pair].mean:+.2f} ({ends[pair].ends(2)})" in said
    assert "Of the other schemes, `reversible` alone differs" in said
    assert [pair[0] for pair in p if p[pair] < 0.05] == ["reversible"]
    assert f"with p = {p['reversible', 'euler']:.2f} after Holm's correction" in said
    assert f"correction p is {p['euler, 9', 'euler']:.2f}." in said
    clear = [pair for pair in p if not ends[pair].interval[0] < 0 < ends[pair].interval[1]]
    assert clear == [("reversible", "euler"), ("euler, 9", "euler")]
    assert ends["lm, 9", "euler"].interval[1] > 0.5  # "is not below the margin of 0.5"
    errors = list(results.errors(found["euler"]).values())
    five, all_ = np.mean(errors[:5]), np.mean(errors)
    assert f"with an error of {five:.2f}%; with the {all_:.2f}% of its 20 seeds, each of the five" in said
    assert f"would be {five - all_:.2f} higher" in said
