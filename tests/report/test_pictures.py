"""What is drawn, and that it takes its colors from the page."""

import dataclasses
import re

import pytest

from lmjax.config import Config, DataConfig, ModelConfig, TrainConfig
from lmjax.published import CIFAR10
from lmjax.report import coefficients, compression, curves, network, svg
from lmjax.report.network import Facts
from lmjax.report.runs import read
from lmjax.report.series import looks
from tests.report.handmade import make_run

CONFIG = Config(DataConfig("digits", augment=("crop(1)",)), ModelConfig("resnet14", "lm"), train=TrainConfig(epochs=3))


def rows_of(tmp_path, models, **options):
    for i, model in enumerate(models):
        make_run(tmp_path / f"run{i}", dataclasses.replace(CONFIG, model=model), error=4.0 + i, **options)
    return read([tmp_path / f"run{i}" for i in range(len(models))])


def facts(row, parameters=1000, stable=None):
    return Facts(row.config.model.stepper, parameters, None, stable, {})


def test_figures_have_no_color_or_id_of_their_own():
    with svg.drawing():
        figure, axes = svg.figure()
        for i, color in enumerate(svg.SERIES):
            axes.plot([1, 2], [i, i], color=color, marker="o")
        axes.set_yscale("symlog")
        text = svg.inline(figure, "key", "a & b")
    assert text.startswith('<svg class="plot" viewBox="0 0 ')
    assert 'aria-label="a &amp; b"' in text
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert {f"var(--series-{i})" for i in range(7)} <= set(re.findall(r"var\(--series-\d\)", text))
    assert all(name.startswith("key-") for name in re.findall(r'\bid="([^"]*)"', text))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)) != set()
    assert "<text" in text
    assert "<style" not in text


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (10, 2e6, ["10", "100", "1k", "10k", "100k", "1M"]),
        (150_000, 900_000, ["200k", "300k", "500k", "700k"]),
        (260_000, 480_000, ["300k", "350k", "400k", "450k"]),
        (270_000, 276_000, ["270k", "272k", "274k", "276k"]),
        (272_300, 272_700, ["272.3k", "272.4k", "272.5k", "272.6k", "272.7k"]),
    ],
)
def test_a_logarithmic_axis_has_marks_however_short_it_is(low, high, marks):
    with svg.drawing():
        _, axes = svg.figure()
        axes.set(xscale="log", xlim=(low, high))
        svg.plain_logarithmic(axes.xaxis)
        assert axes.xaxis.get_major_formatter().format_ticks(axes.get_xticks()) == marks


@pytest.mark.parametrize(("value", "said"), [(272_384, "272k"), (1_730_669, "1.73M"), (0.05, "0.05"), (20, "20")])
def test_short_numbers(value, said):
    assert svg.short(value) == said


def test_colors_are_those_of_schemes_where_that_tells_rows_apart(tmp_path):
    models = [ModelConfig(name, scheme) for name in ("resnet14", "resnet20") for scheme in ("lm", "euler")]
    rows = rows_of(tmp_path, models)
    chosen = looks(rows, [model.stepper for model in models])
    assert [look.index for look in chosen] == [0, 1, 0, 1]
    assert chosen[0].dash == chosen[1].dash != chosen[2].dash == chosen[3].dash
    assert [look.index for look in looks(rows, ["lm"] * 4)] == [0, 1, 2, 3]  # one scheme: no use for its color


def test_curves_are_means_over_the_seeds_that_have_come_so_far(tmp_path):
    for seed, epochs in enumerate((None, 1)):
        make_run(
            tmp_path / "a" / f"seed{seed}", dataclasses.replace(CONFIG, seed=seed), error=4.0 + 2 * seed, epochs=epochs
        )
    rows = read([tmp_path / "a"])
    values = curves.course(rows[0], lambda row: 100 * (1 - row["test_accuracy"]))
    assert values == {1: pytest.approx([20.0, 22.0]), 2: pytest.approx([12.0]), 3: pytest.approx([4.0])}
    text = curves.section(rows, looks(rows, ["lm"]), "key")
    assert text.count("<svg") == 3  # two pictures and the sample of the line
    assert "<td>21</td>" in text
    assert "a%2C" not in text
    assert "a,1,1,22,1%0A" in text  # every epoch of every seed, in the file


