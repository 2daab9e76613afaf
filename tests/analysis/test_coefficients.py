"""The learned coefficients of runs: as they were written, on the picture, and against the edge of zero-stability."""

import dataclasses
import json
import re

import numpy as np
import pytest

from lmjax import InputError, analysis, networks, steppers
from lmjax.results import plots
from lmjax.results.coefficients import Coefficients, changes
from lmjax.results.runs import read_run
from lmjax.training.run_record import seed_folders
from tests.analysis import main
from tests.analysis.handmade import write_run
from tests.tiny import ROOT, said_on

EPOCHS = [{"stage1": [-0.1, -0.2], "stage2": [0.1]}, {"stage1": [-0.3, 0.4], "stage2": [-1.25]}]


@pytest.fixture
def seeds(tmp_path):
    """The folder of two seeds."""
    for seed in (2, 10):
        shifted = [{stage: [k + seed / 100 for k in ks] for stage, ks in epoch.items()} for epoch in EPOCHS]
        write_run(tmp_path / "runs" / f"seed{seed}", "lm", shifted, seed=seed)
    return tmp_path / "runs"


def test_reads_what_was_written(tmp_path):
    (learned,) = analysis.read_learned(write_run(tmp_path / "run", "lm(-0.5, 0.0)", EPOCHS))
    assert learned.name == "resnet20, lm(-0.5, 0.0), digits"
    assert learned.stepper is steppers.lm(-0.5, 0.0)
    assert (learned.epochs, learned.stages) == ([1, 2], ["stage1", "stage2"])
    np.testing.assert_array_equal(learned.values["stage1"], [[-0.1, -0.2], [-0.3, 0.4]])
    np.testing.assert_array_equal(learned.k()["stage2"], [[0.1], [-1.25]])
    schemes = learned.schemes()
    assert [s.label for s in schemes["stage1"]] == ["stage1, step 1, k = -0.3", "stage1, step 2, k = 0.4"]
    assert [s.coef.item() for s in schemes["stage1"]] == [-0.3, 0.4]
    np.testing.assert_allclose(learned.margins()["stage1"], [0.7, 0.6], atol=1e-6)
    np.testing.assert_allclose(learned.margins()["stage2"], [-0.25], atol=1e-6)


def test_several_coefficients_a_step(tmp_path):
    a, b = [[0.5, 0.5], [1.5, -0.5]], [[1.0, 0.25], [0.75, 0.0]]
    run = write_run(tmp_path / "run", "learned_multistep(2)", [{"stage1.0": a, "stage1.1": b}])
    (learned,) = analysis.read_learned(run)
    assert {name: x["stage1"][-1].tolist() for name, x in learned.weights().items()} == {
        "0[0]": [0.5, 1.5], "0[1]": [0.5, -0.5], "1[0]": [1.0, 0.75], "1[1]": [0.25, 0.0]
    }  # fmt: skip
    second = learned.schemes()["stage1"][1]
    np.testing.assert_array_equal(second.coef, [a[1], b[1]])
    np.testing.assert_allclose(learned.margins()["stage1"], [0.5, 0.5], atol=1e-6)
    with pytest.raises(InputError, match="learned_multistep2 has several coefficients a step"):
        learned.k()
    left, right = analysis.draw_coefficients([learned]).axes
    (legend,) = left.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0[0]", "0[1]", "1[0]", "1[1]"]
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), [0.5, 0.5], atol=1e-6)


def test_stages_with_more_coefficients_than_others(tmp_path, capsys):
    stages = {"stage1": [[1.0, 2.0]], "stage2": [[1.0, 2.0, 3.0]] * 2}  # k of a stage of two steps, and of three
    assert main(["coefficients", str(write_run(tmp_path / "run", "dense", [stages]))]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("stage")]
    assert [row[2:-1] for row in rows] == [["1.0000", "2.0000"], *[["1.0000", "2.0000", "3.0000"]] * 2]


def test_network_with_a_scheme_of_its_own(tmp_path):
    design = dataclasses.replace(networks.get("resnet20"), stepper=steppers.lm())
    networks.registry.register(lambda: design, name="own")
    run = write_run(tmp_path / "run", None, EPOCHS, name="own")
    (learned,) = analysis.read_learned(run)
    assert (learned.name, learned.stepper) == ("own, digits", steppers.lm())


