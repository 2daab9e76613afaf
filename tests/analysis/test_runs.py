"""What a command is given: which runs, schemes of one's own, and mistakes, of which each ends in one line."""

import json
import shutil

import pytest

import lmjax
from lmjax import weights
from tests.analysis import main
from tests.analysis.handmade import OWN_SCHEME, own_run, rewritten, write_run


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


def test_weights_in_a_file_are_measured_like_a_run(runs, tmp_path, capsys):
    pytest.importorskip("safetensors")
    path, out = tmp_path / "w.safetensors", tmp_path / "out.json"
    with lmjax.load(runs["euler"]) as trained:
        weights.save(path, trained.weights())
    images = ["--images", "20"]
    command = ["refinement", str(runs["euler"]), str(path), *images, "--factors", "2", "--out", str(out)]
    assert main([*command, "--data", "digits"]) == 0
    of_run, of_weights = json.loads(out.read_text())["runs"]
    assert of_weights["factors"] == of_run["factors"]
    assert of_weights["label"] == "tiny, euler (w.safetensors)"
    assert main(["trajectory", str(path), *images, "--data", "digits"]) == 0
    (tmp_path / "other").mkdir()
    shutil.copy(path, tmp_path / "other")
    both = [str(path), str(tmp_path / "other" / path.name), *images, "--data", "digits"]
    assert main(["refinement", *both, "--factors", "1", "--out", str(out)]) == 0
    assert len({run["label"] for run in json.loads(out.read_text())["runs"]}) == 2
    assert main(["trajectory", str(path), *images, "--data", "digits", "--at", "best"]) == 2
    assert "has weights, and no checkpoints: leave out --at" in capsys.readouterr().err
    assert main(["robustness", str(path), *images]) == 2
    assert "w.safetensors: has weights, and no images: give a data set, as in --data" in capsys.readouterr().err
    assert main(["trajectory", str(tmp_path / "none.safetensors"), "--data", "digits"]) == 2
    assert "none.safetensors: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["curves"], "tiny, own_euler"),
        (["refinement", "--images", "10", "--factors", "1"], "tiny, own_euler: 1"),
    ],
)
def test_a_scheme_of_ones_own(arguments, says, runs, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN_SCHEME)
    run = str(own_run(runs["euler"], tmp_path / "run"))
    assert main([arguments[0], run, *arguments[1:]]) == 2
    assert "own_euler" in capsys.readouterr().err
    assert main([arguments[0], run, *arguments[1:], "--config", str(tmp_path / "own.py")]) == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("order eulr", "unknown stepper 'eulr': did you mean 'euler'"),
        ("order rk4 euler --k 0.1", "--k 0.1: rk4 and euler has no coefficient"),
        ("order learned_multistep --k 0.1", "--k 0.1: learned_multistep3 has 6 coefficients a step, not one"),
        ("order dense", "dense: over how many states is not decided"),
        ("order rk4 --out order.xyz", "error: --out order.xyz: is no picture: end it in one of"),
        ("order rk4 --out no/such/folder/order.png", "there is no folder no/such/folder: make it first"),
        ("order rk4 --out taken.png", "error: --out taken.png: is a folder: name a file in it"),
        ("order rk4 --config none.py", "--config: there is no file none.py"),
        ("stability", "error: give schemes, such as rk4, or the folder of a run"),
        ("stability --run {lm}/seed0 --k 5", "error: --k: a run has coefficients of its own: leave it out"),
        ("stability rk4 --run empty", "error: give schemes, such as rk4, or the folder of a run"),
        ("stability --run {lm}", "holds several runs: name one, such as {lm}/seed0"),
        ("modified-equation --run {dense}", "error: {dense}: is a run of dense: give one of lm"),
        ("coefficients missing", "missing: there is no such folder"),
        ("coefficients {lm} {dense}", "are runs of different schemes or networks"),
        ("coefficients {euler}", "euler learns no coefficients: give a run of a scheme that does, such as lm"),
        ("coefficients {lm} --out k.xyz", "k.xyz: is no picture"),
        ("curves empty", "holds no run"),
        ("curves begun", "has no epoch yet"),
        ("curves {euler} --out x.docx", "is no picture"),
        ("trajectory empty", "holds no run"),
        ("trajectory {euler} --at 7", "no checkpoint 7: choose from latest, best, "),
        ("trajectory {euler} --out missing/f.png", "missing"),
        ("trajectory {euler} --classes 3", "--classes"),
        ("refinement {euler} --factors 2 1.5", "'1.5': give a whole number up to 1024"),
        ("refinement {euler} --factors 2/3", "'2/3': give a whole number up to 1024"),
        ("refinement {euler} --factors 1/0", "'1/0': give a whole number up to 1024"),
        ("refinement {euler} --factors 0", "'0': give a whole number up to 1024"),
        ("refinement {euler} --factors -1", "'-1': give a whole number up to 1024"),
        ("refinement {euler} --factors 1025", "'1025': give a whole number up to 1024"),
        ("refinement {euler} --factors 1/1025", "'1/1025': give a whole number up to 1024"),
        ("refinement {euler} --factors 1e999999999", "'1e999999999': give a whole number up to 1024"),
        ("refinement {euler} --factors nan", "'nan': give a whole number up to 1024"),
        ("robustness {euler} --out f.txt", "f.txt"),
        ("robustness {euler} --at newest", "no checkpoint newest"),
        ("robustness {euler} --images 0", "error: --images: must be "),
        ("robustness {euler} --radii 4 0", "error: --radii 0: give gray levels, above 0 and up to 255"),
        ("robustness {euler} --radii 256", "error: --radii 256: give gray levels, above 0 and up to 255"),
        ("robustness {euler} --sigmas -1", "error: --sigmas -1: give gray levels, above 0 and up to 255"),
        ("robustness {euler} --sigmas nan", "error: --sigmas nan: give gray levels, above 0 and up to 255"),
        ("robustness {euler} --sigmas inf", "error: --sigmas inf: give gray levels, above 0 and up to 255"),
        ("robustness {euler} --seed -1", "error: --seed: "),
        ("robustness {euler} --seed 4294967296", "error: --seed: "),
        ("robustness {euler} --seed 1.5", "error: --seed: "),
    ],
)
def test_mistakes_are_one_line(command, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("taken.png", "empty", "begun"):
        (tmp_path / name).mkdir()
    shutil.copy(runs["euler"] / "config.json", tmp_path / "begun")
    folders = {**runs, "dense": write_run(tmp_path / "dense", "dense", [{"stage1": [[0.1, 0.2, 0.3]]}])}
    assert main(command.format(**folders).split()) == 2
    error = capsys.readouterr().err
    assert message.format(**folders) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1 or "For full helptext, see" in error