def test_coefficients_show_where_the_scheme_is_zero_stable(tmp_path):
    options = {
        "coefficients": {"stage1": [-0.5, 0.5], "stage2": [-2.0]},
        "zero_stability": {"stage1": [0.5, 0.5], "stage2": [-1.0]},
    }
    (row,) = rows_of(tmp_path, [CONFIG.model], **options)
    found = coefficients.lines(row)
    assert {name: {stage: x.tolist() for stage, x in stages.items()} for name, stages in found.items()} == {
        "": {"stage1": [[-0.5, 0.5]], "stage2": [[-2.0]]}
    }
    text = coefficients.section([row], [facts(row, stable=(-1.0, 1.0))], looks([row], ["lm"]), "key")
    assert "1 of 3 learned steps are outside the zero-stable range" in text
    assert "zero-stable, k from −1 to 1" in text
    assert "<td>-2.0000</td>" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"stage1": [[1.0, 2.0]] * 3}, {"weight 1": 1, "weight 2": 1}),
        ({"stage1": [[1.0] * 9] * 3}, {"": 9}),
        ({"stage1": [[1.0] * 2] * 3, "stage2": [[1.0] * 4] * 3}, {"": 2}),  # channels
        (
            {"stage1.0": [[1.0, 2.0]] * 3, "stage1.1": [1.0] * 3},
            {"kind 0, weight 1": 1, "kind 0, weight 2": 1, "kind 1": 1},
        ),
    ],
)
def test_several_coefficients_a_step(values, expected, tmp_path):
    (row,) = rows_of(tmp_path, [ModelConfig("resnet20", "dense")], coefficients=values)
    found = coefficients.lines(row)
    assert {name: len(stages["stage1"]) for name, stages in found.items()} == expected
    text = coefficients.section([row], [facts(row)], looks([row], ["dense"]), "key")
    steps = 3 * sum(map(len, found.values()))
    assert text.count("<tr>") == 1 + steps
    assert ("over the coefficients of a step" in text) == (max(expected.values()) > 1)


@pytest.mark.parametrize(
    ("scheme", "stable"),
    [
        ("lm", (-1, 1)),
        ("stochastic_depth(lm, 0.8)", (-1, 1)),
        ("euler", None),
        ("learned_multistep", None),
        (None, None),
    ],
)
def test_zero_stable_range_is_found(scheme, stable):
    assert network._zero_stable(scheme) == stable


def test_error_against_parameters_needs_two_networks(tmp_path):
    models = [ModelConfig("resnet14", "lm"), ModelConfig("resnet14", "euler"), ModelConfig("resnet20", "lm")]
    rows = rows_of(tmp_path, models)
    known = [facts(row, 1000 * (i + 1)) for i, row in enumerate(rows)]
    assert compression.section(rows[:2], known[:2], [None] * 2, ["lm", "euler"], "key") is None
    text = compression.section(rows, known, [None, None, CIFAR10["lm_resnet20"]], ["lm", "euler"], "key")
    assert "resnet20" in text
    assert "Hollow: published" in text
    assert "<td>8.33</td>" in text


def test_lines_join_different_networks_of_one_recipe(tmp_path):
    changes = {
        "a": ("resnet14", {}, {}), "b": ("resnet20", {}, {"memory": "remat"}),
        "longer": ("resnet14", {"epochs": 9}, {}), "longer too": ("resnet20", {"epochs": 9}, {}),
        "half": ("resnet20", {}, {"dtype": "bfloat16"}), "again": ("resnet14", {}, {}),
        "euler": ("resnet20", {}, {"stepper": "euler"}),
    }  # fmt: skip
    for name, (network_name, train, model) in changes.items():
        model = dataclasses.replace(CONFIG.model, name=network_name, **model)
        make_run(
            tmp_path / name, dataclasses.replace(CONFIG, model=model, train=dataclasses.replace(CONFIG.train, **train))
        )
    points = []
    for row in read([tmp_path / name for name in changes]):
        points.append((row, facts(row, {"resnet14": 1000, "resnet20": 2000}[row.network]), row.error(), None))
    curves = compression._curves(points, ["euler", "lm"])
    assert [(number, [row.name for row, *_ in curve]) for number, curve in curves] == [
        (0, ["euler"]), (1, ["a", "b"]), (1, ["longer", "longer too"]), (1, ["again"]), (1, ["half"]),
    ]  # fmt: skip


def test_legend_shows_bars_of_what_has_them(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "a" / f"seed{seed}", dataclasses.replace(CONFIG, seed=seed), error=4.0 + seed)
    for name, stepper in (("b", "lm"), ("c", "euler")):
        make_run(tmp_path / name, dataclasses.replace(CONFIG, model=ModelConfig("resnet20", stepper)))
    rows = read([tmp_path / name for name in "abc"])
    points = [(row, facts(row, 1000 * (i + 1)), row.error(), None) for i, row in enumerate(rows)]
    with svg.drawing():
        figure = compression._draw(points, compression._curves(points, ["lm", "euler"]), ["lm", "euler"])
        (axes,) = figure.axes
        bars, line = axes.get_legend().legend_handles
        (drawn,) = (container for container in axes.containers if container.has_yerr)
        segments = drawn.lines[2][0].get_segments()
    assert [type(x).__name__ for x in (bars, line)] == ["LineCollection", "Line2D"]
    assert line.get_linestyle() == "None"  # one point is no curve
    assert [len(x) for x in segments if len(x)] == [2]  # of the two seeds; of one there is no bar
