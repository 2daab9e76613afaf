"""train.py as a user runs it: a run, its folder, going on, evaluating, and every mistake one can make."""

import dataclasses
import functools
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lmjax
import train
from lmjax import command_line, steppers
from lmjax.cli.train import Train
from lmjax.training import Checkpoints, RunRecord, RunRecordWriter, evaluate, integrity
from lmjax.training.run_folder import _position, require_same_data
from tests.parameters import slow
from tests.tiny import ROOT, changed, create_trainer, environment, rows

SUMMARY = {
    "test_accuracy", "test_loss", "parameters", "zero_stability", "epochs", "steps", "seed", "images_per_second",
    "wall_seconds", "compile_seconds", "device", "xla_flags", "versions", "data",
}  # fmt: skip


def run(*arguments, config="tests/tiny.py"):
    return train.main(["--config", str(config), *map(str, arguments)])


def read(path):
    return json.loads(path.read_text())


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, shared by the tests that only look at it."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    assert run("--workdir", workdir) == 0
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """Of a run of two epochs, as if it had been killed just before its end."""
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    return tmp_path / "copy"


@pytest.fixture
def mistake(capsys):
    """What a command says that ends with one clear message."""

    def mistake(*arguments, **options):
        capsys.readouterr()
        assert run(*arguments, **options) == 2
        said = capsys.readouterr().err
        assert "error: " in said
        assert "Traceback" not in said
        return said

    return mistake


