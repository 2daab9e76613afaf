"""What TensorBoard and Weights & Biases are told of a run, also of one that is killed, rolled back or cannot tell."""

import dataclasses
import errno
import functools
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import jax
import pytest

import train
from lmjax import InputError, training
from lmjax.config import to_dict
from lmjax.training import NonFiniteLoss, RunRecord, data_mesh, evaluate, loop, trackers
from lmjax.training.trackers import TensorBoard, Trackers, WeightsAndBiases
from tests import tiny

ROOT = Path(__file__).parent.parent.parent
TENSORBOARD = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")


CONFIG = tiny.changed(tiny.config, train={"epochs": 3, "on_nan": "rollback"}, checkpoint={"epochs": 2, "keep_best": 0})
STEPS = 5  # an epoch


@pytest.fixture(scope="module")
def compiled(digits):
    return tiny.create_trainer(CONFIG, digits, data_mesh(jax.devices()[:1]))


@pytest.fixture
def config(tmp_path, compiled, monkeypatch):
    """Of runs that all use the same programs."""
    run = loop.run
    monkeypatch.setattr(loop, "run", lambda *args, like=None, **options: run(*args, like=like or compiled, **options))
    return dataclasses.replace(CONFIG, workdir=str(tmp_path / "runs" / "run"))


def row(epoch, loss=1.0):
    return {
        "epoch": epoch, "step": 10 * epoch, "train_loss": loss, "test_loss": loss + 1, "test_top5_accuracy": 0.5,
        "learning_rate": 0.1, "skipped_steps": 2, "coefficients": {"stage1": [0.1, -0.2], "stage2": [[0.5, 0.25]]},
        "zero_stability": {"stage1": [0.9, 0.8], "stage2": [-0.5]},
    }  # fmt: skip


def read(directory):
    """What TensorBoard's server shows of the files in a folder: {tag: {step: value}}."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(directory))
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        values = events.Tensors(tag)
        arrays = {value.step: make_ndarray(value.tensor_proto) for value in values}
        found[tag] = {step: array if array.ndim else array.item() for step, array in arrays.items()}
        assert len(found[tag]) == len(values), f"{tag}: two values of a step"
    return found


def require_as_recorded(found, rows):
    """Every epoch once, with the values of metrics.jsonl."""
    assert rows
    for key, tag in (("train_loss", "loss/train"), ("test_accuracy", "accuracy/test"), ("epoch", "epoch")):
        assert found[tag] == pytest.approx({row["step"]: row[key] for row in rows}, rel=1e-6)


def test_scalars_and_histograms_of_a_row():
    assert trackers.scalars(row(1)) == {
        "epoch": 1, "loss/train": 1.0, "loss/test": 2.0, "top5_accuracy/test": 0.5, "learning_rate": 0.1,
        "skipped_steps": 2, "zero_stability/smallest": -0.5,
    }  # fmt: skip
    found = trackers.histograms(row(1))
    assert {name: values.tolist() for name, values in found.items()} == {
        "coefficients/stage1": [0.1, -0.2], "coefficients/stage2": [0.5, 0.25],
        "zero_stability/stage1": [0.9, 0.8], "zero_stability/stage2": [-0.5],
    }  # fmt: skip
    assert trackers.histograms({"step": 1, "coefficients": {}}) == {}


@TENSORBOARD
def test_event_files(tmp_path, config, monkeypatch):
    for module in ("tensorflow", "torch"):  # neither is needed, nor imported where it is there
        monkeypatch.setitem(sys.modules, module, None)
    with Trackers(["tensorboard"], tmp_path, config) as told:
        told.begin([row(1)])  # it is first looked at when it goes on
        told.log(row(2, loss=3.0))
    found = read(tmp_path / "tensorboard")
    assert found["loss/train"] == {10: 1.0, 20: 3.0}
    assert found["zero_stability/smallest"] == {10: -0.5, 20: -0.5}
    left, right, count = found["coefficients/stage1"][20].T
    assert (left[0], right[-1], count.sum()) == (-0.2, 0.1, 2)
    assert json.loads(found["config"][0].decode()) == json.loads(json.dumps(to_dict(config)))
    assert "_hparams_/session_start_info" in found
    assert list(found["config"]) == [0]


class FakeWandb(types.ModuleType):
    """What of wandb is called, as its server behaves: what comes for a step that it has is ignored."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.ignored, self.finished = {}, [], []
        self.Histogram, self.Settings = list, dict

    def init(self, *, id, resume, dir, **options):
        assert resume == "allow"
        assert Path(dir).is_dir()
        assert options["config"]["model"]["name"] == "tiny"
        name = id or f"run{len(self.runs)}"
        history = self.runs.setdefault(name, {})

        def log(values, step):
            if step <= max(history, default=-1):
                self.ignored.append(step)
            else:
                history[step] = values

        def finish(exit_code):
            self.finished.append((name, exit_code))

        return types.SimpleNamespace(id=name, disabled=options["name"] == "disabled", log=log, finish=finish)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_LOGIN_TIMEOUT", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    return fake


