"""The runs that a command is given: which they are, and that all are looked at before the first is measured."""

import shutil

import pytest

from tests.analysis import main
from tests.analysis.handmade import OWN_SCHEME, own_run, rewritten


def test_runs_in_folders_of_one_name_are_no_seeds_of_one(runs, tmp_path, monkeypatch, capsys):
    for name in ("e1", "e2"):
        shutil.copytree(runs["euler"], tmp_path / name / "a")
    monkeypatch.chdir(tmp_path)
    given = ["e1/a", "e2/a", str(tmp_path / "e1" / "a")]
    assert main(["refinement", *given, "--images", "10", "--factors", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("10 test images") == 2
    assert [line.split(":")[0] for line in said.splitlines()[-2:]] == [
        "tiny, euler (e1/a)",
        "tiny, euler (e2/a)",
    ]


def test_a_scheme_of_ones_own(runs, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN_SCHEME)
    run = str(own_run(runs["euler"], tmp_path / "run"))
    arguments = ["refinement", run, "--images", "10", "--factors", "1"]
    assert main(arguments) == 2
    assert "own_euler" in capsys.readouterr().err
    assert main([*arguments, "--config", str(tmp_path / "own.py")]) == 0
    assert "tiny, own_euler: 1" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["trajectory", "refinement", "robustness"])
def test_all_runs_are_looked_at_before_the_first_is_measured(command, runs, tmp_path, capsys):
    wrong = {
        "holds no checkpoint": shutil.copytree(
            runs["euler"], tmp_path / "none", ignore=shutil.ignore_patterns("checkpoints")
        )
    }
    if command != "robustness":
        model = {"name": "fractalnet2x2", "stepper": None}
        wrong["FractalNet is not made of the steps"] = rewritten(runs["euler"], tmp_path / "fractal", model=model)
    if command == "refinement":
        wrong["dense weighs all the states"] = rewritten(runs["euler"], tmp_path / "dense", model={"stepper": "dense"})
    for says, directory in wrong.items():
        assert main([command, str(runs["euler"]), str(directory), "--images", "10"]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert says in said.err
        assert str(directory) in said.err
        assert "test images" not in said.out


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5"])
def test_seeds_that_are_none(seed, runs, capsys):
    assert main(["robustness", str(runs["euler"]), "--seed", seed]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --seed: ")
    assert seed in said