def test_the_worst_channel_decides(tmp_path):
    k = [[-0.5, 0.1, 0.7], [0.2, 0.2, -1.5]]
    (learned,) = analysis.read_learned(write_run(tmp_path / "run", "lm(per_channel=True)", [{"stage1": k}]))
    np.testing.assert_allclose(learned.k()["stage1"], [[0.1, -1.1 / 3]])
    np.testing.assert_allclose([s.coef for s in learned.schemes()["stage1"]], [[0.1], [-1.1 / 3]])
    np.testing.assert_allclose(learned.margins()["stage1"], [0.3, -0.5], atol=1e-6)


def test_a_scheme_over_a_stage_is_judged_by_its_step(tmp_path):
    k = [[-0.02, -0.06, 0.0], [-0.04, -0.04, 0.0]]  # over three states, of which the last has no weight
    (learned,) = analysis.read_learned(write_run(tmp_path / "run", "dense", [{"stage1": k}]))
    assert learned.schemes()["stage1"][0].stepper is steppers.dense(3)
    np.testing.assert_allclose(learned.margins()["stage1"], [1 - 0.75, 1 - 0.5], atol=1e-6)


@pytest.mark.versions
def test_picture(seeds):
    left, right, bar = analysis.draw_coefficients(analysis.read_learned(seeds), "a title").axes
    lines = [line.get_xydata() for line in left.get_lines()]
    np.testing.assert_allclose(np.concatenate(lines[:2]), [[1, -0.24], [2, 0.46], [3, -1.19]])  # the mean
    band, point = left.collections
    extent = band.get_paths()[0].get_extents()
    np.testing.assert_allclose([extent.y0, extent.y1], [-0.3 + 0.02, 0.4 + 0.1])  # the range
    np.testing.assert_allclose(point.get_segments(), [[[3, -1.25 + 0.02], [3, -1.25 + 0.1]]])
    assert [x[0] for x in (line.get_xdata() for line in left.get_lines()[2:4])] == [0.5, 2.5]  # where stages begin
    assert [text.get_text() for text in left.texts] == ["stage1", "stage2", "not zero-stable"]
    (unstable,) = left.patches
    assert unstable.get_y() == left.get_ylim()[0]
    assert unstable.get_y() + unstable.get_height() == pytest.approx(-1, abs=1e-2)
    ways = [line.get_xydata() for line in right.get_lines()[:3]]
    np.testing.assert_allclose(ways[2], [[1, 0.16], [2, -1.19]])
    assert len({line.get_color() for line in right.get_lines()[:3]}) == 3
    assert bar.get_ylabel() == "learned step"


def test_runs_of_different_lengths_have_the_epochs_in_common(tmp_path):
    runs = [write_run(tmp_path / str(n), "lm", EPOCHS[:n]) for n in (1, 2)]
    figure = analysis.draw_coefficients([analysis.read_learned(run)[0] for run in runs])
    assert figure.axes[1].get_lines()[0].get_xdata().tolist() == [1]


def test_command(seeds, tmp_path, capsys):
    assert main(["coefficients", str(seeds), "--out", str(tmp_path / "k.png")]) == 0
    printed = capsys.readouterr().out
    assert "resnet20, lm, digits: after epoch 2" in printed
    assert re.search(r"^stage2, 1 +-1\.1900 +0\.0566 +-0\.2300$", printed, re.MULTILINE)  # 0.08 / sqrt(2)
    assert re.search(r"^into stage2 +-1\.65 +-1\.65 to -1\.65 +2 of 2$", printed, re.MULTILINE)
    assert "2 of 6 learned steps are not zero-stable" in printed
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    assert main(["coefficients", str(seeds / "seed2")]) == 0
    assert re.search(r"^stage2, 1 +-1\.2300 +-0\.2300$", capsys.readouterr().out, re.MULTILINE)