def test_wandb_is_told_of_an_epoch_once_it_is_saved(tmp_path, config, wandb):
    with Trackers(["wandb"], tmp_path, config) as told:
        told.begin([])
        told.log(row(1)), told.saved()
        told.log(row(2, loss=7.0))
        told.begin([row(1)])  # rolled back
        told.log(row(2, loss=3.0)), told.log(row(3, loss=2.0)), told.saved()
    (history,) = wandb.runs.values()
    assert {step: values["loss/train"] for step, values in history.items()} == {10: 1.0, 20: 3.0, 30: 2.0}
    assert history[30]["coefficients/stage1"] == [0.1, -0.2]
    with Trackers(["wandb"], tmp_path, config) as told:  # resumed where it was, by a process that was never told
        told.begin([row(1), row(2), row(3), row(4, loss=1.5)])
    assert list(history) == [10, 20, 30, 40]
    assert wandb.ignored == []
    assert wandb.finished == [("run0", 0)] * 2
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "run0", "step": 40}


@pytest.mark.versions
@TENSORBOARD
def test_killed_and_resumed(config, wandb, monkeypatch):
    """After an epoch that no checkpoint holds: it is made once more, and only what is made then is shown."""
    with monkeypatch.context() as patch:

        def killed(row, *_):
            if row["epoch"] == 3:
                raise RuntimeError("killed")

        patch.setattr("lmjax.training.loop.say_epoch", killed)
        # As if the first time had been another: a GPU need not repeat itself.
        patch.setattr(Trackers, "log", lambda self, row: self._tell("log", row | {"train_loss": 77.0}))
        with pytest.raises(RuntimeError, match="killed"):
            training.train(config, log=["tensorboard", "wandb"])
    workdir = Path(config.workdir)
    assert list(read(workdir / "tensorboard")["loss/train"]) == [5, 10, 15]
    assert wandb.finished == [("run0", 1)]
    summary = training.train(config, resume="required", log=["tensorboard", "wandb"], profile=str(workdir / "trace"))
    assert list((workdir / "trace").glob("plugins/profile/*/perfetto_trace.json.gz"))
    rows = RunRecord(workdir).read_rows()
    found = read(workdir / "tensorboard")
    assert found["loss/train"] == pytest.approx({5: 77.0, 10: 77.0, 15: rows[2]["train_loss"]})
    assert list(found["coefficients/stage1"]) == list(found["zero_stability/stage1"]) == [5, 10, 15]
    assert list(found["config"]) == [0]
    smallest = min(min(margins) for margins in summary["zero_stability"].values())
    assert found["zero_stability/smallest"][15] == pytest.approx(smallest)
    history = wandb.runs["run0"]
    assert {step: values["loss/train"] for step, values in history.items()} == pytest.approx(found["loss/train"])
    assert wandb.ignored == []
    assert wandb.finished == [("run0", 1), ("run0", 0)]


