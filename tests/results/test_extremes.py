"""Records with any values under any name: a page and pictures, or one line that names the file."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from lmjax import InputError, cli, results
from lmjax.config import Config
from lmjax.results.runs import read_run
from tests.parameters import few
from tests.results.handmade import CONFIG, make_run
from tests.tiny import logged

COEFFICIENTS = {"stage1": [-0.5, 0.2], "stage2": [-0.1]}
NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
VALUES = [NAN, INFINITE, -INFINITE, 1e308, -1e308, 5e-324, 0, -1, HUGE, 10**25, True, None, "$\\x$", [], {}]
STAGES = [{"stage1": x} for x in (1.0, [], [NAN], [HUGE], [1e308], [[0.1], [0.1, 0.2]], "x")]


def write(run, name, rows):
    lines = rows if isinstance(rows, list) else [rows]
    (run / name).write_text("".join(json.dumps(row) + "\n" for row in lines))


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_any_value_is_read_or_refused_in_one_line(name, tmp_path):
    run = make_run(tmp_path / "run", CONFIG, parameters=1000, device="cpu", versions={}, zero_stability=COEFFICIENTS)
    before, read = (logged(run) if name == "metrics.jsonl" else [json.loads((run / name).read_text())]), 0
    for key in before[-1]:
        for value in [*VALUES, *STAGES]:
            write(run, name, [*before[:-1], before[-1] | {key: value}])
            said = None
            try:
                tables = results.summaries([run]), results.read([run])
            except InputError as error:
                said = str(error)
            if said is None:
                read += 1
                assert tables[0].wall_seconds.dtype.kind in "if"
                assert tables[1].train_loss.dtype.kind in "if"
            else:
                assert str(run / name) in said
                assert "\n" not in said
    assert read > 10


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "null", "[]", "1e999", "\0"])
def test_no_file_is_too_strange(name, text, tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    (run / name).write_text(f"{text}\n{text}\n")
    with pytest.raises(InputError, match=name) as error:
        read_run(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    few(
        ["a$b$\\x$", "\x1b[31m\x07", os.fsdecode(b"\xff"), "漢字", "<b>&amp;", "x" * 250],
        ["a$b$\\x$", "\x1b[31m\x07", os.fsdecode(b"\xff")],
    ),
)
def test_page_and_pictures_of_any_name_and_loss(name, tmp_path, capsys):
    for seed, losses in enumerate(([1e308, -1e308, INFINITE], [NAN, NAN, NAN])):
        config = Config(CONFIG.data, CONFIG.model, train=CONFIG.train, seed=seed)
        run = make_run(tmp_path / name / f"seed{seed}", config, coefficients=COEFFICIENTS)
        rows = [row | {"train_loss": loss} for row, loss in zip(logged(run), losses, strict=True)]
        write(run, "metrics.jsonl", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for command in (["report", "--no-images"], ["analyze", "curves"], ["analyze", "coefficients"]):
            out = tmp_path / ("x.html" if command[0] == "report" else f"{command[1]}.png")
            assert cli.main([*command, str(tmp_path / name), "--out", str(out)]) == 0
            assert out.stat().st_size > 5000
    said = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07"} & set(said)


def test_a_backend_that_is_none_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    command = [sys.executable, "-m", "lmjax", "report", run, "--out", tmp_path / "x.html"]
    env = os.environ | {"MPLBACKEND": "nonsense"}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "unset MPLBACKEND" in found.stderr