def test_changes_at_the_boundaries_and_at_the_end():
    k = {"stage1": np.array([[1.0, 2.0], [3.0, 4.0]]), "stage2": np.array([[7.0], [8.0]]), "stage3": np.eye(2)}
    found = {place: np.subtract(after, before).tolist() for place, (before, after) in changes(k).items()}
    assert found == {"into stage2": [5, 4], "into stage3": [-6, -8], "in the last step": [-1, 1]}
    assert changes({"stage1": np.ones((2, 1))}) == {}


def test_the_gallery_has_what_the_records_say(capsys):
    """That of the learned k: the numbers on the page, and what it says of them."""
    assert main(["coefficients", str(ROOT / "results" / "small" / "lm")]) == 0
    printed, page, said = (
        capsys.readouterr().out,
        (ROOT / "docs" / "gallery.md").read_text(),
        said_on("docs/gallery.md"),
    )
    (changes,) = re.findall(r"^change of k .*?(?=\n\n)", printed, re.MULTILINE | re.DOTALL)
    assert f"```\n{changes}\n```" in page
    assert re.search("^into stage3 +-.* 20 of 20$", changes, re.MULTILINE), "lower, with every seed"
    assert "0 of 240 learned steps are not zero-stable" in printed

    ends = [run.epochs[-1]["coefficients"] for run in map(read_run, seed_folders(ROOT / "results" / "small" / "lm"))]
    k = {stage: np.array([np.ravel(end[stage]) for end in ends]) for stage in ("stage1", "stage2", "stage3")}
    values = np.concatenate(list(k.values()), axis=1)
    left, rise2, rise3 = np.mean((values < -0.1) | (values > 0)), *(np.diff(k[f"stage{i}"])[:, 0] for i in (2, 3))
    assert f"{left:.0%} of all $k$ have left their initial range" in said
    assert f"by {rise2.mean():.2f} in stage 2, with all {sum(rise2 > 0)} seeds" in said
    assert f"by {rise3.mean():.2f} in stage 3, with {sum(rise3 > 0)} of {len(rise3)} " in said


def test_command_on_a_trained_run(runs, tmp_path, capsys):
    assert main(["coefficients", str(runs["lm"]), "--out", str(tmp_path / "k.pdf")]) == 0
    printed = capsys.readouterr().out
    summaries = [json.loads((runs["lm"] / f"seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    margins = [summary["zero_stability"]["stage1"][0] for summary in summaries]
    (line,) = re.findall(r"^stage1, 1 .*", printed, re.MULTILINE)
    assert float(line.split()[-1]) == pytest.approx(min(margins), abs=1e-4)
    assert (tmp_path / "k.pdf").exists()


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        (None, "has no epoch yet"),
        ("", "has no epoch yet"),
        ('{"stage1": [NaN]}', "metrics.jsonl: has coefficients that are not finite"),
        ('{"stage1": ["x"]}', "metrics.jsonl: line 1: coefficients is not what a run writes"),
        ('{"stage1": [[0.1], [0.1, 0.2]]}', "metrics.jsonl: line 1: coefficients is not what a run writes"),
        ('{"stage1": [0.1], "stage3": [0.1]}', "metrics.jsonl: its coefficients are not those of one network"),
        ('{"stage1.0": [1], "stage1.1": [1]}', "stage1 has 2 kinds of coefficients, and lm as it is now has 1"),
    ],
)
def test_broken_runs_are_one_line(coefficients, message, tmp_path, capsys):
    """With these as the coefficients of the first epoch; None without the file."""
    metrics = write_run(tmp_path / "run", "lm", EPOCHS) / "metrics.jsonl"
    first, second = metrics.read_text().splitlines(keepends=True)
    first = re.sub('("coefficients": ).*}', rf"\1{coefficients}}}", first) if coefficients else ""
    metrics.write_text(first + second if "stage3" in first else first)
    if coefficients is None:
        metrics.unlink()
    assert main(["coefficients", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_picture_at_the_end_of_a_run_is_the_same_line(tmp_path):
    rows = [{"epoch": 2, "coefficients": EPOCHS[-1]}]
    found = Coefficients.of(rows, steppers.get("lm"), tmp_path, "resnet20, lm, digits")
    (axes,) = plots.run_coefficients(found, "a title").axes
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [[[1, -0.3], [2, 0.4]], [[3, -1.25]]]
