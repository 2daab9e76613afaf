"""What is drawn at the end of a run, for the report and in notebooks, and that a page's pictures take its colors."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from lmjax import results
from lmjax.config import ModelConfig
from lmjax.results import plots, report
from lmjax.results.published import CIFAR10
from lmjax.results.statistics import Spread
from tests.results.handmade import CONFIG, make_run
from tests.tiny import changed


def rows_of(tmp_path, *models, **options):
    for i, model in enumerate(models):
        make_run(tmp_path / f"run{i}", changed(CONFIG, model=ModelConfig(*model)), error=4.0 + i, **options)
    return report.read_rows([tmp_path / f"run{i}" for i in range(len(models))])


def axes_of(figure=None):
    return (figure or plots.figure(4, 3)).subplots()


@pytest.mark.parametrize(
    ("rates", "marked"),
    [
        ([1.0, 1.0, 0.1, 0.1, 0.01], [2, 4]),
        ([0.5, 1.0, 1.0, 0.1, 0.1], [3]),  # a warm-up is no drop
        (list((1 + np.cos(np.pi * np.arange(1, 9) / 8.5)) / 2), []),
    ],
)
def test_only_drops_of_the_learning_rate_are_marked(rates, marked):
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    rows = [{"epoch": n, "learning_rate": rate} | dict.fromkeys(names, 0.5) for n, rate in enumerate(rates, start=1)]
    rows[0] |= {"train_loss": None, "train_accuracy": None}  # no update in this epoch
    figure = plots.run_curves(rows, "title")
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["train", "test", *["drop of the learning rate"] * bool(marked)]
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines[2:]] == marked
        assert [line.get_label() for line in axes.lines[:2]] == ["train", "test"]
    assert [text.get_text() for text in axes.texts] == ["50.00%"]


def test_figures_of_a_page_have_no_color_or_id_of_their_own():
    figure = plots.figure(4, 3)
    axes = axes_of(figure)
    for i, color in enumerate(plots.COLORS):
        axes.plot([1, 2], [i, i], color=color, marker="o")
    axes.grid(color=plots.FAINT)
    axes.set_yscale("symlog")
    axes.annotate("0.12345", (1, 1))
    text = plots.inline(figure, "key", "a & b")
    assert text.startswith('<svg class="plot" viewBox="0 0 ')
    assert 'aria-label="a &amp; b"' in text
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert {f"var(--series-{i})" for i in range(7)} <= set(re.findall(r"var\(--series-\d\)", text))
    assert "var(--faint)" in text
    assert all(name.startswith("key-") for name in re.findall(r'\bid="([^"]*)"', text))
    places = [a or b for a, b in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)]
    assert places
    assert all(place.startswith("key-") for place in places)
    assert ">0.12345<" in text  # coordinates are rounded, and nothing else
    assert "<style" not in text


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (10, 2e6, ["10", "100", "1k", "10k", "100k", "1M"]),
        (260_000, 480_000, ["300k", "350k", "400k", "450k"]),
        (270_000, 276_000, ["270k", "272k", "274k", "276k"]),
        (272_300, 272_700, ["272.3k", "272.4k", "272.5k", "272.6k", "272.7k"]),
        (0.05, 30, ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]),
        (0.1, 70, ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"]),
        (1e-5, 1e4, ["0.0001", "0.01", "1", "100", "10k"]),
    ],
)
def test_a_logarithmic_axis_has_marks_however_short_it_is(low, high, marks):
    axes = axes_of()
    axes.set(xscale="log", xlim=(low, high))
    plots.plain_logarithmic(axes.xaxis)
    shown = [x for x in axes.get_xticks() if low <= x <= high]
    assert axes.xaxis.get_major_formatter().format_ticks(shown) == marks


def test_colors_are_those_of_kinds_where_that_tells_lines_apart():
    chosen = plots.looks(["lm", "euler", "lm", "euler"], ["resnet14", "resnet14", "resnet20", "resnet20"])
    assert [look["color"] for look in chosen] == [*plots.COLORS[:2]] * 2
    dashes = [look["linestyle"] for look in chosen]
    assert dashes[0] == dashes[1] != dashes[2] == dashes[3]
    chosen = plots.looks(["lm"] * 4, ["a", "b", "c", "d"])  # one kind: no use for its color
    assert [look["color"] for look in chosen] == list(plots.COLORS[:4])


def test_curves_are_means_over_the_seeds_that_have_come_so_far(tmp_path):
    for seed, epochs in enumerate((None, 1)):
        config = changed(CONFIG, seed=seed)
        make_run(tmp_path / "a" / f"seed{seed}", config, error=4.0 + 2 * seed, epochs=epochs)
    axes = axes_of()
    plots.learning_curves(axes, {"a": results.read([tmp_path / "a"])}, "test_error", "error")
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 21], [2, 12], [3, 4]])
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).height == pytest.approx(22 - 4)
    part = report._curves(report.read_rows([tmp_path / "a"]), plots.looks([0]), 0)
    assert len(part["figures"]) == 2
    assert part["table"][1] == [[1, "21", "1"], [2, "12", "0.5"], [3, "4", "0.3333"]]
    assert part["file"].endswith("a,1,1,22,1%0A")  # every epoch of every seed


def test_bands_of_curves_are_one_standard_deviation_within_the_values():
    axes = axes_of()
    plots.learning_curves(axes, {"a": {"epoch": [1, 1, 1, 2, 2, 2], "x": [1.0, 2.0, 6.0] * 2}}, "x", "x")
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).intervaly == pytest.approx([1, 3 + 7**0.5])


def test_coefficients_show_where_the_scheme_is_zero_stable(tmp_path):
    coefficients = {"stage1": [-0.5, 0.5], "stage2": [-2.0]}
    stability = {"stage1": [0.5, 0.5], "stage2": [-1.0]}
    rows = rows_of(tmp_path, ("resnet20", "lm"), coefficients=coefficients, zero_stability=stability)
    ((_, name, caption, table),) = report._coefficients(rows, plots.looks(rows), 0)["figures"]
    assert name == "run0"
    assert caption == "lm; zero-stable: k from −1 to 1; 1 of 3 learned steps are outside the zero-stable range"
    assert table[1][-1] == ["stage2", 1, "-2.0000", "-2.0000", "-2.0000"]
    axes = axes_of()
    plots.coefficients(axes, report._weights(rows[0]), stable=(-1, 1))
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [[[1, -0.5], [2, 0.5]], [[3, -2]]]
    assert [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in axes.patches] == [(axes.get_ylim()[0], -1)]
    assert [text.get_text() for text in axes.texts] == ["stage1", "stage2", "not zero-stable"]


@pytest.mark.parametrize(
    ("scheme", "values", "count"),
    [
        ("lm(per_channel=True)", {"stage1": [[1.0] * 2] * 3, "stage2": [[1.0] * 4] * 3}, {"k": 2}),
        ("dense", {"stage1": [[1.0, 2.0, 3.0]] * 2}, {"[0]": 1, "[1]": 1, "[2]": 1}),
        (
            "learned_multistep(2)",
            {f"stage1.{i}": [[1.0, 2.0]] * 3 for i in (0, 1)},
            {f"{i}[{j}]": 1 for i in (0, 1) for j in (0, 1)},
        ),
    ],
)
def test_several_coefficients_a_step(scheme, values, count, tmp_path):
    rows = rows_of(tmp_path, ("resnet20", scheme), coefficients=values)
    found = report._weights(rows[0])
    assert {name: len(stages["stage1"]) for name, stages in found.items()} == count
    ((_, _, caption, table),) = report._coefficients(rows, plots.looks(rows), 0)["figures"]
    assert len(table[1]) == sum(x.shape[1] for stages in found.values() for x in stages.values())
    assert ("over the channels" in caption) == (max(count.values()) > 1)


def test_a_coefficient_that_one_stage_alone_has_is_drawn_at_its_place(tmp_path):
    values = {"stage1": [[1.0, 2.0, 3.0]] * 2, "stage2": [[1.0, 2.0, 3.0, 4.0]] * 3}
    axes = axes_of()
    plots.coefficients(axes, report._weights(*rows_of(tmp_path, ("resnet34", "dense"), coefficients=values)))
    drawn = {float(x) for line in axes.lines for x, y in line.get_xydata() if y == 4}
    assert drawn == {3, 4, 5}


def test_points_can_be_told_apart():
    assert len({tuple(plots.marked(i).values()) for i in range(49)}) == 49


def test_a_picture_is_saved_by_a_name_too(tmp_path):
    plots.save(plots.figure(2, 2), str(tmp_path / "a.svg"))
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_too_many_coefficients_are_one_line():
    axes = axes_of()
    plots.coefficients(axes, {str(i): {"stage1": np.full((1, 4), i)} for i in range(9)})
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [4] * 4)
    assert axes.get_ylabel() == "9 coefficients"


def test_error_against_parameters_needs_two_networks(tmp_path):
    rows = rows_of(tmp_path, ("resnet14", "lm"), ("resnet14", "euler"), ("resnet20", "lm"), parameters=1000)
    assert report._sizes(rows[:2], ["lm", "euler"], 0) is None
    rows[2].published = CIFAR10["lm_resnet20"].error
    part = report._sizes(rows, ["lm", "euler"], 0)
    assert "Hollow: published" in part["figures"][0][2]
    assert part["table"][1][2] == ["run2", "resnet20", "lm", "1,000", "6.00", "", "8.33"]


def test_lines_join_different_networks_of_one_recipe(tmp_path):
    changes = {
        "a": ("resnet14", {}, {}), "b": ("resnet20", {}, {"memory": "remat"}),
        "longer": ("resnet14", {"epochs": 9}, {}), "longer too": ("resnet20", {"epochs": 9}, {}),
        "half": ("resnet20", {}, {"dtype": "bfloat16"}), "again": ("resnet14", {"on_nan": "rollback"}, {}),
        "euler": ("resnet20", {}, {"stepper": "euler"}),
    }  # fmt: skip
    for name, (network, train, model) in changes.items():
        make_run(tmp_path / name, changed(CONFIG, model={"name": network, **model}, train=train))
    rows = report.read_rows([tmp_path / name for name in changes])
    assert [[row.name for row in curve] for curve in plots._curves(rows)] == [
        ["a", "b"], ["longer", "longer too"], ["half"], ["again"], ["euler"],
    ]  # fmt: skip


def test_legend_shows_bars_of_what_has_them():
    def point(scheme, parameters, std):
        found = {"scheme": scheme, "network": f"n{parameters}", "parameters": parameters, "published": None}
        return SimpleNamespace(**found, error=Spread(5.0, std), recipe=0)

    axes = axes_of()
    plots.error_by_size(axes, [point("lm", 1000, 0.5), point("lm", 2000, None), point("euler", 1000, None)])
    bars, line = axes.get_legend().legend_handles
    (drawn,) = (container for container in axes.containers if container.has_yerr)
    assert [type(x).__name__ for x in (bars, line)] == ["LineCollection", "Line2D"]
    plots.error_by_size(close := axes_of(), [point("lm", size, None) for size in (1000, 1050, 2000)])
    (top,) = close.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["n1000, n1050", "n2000"]
    assert line.get_linestyle() == "None"  # one point is no curve
    segments = drawn.lines[2][0].get_segments()
    assert [len(x) for x in segments if len(x)] == [2]  # of the two seeds; of one there is no bar