@pytest.mark.versions
def test_what_a_run_leaves(finished):
    assert {p.name for p in finished.iterdir()} == {
        ".lock", "config.json", "metrics.jsonl", "summary.json", "learning_curves.png", "coefficients.png",
        "checkpoints",
    }  # fmt: skip
    summary = read(finished / "summary.json")
    assert set(summary) == SUMMARY
    assert (summary["epochs"], summary["steps"], summary["parameters"]) == (2, 2 * (1437 // 64), 2_547)
    assert summary["versions"]["lmjax"] == lmjax.__version__
    assert (summary["data"]["classes"], summary["data"]["training_images"]) == (10, 1437)
    assert 0 < summary["compile_seconds"] < summary["wall_seconds"]
    first, last = rows(finished)
    assert last["test_accuracy"] == summary["test_accuracy"]
    assert first["train_loss"] > last["train_loss"] > 0
    assert [first["learning_rate"], last["learning_rate"]] == pytest.approx([0.2, 0.002])
    assert {k: len(v) for k, v in last["coefficients"].items()} == {"stage1": 1}
    assert read(finished / "config.json")["model"].items() >= {"name": "tiny", "stepper": "lm", "width": 1.0}.items()
    for picture in ("learning_curves.png", "coefficients.png"):
        with Image.open(finished / picture) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


@pytest.mark.versions
def test_evaluating_any_checkpoint_gives_its_numbers_and_touches_nothing(finished, capsys, mistake):
    """From the config that was used, and from that of the run; not even what another process is writing is touched."""
    part = finished / "checkpoints" / "99.orbax-checkpoint-tmp"
    part.mkdir()
    before = times(finished)
    configs = ["--config", "tests/tiny.py"], ["--config", str(finished / "config.json")], []
    for config, at, step in zip(configs, ("latest", "best", "22"), (44, 44, 22), strict=True):
        assert train.main([*config, "--evaluate", str(finished), "--at", at]) == 0
        found, row = json.loads(capsys.readouterr().out), rows(finished)[step // 22 - 1]
        assert (found["step"], found["test_accuracy"]) == (step, row["test_accuracy"])
        assert found["test_loss"] == pytest.approx(row["test_loss"], rel=1e-6)
    assert "no checkpoint 23: choose from latest, best, 22, 44" in mistake("--evaluate", finished, "--at", "23")
    assert times(finished) == before
    part.rmdir()


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    before, accuracy = times(finished), read(finished / "summary.json")["test_accuracy"]
    for resume in (["--resume"], ["--resume", "auto"]):
        assert run("--workdir", finished, *resume) == 0
        assert f"{finished} is finished: test accuracy {accuracy:.2%}" in capsys.readouterr().out
    assert times(finished) == before


def test_a_run_is_made_longer(copy, finished, capsys):
    """By its own config; from there on, its learning rate is that of the longer run."""
    shutil.copy(finished / "summary.json", copy)
    for epochs in (1, 2):
        code = run("--workdir", copy, "--resume", "--train.epochs", epochs)
        assert code == (2 if epochs == 1 else 0)
    assert "holds another run, with train.epochs 2 (now 1)" in capsys.readouterr().err
    longer = ["--workdir", str(copy), "--resume", "--train.epochs", "4"]
    assert train.main(longer) == 0
    said = "train.epochs was 2, and is 4: from here on the learning rate is that of a run of 4 epochs"
    assert said in capsys.readouterr().out
    assert rows(copy)[:2] == rows(finished)
    assert [row["learning_rate"] for row in rows(copy)] == pytest.approx([0.2, 0.002, 0.02, 0.002])
    assert read(copy / "summary.json")["epochs"] == read(copy / "config.json")["train"]["epochs"] == 4
    assert train.main(longer) == 0
    assert "is finished" in capsys.readouterr().out
    assert run("--workdir", copy, "--resume") == 2
    assert "holds another run, with train.epochs 4 (now 2)" in capsys.readouterr().err


def test_killed_when_it_was_just_made_longer(copy, finished, capsys):
    """The old summary is gone before the config is the new one."""
    shutil.copy(finished / "summary.json", copy)
    config = RunRecord(copy).config()
    RunRecordWriter(copy).update(changed(config, train={"epochs": 3}))
    assert not (copy / "summary.json").exists()
    assert train.main(["--workdir", str(copy), "--resume", "auto"]) == 0
    assert "going on after epoch 2\n" in capsys.readouterr().out
    assert len(rows(copy)) == 3


def test_a_run_is_opened_from_any_folder(tmp_path, monkeypatch, capsys):
    """Where its data is does not depend on the current one; moved data is noted when the run goes on."""
    monkeypatch.chdir(tmp_path)
    paint(Path("images"))
    options = ("--data.name", "folder", "--data.dir", "images", "--train.batch-size", 16, "--train.epochs", 1)
    assert run(*options, "--workdir", "run", config=str(ROOT / "tests" / "tiny.py")) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main(["--evaluate", "../run"]) == 0
    capsys.readouterr()
    (tmp_path / "images").rename(tmp_path / "elsewhere" / "moved")
    assert train.main(["--evaluate", "../run"]) == 2
    assert f"there is no directory {tmp_path / 'images'}" in capsys.readouterr().err
    moved = ["--data.dir", "moved", "--train.epochs", "2"]
    assert train.main(["--workdir=../run", "--resume", *moved]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert train.main(["--evaluate", "run"]) == 0
    accuracy = read(tmp_path / "run" / "summary.json")["test_accuracy"]
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == accuracy


def test_stopped_and_resumed(tmp_path, monkeypatch, capsys, finished):
    """In its second epoch, whose first step is still made; resumed, it ends where it would have."""
    options = ("--workdir", tmp_path / "run", "--resume", "auto")
    with monkeypatch.context() as patch:
        patch.setattr("lmjax.training.loop.say_epoch", lambda *_: signal.raise_signal(signal.SIGINT))
        assert run(*options) == 130
    said = capsys.readouterr().out
    assert re.search(r"^compiling ...\ncompiled in [\d.]+ s$", said, re.M)
    assert "stopped at step 23: --workdir and --resume go on" in said
    assert len(rows(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    assert run(*options) == 0
    assert "going on after epoch 1 and 1 steps" in capsys.readouterr().out
    assert rows(tmp_path / "run") == rows(finished)


def stopping(trainer, pause, at):
    """`evaluate`, in which a run is stopped after so many steps."""
    if trainer.step == at:
        signal.raise_signal(signal.SIGINT)
    return evaluate(trainer, pause)


def test_stopped_in_an_evaluation(tmp_path, monkeypatch, finished):
    """The epoch is trained, and is evaluated when the run goes on."""
    with monkeypatch.context() as patch:
        patch.setattr("lmjax.training.loop.evaluate", functools.partial(stopping, at=22))
        assert run("--workdir", tmp_path / "run") == 130
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert run("--workdir", tmp_path / "run", "--resume") == 0
    assert rows(tmp_path / "run") == rows(finished)


@pytest.mark.slow
def test_stopped_in_the_evaluation_of_what_turns_out_to_be_the_best(tmp_path, monkeypatch):
    options = ("--train.epochs", "3", "--workdir", tmp_path / "run")
    accuracies = {22: 0.1, 44: 0.9, 66: 0.2}

    def evaluated(trainer, pause, at=None):
        found = stopping(trainer, pause, at)
        return None if found is None else found | {"test_accuracy": accuracies[trainer.step]}

    monkeypatch.setattr("lmjax.training.loop.evaluate", functools.partial(evaluated, at=44))
    assert run(*options) == 130
    monkeypatch.setattr("lmjax.training.loop.evaluate", evaluated)
    assert run(*options, "--resume") == 0
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (44, 66)


def test_started_again_before_the_first_checkpoint(copy, capsys, finished):
    shutil.rmtree(copy / "checkpoints")
    assert run("--workdir", copy, "--resume") == 0
    assert "there is no checkpoint yet: starting again" in capsys.readouterr().out
    assert rows(copy) == rows(finished)


def edit(copy, step, **changes):
    """Change what a checkpoint says of itself, as if nothing had happened to it."""
    about = copy / "checkpoints" / str(step) / "about" / "metadata"
    about.write_text(json.dumps(read(about) | changes))
    integrity.seal(copy / "checkpoints" / str(step))


def test_data_that_changed_in_between(copy, capsys, mistake):
    data = read(copy / "checkpoints" / "44" / "about" / "metadata")["data"]

    def evaluated():
        assert run("--evaluate", copy) == 0
        said = capsys.readouterr()
        return json.loads(said.out)["test_loss"], said.err

    loss, _ = evaluated()
    edit(copy, 44, data=data | {"training_images": 7, "mean": [100.0], "shape": [6, 6, 1]})
    said = "the data has changed since (shape, training_images, mean)"
    assert said in mistake("--workdir", copy, "--resume")
    # Evaluation normalizes as the training did, whatever the statistics are now.
    other, said = evaluated()
    assert other != pytest.approx(loss)
    assert "note: shape was [6, 6, 1] in training, and is [8, 8, 1] here" in said
    edit(copy, 44, data=data | {"classes": ["dark", *data["classes"][1:]]})
    said = "was trained on 10 classes, and here are 10; missing here: dark; new: 0"
    assert said in mistake("--evaluate", copy)


def test_a_resume_does_not_ask_for_what_earlier_versions_have_not_noted():
    class Data:
        @staticmethod
        def describe():
            return {"training_images": 5, "test_images": 2}

    require_same_data(Data, {"training_images": 5}, None)
    with pytest.raises(lmjax.InputError, match="test_images"):
        require_same_data(Data, {"training_images": 5, "test_images": 3}, RunRecord("run"))


def flip(file):
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def largest(checkpoint):
    return max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    ("where", "harm"),
    [("network", flip), ("training", Path.unlink), slow("network", truncate), slow("about", flip)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(copy, finished, capsys, harm, where):
    checkpoints = copy / "checkpoints"
    harm(largest(checkpoints / "44" / where))
    assert run("--evaluate", copy) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["step"] == 22
    assert re.search(rf"checkpoints/44: {where}/\S+ is (not what was written|missing): it is left out", said.err)
    assert (checkpoints / "44").exists(), "an evaluation touches nothing"

    assert run("--workdir", copy, "--resume") == 0
    said = capsys.readouterr()
    assert "it is left out, and set aside as damaged-44" in said.err
    assert "going on after epoch 1" in said.out
    assert {p.name for p in checkpoints.iterdir()} == {"22", "44", "damaged-44"}
    assert rows(copy) == rows(finished)


def test_checkpoints_behind_a_link_are_read_and_not_touched(copy, tmp_path, capsys):
    """They would be removed and set aside in a folder that nobody has named."""
    elsewhere = (copy / "checkpoints").rename(tmp_path / "elsewhere")
    (elsewhere / "2024").mkdir()
    (copy / "checkpoints").symlink_to(elsewhere)
    assert run("--workdir", copy, "--resume", "--train.epochs", 3) == 2
    assert "checkpoints: is a link, and nothing is written through one" in capsys.readouterr().err
    assert {p.name for p in elsewhere.iterdir()} == {"22", "44", "2024"}
    assert run("--evaluate", copy) == 0


@pytest.fixture(scope="module")
def state(finished):
    config = command_line.load(finished / "config.json")
    return create_trainer(config, config.data.load()).state


@pytest.mark.parametrize(
    ("sums", "harm"),
    [(None, None), ("", "about"), ("{}", "network"), ('{"about/metadata": 1}', None), ("[" * 100_000, "network")],
    ids=range(5),
)
def test_checkpoint_without_sums_is_tried(copy, state, sums, harm):
    """And if it cannot be read, the one before is used."""
    (copy / "checkpoints" / "²").mkdir()
    place, said = copy / "checkpoints" / "44", []
    (place / "checksums.json").unlink() if sums is None else (place / "checksums.json").write_text(sums)
    if harm is not None:
        truncate(place / {"about": "about/metadata", "network": "network/manifest.ocdbt"}[harm])
    with Checkpoints(place.parent, report=said.append) as checkpoints:
        assert checkpoints.latest() == 44
        assert int(checkpoints.restore(state)[0].step) == (22 if harm else 44)
        assert checkpoints.folder.set_aside() == (["damaged-44"] if harm else [])
    assert said[0] == f"{place}: checksums.json is missing or cut short: it is tried as it is"
    assert said[1:] == [f"{place}: cannot be read: it is left out, and set aside as damaged-44"] * (harm is not None)


def test_folder_that_is_no_checkpoint_is_not_taken_for_one(copy, state):
    """Nor is it deleted, when it is the oldest."""
    folder = copy / "checkpoints"
    for name in ("3", "2023"):
        (folder / name).mkdir()
        (folder / name / "holiday.jpg").write_text("x")
    with Checkpoints(folder, keep_last=1) as checkpoints:
        assert checkpoints.steps() == [22, 44]
        checkpoints.save(state._replace(step=state.step + 50), {})
    assert all((folder / f"damaged-{name}" / "holiday.jpg").exists() for name in ("3", "2023"))


def test_all_checkpoints_are_damaged(copy, mistake):
    for step in ("22", "44"):
        flip(largest(copy / "checkpoints" / step))
    said = "holds no checkpoint that is whole (damaged-22, damaged-44): restore one from a copy, or start a new run"
    for _ in range(2):  # the second time they are set aside already
        assert said in mistake("--workdir", copy, "--resume", "auto")
    assert len(rows(copy)) == 2
    assert "holds no checkpoint" in mistake("--evaluate", copy)


def test_summary_of_another_run(copy, finished, mistake):
    """Also where the rows to compare it with cannot be those of a run; a broken config.json is named itself."""
    summary = read(finished / "summary.json")

    def refused(**changes):
        (copy / "summary.json").write_text(json.dumps(summary | changes))
        assert "summary.json: is not a summary (" in mistake("--workdir", copy, "--resume", "auto")

    for change in ({"seed": 1}, {"test_accuracy": 0.123}, {"test_loss": None}):
        refused(**change)
    edit(copy, 44, rows="none")
    refused()
    (copy / "config.json").write_text("{")
    with pytest.raises(lmjax.InputError, match=r"config\.json: is not a config"):
        RunRecord(copy).summary()


def test_config_that_was_changed_after_the_end(copy, finished, mistake):
    shutil.copy(finished / "summary.json", copy)
    (copy / "config.json").write_text(json.dumps(read(copy / "config.json") | {"seed": 1}))
    assert "is of another run, with seed 0 (here 1)" in mistake("--workdir", copy, "--resume", "--seed", "1")


def test_checkpoints_of_another_run(copy, finished, mistake):
    """Moved there, or left where the config was changed: the numbers of one are not given for those of the other."""
    for step in (22, 44):
        edit(copy, step, config=read(copy / "config.json") | {"seed": 1})
    said = "the checkpoint of step 44 is of another run, with seed 1 (here 0): restore config.json, or move"
    for ended in (False, True):
        if ended:
            shutil.copy(finished / "summary.json", copy)
        for arguments in (["--evaluate", copy], ["--workdir", copy, "--resume"]):
            assert said in mistake(*arguments)
        assert (copy / "summary.json").exists() == ended


def test_checkpoint_that_says_what_cannot_be(copy, mistake):
    """Of another version, or made to look as if nothing had happened to it."""
    good = read(copy / "checkpoints" / "44" / "about" / "metadata")
    assert _position(good, 44, 22)[0] == good["rows"]
    for change in (
        {"rows": "none"},
        {"rows": []},
        {"rows": [good["rows"][0]] * 2},
        {"rows": [{**row, "test_accuracy": "high"} for row in good["rows"]]},
        {"sums": {"steps": 21}},
        {"sums": {**good["sums"], "metrics": {"loss": None}}},
        {"sums": {**good["sums"], "more": 1}},
        {"redraws": "1"},
        {"redraws": -1},
        {"data": []},
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            _position(good | change, 44, 22)
    edit(copy, 44, data=[])
    said = "the checkpoint of step 44 is of another version of lmjax"
    assert said in mistake("--workdir", copy, "--resume")
    for data in (None, 4, {}):
        edit(copy, 44, data=data)
        assert "does not say what data it was trained on" in mistake("--evaluate", copy)


def test_link_and_parent_in_the_path(tmp_path):
    """What the system takes "link/.." for, every reader and writer does."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    assert run("--workdir", f"{tmp_path}/link/../w") == 0
    assert run("--evaluate", tmp_path / "real" / "w") == 0
    assert not (tmp_path / "w").exists()


def test_links_in_the_folder_of_a_run_are_not_written_through(copy, tmp_path, cheap):
    cheap.close()
    victim, trash = tmp_path / "victim", tmp_path / "trash"
    victim.write_text("theirs")
    trash.mkdir()
    for name in ("learning_curves.png", "coefficients.png", "metrics.jsonl"):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(victim)
    (copy / "checkpoints" / "discarded").symlink_to(trash)
    assert run("--workdir", copy, "--resume") == 0
    assert victim.read_text() == "theirs"
    assert not list(trash.iterdir())
    assert not (copy / "learning_curves.png").is_symlink()


@pytest.mark.parametrize("rest", ['{"epoch": 2, "ste', slow("\x00\x00"), slow("nonsense\n")])
def test_metrics_cut_short_by_a_crash_are_mended_without_duplicates(copy, finished, rest):
    shutil.rmtree(copy / "checkpoints" / "44")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(rest)
    assert run("--workdir", copy, "--resume") == 0
    assert rows(copy) == rows(finished)


@pytest.mark.parametrize(
    ("when", "harm"),
    [("an epoch", shutil.rmtree), ("the last save", lambda run: run.rename(run.with_name("moved")))],
    ids=["gone", "moved"],
)
def test_a_folder_that_is_taken_away_while_the_run_goes_on(tmp_path, monkeypatch, capsys, when, harm):
    workdir = tmp_path / "run"

    def take_away(*_):
        Checkpoints.wait(checkpoints[0])
        harm(workdir)

    checkpoints, save = [], Checkpoints.save

    def saved(self, state, *arguments, **options):
        checkpoints.append(self)
        save(self, state, *arguments, **options)
        if when == "the last save":
            take_away()

    monkeypatch.setattr(Checkpoints, "save", saved)
    if when == "an epoch":
        monkeypatch.setattr("lmjax.training.loop.say_epoch", lambda row, *_: row["epoch"] == 2 and take_away())
    assert run("--workdir", workdir, "--train.epochs", 2 if when == "an epoch" else 1) == 2
    said = capsys.readouterr()
    assert "run: was removed, moved or emptied while the run went on" in said.err
    assert "everything is in" not in said.out
    assert not workdir.exists(), "nor is half of it made once more"


def test_the_last_save_is_tried_again(tmp_path, monkeypatch, capsys):
    """Orbax gives a save up when the clock is set forward."""
    seal, failures = integrity.seal, []

    def fail_once(part):
        if not failures:
            failures.append(part)
            raise TimeoutError("it took too long")
        seal(part)

    monkeypatch.setattr(integrity, "seal", fail_once)
    assert run("--workdir", tmp_path / "run", "--train.epochs", 1) == 0
    assert "could not be written (it took too long): going on without it" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "22").is_dir()


def test_second_run_in_one_folder_refuses(copy, mistake):
    with RunRecordWriter(copy) as first:
        first.hold()
        for resume in (["--resume"], ["--resume", "auto"]):
            assert f"{copy}: another run is writing there just now" in mistake("--workdir", copy, *resume)
        assert run("--evaluate", copy) == 0
    assert run("--workdir", copy, "--resume") == 0


def test_folder_of_another_run_is_not_touched(finished, copy, mistake):
    before = times(finished)
    assert "already holds a run: go on with it by --resume" in mistake("--workdir", finished)
    assert "holds another run, with seed 0 (now 3)" in mistake("--workdir", finished, "--resume", "--seed", "3")
    said = mistake("--evaluate", finished, "--model.stepper", "euler")
    assert "holds another run, with model.stepper 'lm' (now 'euler')" in said
    assert times(finished) == before
    (copy / "config.json").unlink()  # which makes it no empty folder
    before = times(copy)
    assert "already holds a run" in mistake("--workdir", copy, "--seed", "5")
    assert times(copy) == before


def test_new_folder_for_every_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--seed", "5", config=ROOT / "tests" / "tiny.py") == 0
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("tiny-lm-seed5-2")
    assert "test accuracy" in capsys.readouterr().out


def paint(root):
    """Dark and light images of noise."""
    rng = np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "test"), (0, 1), range(40)):
        folder = root / split / ("dark", "light")[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(100 * label, 100 * label + 100, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.mark.versions
def test_trains_on_a_folder_without_the_optional_packages(tmp_path):
    """In a process where no package exists that only some users need."""
    paint(tmp_path / "images")
    options = ["--train.epochs", "3", "--train.batch-size", "16"]
    options += ["--data.name", "folder", "--data.dir", str(tmp_path / "images"), "--workdir", str(tmp_path / "run")]
    program = """
import sys
missing = "tensorflow tensorflow_datasets grain matplotlib pandas jinja2 sklearn pooch tensorboard wandb mlflow trackio"
sys.modules |= dict.fromkeys(missing.split())  # None is what Python takes for "there is no such module"
import train
sys.exit(train.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "--config", "tests/tiny.py", *options]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "drawing needs matplotlib, which is not installed: pip install matplotlib" in result.stdout
    assert read(tmp_path / "run" / "summary.json")["test_accuracy"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", steppers.names())
def test_every_stepper_trains_on_digits(tmp_path, name):
    options = ("--model.name", "resnet14", "--model.width", "0.25", "--train.epochs", "6")
    assert run(*options, "--model.stepper", name, "--workdir", tmp_path / "run", config="configs/digits.py") == 0
    assert read(tmp_path / "run" / "summary.json")["test_accuracy"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("row", ["convnext", "vit"])
def test_other_families_learn_the_digits(tmp_path, row):
    """98.15% ± 0.42% and 98.33% ± 0.28% measured from three seeds."""
    assert run("--workdir", tmp_path / "run", config=f"configs/digits.py:{row}") == 0
    assert read(tmp_path / "run" / "summary.json")["test_accuracy"] > 0.95


def test_bfloat16_and_the_other_options(tmp_path):
    options = ("--model.dtype", "bfloat16", "--model.boundary", "step", "--model.memory", "remat")
    options += ("--optimizer.name", "sgd(nesterov=True)", "--data.augment", "crop(4, padding=reflect)", "flip")
    assert run(*options, "--workdir", tmp_path / "run") == 0
    first, last = rows(tmp_path / "run")
    assert last["train_loss"] < first["train_loss"]


def test_help_is_short_and_explains_every_key_by_its_group(capsys):
    def said(*words):
        assert train.main([*words]) == 0
        return capsys.readouterr().out

    text = said("--config", "configs/digits.py", "--help")
    assert len(text) < 6000
    for word in ("--resume", "--evaluate", "--model.KEY", "learning-rate", "--data.KEY", "--seed", "dry-run"):
        assert word in text
    for topic in ("data", "model", "optimizer", "train", "checkpoint", "all"):
        text = said("--help", topic)
        for key in ("model.stepper", "data.name", "optimizer.learning-rate", "train.epochs", "checkpoint.steps"):
            found = re.search(rf"^\W*--{re.escape(key)}\b", text, re.MULTILINE)
            assert bool(found) == (topic in (key.partition(".")[0], "all"))


def test_cosine_instead_of_a_recipes_steps():
    """All of a row but the course of its learning rate, which alone need be given."""
    config, _ = Train.parse(["--config", "configs/imagenet.py:resnet50", "--optimizer.schedule", "cosine"])
    recipe = command_line.load("configs/imagenet.py:resnet50")
    assert config == dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, schedule="cosine"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.py", "x = 1\n", r"empty\.py: does not define `config`"),
        ("bad.json", "{", r"bad\.json: is not a config"),
        ("odd.json", '{"modl": {}}', r"unknown key 'modl': did you mean 'model'\?"),
        (
            "typo.py",
            "import lmjax\n\nlmjax.config.TrainConfig(epoch=3)\n",
            r"line 3: TypeError: .*'epoch'",
        ),
        ("syntax.py", "config = (\n", r"syntax\.py, line 1: SyntaxError"),
        ("digit.py", None, r"there is no file .*digit\.py; with lmjax come cifar10, "),
    ],
)
def test_config_files_that_will_not_do(tmp_path, mistake, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert re.search(message, mistake(config=tmp_path / name))


def test_no_config_file(tmp_path, capsys):
    for arguments in ([], ["--resume", "auto", "--workdir", str(tmp_path / "none")], ["--workdir", str(tmp_path)]):
        assert train.main(arguments) == 2
        assert "give --config FILE; with lmjax come cifar10, cifar100, digits" in capsys.readouterr().err