@TENSORBOARD
def test_rolled_back(config, wandb, monkeypatch):
    """From the fourth epoch to the end of the second: the third is made once more, and otherwise."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=4))
    log, losses = Trackers.log, []

    def evaluated(trainer, pause):
        if trainer.step == 4 * STEPS and not any(trainer.redraws):
            raise NonFiniteLoss("the test loss is nan", trainer.step, trainer.seeds[0])
        return evaluate(trainer, pause)

    monkeypatch.setattr("lmjax.training.loop.evaluate", evaluated)
    monkeypatch.setattr(Trackers, "log", lambda self, row: [losses.append(row["train_loss"]), log(self, row)])
    training.train(config, log=["tensorboard", "wandb"])
    rows = RunRecord(config.workdir).read_rows()
    assert len(losses) == 5
    assert losses[2] != losses[3] == rows[2]["train_loss"]
    require_as_recorded(read(Path(config.workdir, "tensorboard")), rows)
    (history,) = wandb.runs.values()
    require_as_recorded({tag: {step: values[tag] for step, values in history.items()} for tag in history[STEPS]}, rows)
    assert wandb.ignored == []


class Failing:
    """Fails when it is first told of an epoch."""

    def __init__(self, directory, config):
        pass

    @staticmethod
    def require():
        pass

    def begin(self, rows):
        pass

    def log(self, row):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def saved(self):
        raise AssertionError("it is not told anything any more")

    def close(self, finished):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Keeping(Failing):
    """Keeps what it is told."""

    told: ClassVar[list] = []

    def log(self, row):
        self.told.append(row)

    def saved(self):
        self.told.append("saved")

    def close(self, finished):
        self.told.append(finished)


def test_one_that_fails_is_reported_once(tmp_path, config, monkeypatch, capsys):
    monkeypatch.setitem(trackers._KINDS, "failing", Failing)
    monkeypatch.setitem(trackers._KINDS, "keeping", Keeping)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # without all that is called
    with Trackers(["failing", "wandb", "keeping"], tmp_path, config) as told:
        told.begin([])
        told.log(row(1)), told.saved(), told.log(row(2)), told.saved()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("--log wandb has failed (module 'wandb' has no attribute")
    assert second == "--log failing has failed (No space left on device): going on without it"
    assert Keeping.told == [row(1), "saved", row(2), "saved", True]


@TENSORBOARD
def test_each_seed_has_its_own(config, wandb, monkeypatch, capsys):
    """And where a tracker fails, the runs and the other trackers go on."""
    monkeypatch.setitem(trackers._KINDS, "failing", Failing)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    results = training.train_seeds(config, [0, 1], log=["failing", "tensorboard", "wandb"], profile="")
    assert len(results["test_loss"]["values"]) == len(wandb.runs) == 2
    assert capsys.readouterr().err.count("--log failing has failed (No space left on device): going on without it") == 2
    for seed in (0, 1):
        folder = Path(config.workdir, f"seed{seed}")
        require_as_recorded(read(folder / "tensorboard"), RunRecord(folder).read_rows())
        assert (folder / "profile").exists() == (seed == 0), "the trace is of the first"


@TENSORBOARD
def test_event_files_on_a_full_disk(tmp_path, config, capsys):
    with Trackers(["tensorboard"], tmp_path, config) as told:
        told.begin([])
        told.log(row(1))
        file = told._trackers["tensorboard"]._file
        file.close()
        file._writer = open("/dev/full", "wb")  # noqa: SIM115
        told.log(row(2)), told.log(row(3))
    assert capsys.readouterr().err == "--log tensorboard has failed (No space left on device): going on without it\n"
    assert list(read(tmp_path / "tensorboard")["loss/train"]) == [10]
    with Trackers(["tensorboard"], tmp_path, config) as told:
        told.begin([row(1), row(2)])
        told.log(row(3))
    assert list(read(tmp_path / "tensorboard")["loss/train"]) == [10, 30]
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "tensorboard").touch()
    with Trackers(["tensorboard"], tmp_path / "below", config) as told:
        told.begin([])
    assert capsys.readouterr().err.count("\n") == 1, "a folder that cannot be made"


def test_only_the_process_that_writes_tells(tmp_path, config):
    with Trackers(["tensorboard"], tmp_path, config, writes=False) as told:
        told.begin([]), told.log(row(1)), told.saved()
    assert told.wanted, "what they are told is computed by all processes together"
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_disabled_is_said_to_be(tmp_path, config, wandb, monkeypatch, capsys):
    monkeypatch.setattr(FakeWandb, "init", lambda self, **options: types.SimpleNamespace(disabled=True))
    with Trackers(["wandb"], tmp_path, config) as told:
        told.begin([])
        told.log(row(1)), told.saved()
    (line,) = capsys.readouterr().err.splitlines()
    assert "wandb login, or WANDB_MODE=offline" in line


@pytest.mark.versions
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorboard", "--log tensorboard needs tensorboard, which is not installed: pip install tensorboard"),
        ("wandb", "--log wandb needs wandb, which is not installed: pip install wandb"),
        ("tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'? known: tensorboard, wandb"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(config, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, name, None)
    for start in (training.train, functools.partial(training.train_seeds, wanted=[0, 1])):
        with pytest.raises(InputError) as raised:
            start(config, log=[name])
        assert str(raised.value) == message
    assert not Path(config.workdir).exists()


def test_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    begin = ["--config", "configs/digits.py"]
    asked = []
    monkeypatch.setattr(trackers, "require", lambda names: None)
    monkeypatch.setattr(loop, "run", lambda *args, **options: asked.append(options) or _no_run())
    for options, log, profile in (
        ([], (), None),
        (["--log", "tensorboard", "wandb", "--profile"], ("tensorboard", "wandb"), ""),
        (["--profile", "there", "--log", "wandb", "--seeds", "0"], ("wandb",), "there"),
    ):
        assert train.main([*begin, "--workdir", str(tmp_path / "run"), *options]) == 2
        assert (asked[-1]["log"], asked[-1]["profile"]) == (log, profile)
    for option in (["--log", "wandb"], ["--profile"]):
        assert train.main([*begin, "--evaluate", "runs/a", *option]) == 2
        assert "--log, --profile and --dry-run: go with training" in capsys.readouterr().err


def _no_run():
    raise InputError("it is only looked at how it is called")


OFFLINE = """
import sys
from pathlib import Path
from lmjax.config import Config
from lmjax.training.trackers import TensorBoard, Trackers, WeightsAndBiases
from tests.training.test_trackers import row
with Trackers(["wandb"], Path(sys.argv[1]), Config()) as told:
    told.begin([row(n + 1) for n in range(int(sys.argv[2]))])
    told.log(row(3)), told.saved()
"""


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OFFLINE, str(tmp_path)]
    for count in (1, 2):  # started, and resumed
        result = subprocess.run([*command, str(count)], env=environment, capture_output=True, text=True, check=True)
        assert "has failed" not in result.stderr
    note = json.loads((tmp_path / "wandb.json").read_text())
    assert note["step"] == 30
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{note['id']}/run-{note['id']}.wandb"))


def test_they_are_what_a_tracker_is():
    for name, method in inspect.getmembers(trackers.Tracker, inspect.isfunction):
        for kind in (TensorBoard, WeightsAndBiases):
            if not name.startswith("_"):
                ours, theirs = (inspect.signature(f).parameters.keys() for f in (getattr(kind, name), method))
                assert ours == theirs, (kind, name)
