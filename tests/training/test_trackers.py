"""What trackers are told of a run, also of one that is killed, rolled back or cannot tell."""

import contextvars
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

import pytest

import train
from lmjax import InputError, training
from lmjax.config import to_dict
from lmjax.training import NonFiniteLoss, RunRecord, evaluate, loop, trackers
from lmjax.training.trackers import Trackers
from tests import tiny
from tests.devices import ONE
from tests.tiny import ROOT

TENSORBOARD = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")


CONFIG = tiny.changed(tiny.config, train={"epochs": 3, "on_nan": "rollback"}, checkpoint={"epochs": 2, "keep_best": 0})
STEPS = 5  # an epoch


@pytest.fixture(scope="module")
def compiled(digits):
    return tiny.create_trainer(CONFIG, digits, ONE)


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
    with Trackers(["tensorboard"], tmp_path, config) as told:  # epochs 3 and 4 were made without it
        told.begin([row(1), row(2), row(3), row(4)])
        told.log(row(5))
    assert list(read(tmp_path / "tensorboard")["loss/train"]) == [10, 20, 30, 40, 50]
    with Trackers(["tensorboard"], tmp_path, config) as told:  # after a rollback
        told.begin([row(1), row(2), row(3)])
        told.log(row(4, loss=7.0))
        told.begin([row(1), row(2)])  # and it is killed
    with Trackers(["tensorboard"], tmp_path, config) as told:
        told.begin([row(1), row(2), row(3, loss=8.0), row(4, loss=7.0)])
    assert read(tmp_path / "tensorboard")["loss/train"] == {10: 1.0, 20: 3.0, 30: 8.0, 40: 7.0}
    with Trackers(["tensorboard"], tmp_path, config) as told:  # from the beginning
        told.begin([])
        told.log(row(1, loss=5.0))
    found = read(tmp_path / "tensorboard")
    assert (found["loss/train"], list(found["config"])) == ({10: 5.0}, [0])


class Fake(types.ModuleType):
    """A tool whose rows cannot be changed: `runs` has the first row of a step, `again` the steps of which more came."""

    def __init__(self, name):
        super().__init__(name)
        self.runs, self.again, self.finished = {}, [], []

    def start(self, name, model):
        assert model == "tiny"
        return self.runs.setdefault(name or f"run{len(self.runs)}", {})

    def receive(self, name, values, step):
        history = self.runs[name]
        if step <= max(history, default=-1):
            self.again.append(step)
        else:
            history[step] = values


class FakeWandb(Fake):
    """What of wandb is called."""

    def __init__(self):
        super().__init__("wandb")
        self.Histogram, self.Settings = list, dict

    def init(self, *, id, resume, dir, **options):
        assert resume == "allow"
        assert Path(dir).is_dir()
        name = id or f"run{len(self.runs)}"
        self.start(name, options["config"]["model"]["name"])
        return types.SimpleNamespace(
            id=name,
            disabled=options["name"] == "disabled",
            log=functools.partial(self.receive, name),
            finish=lambda exit_code: self.finished.append((name, exit_code)),
        )


class FakeMlflow(Fake):
    """What of mlflow is called: an experiment can be made once, and the parameters of a run written once."""

    class MlflowException(Exception):
        pass

    entities = types.SimpleNamespace(
        Metric=lambda key, value, timestamp, step: (key, value, step), Param=lambda key, value: (key, value)
    )

    def __init__(self):
        super().__init__("mlflow")
        self.experiments = {}
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        if name in self.experiments:
            raise self.MlflowException("it is there")
        self.experiments[name] = types.SimpleNamespace(experiment_id=f"id of {name}")
        return self.experiments[name].experiment_id

    def create_run(self, experiment, run_name):
        assert experiment == "id of lmjax"
        name = f"run{len(self.runs)}"
        self.runs[name] = None
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

    def log_batch(self, name, metrics=(), params=()):
        if params:
            assert self.runs[name] is None
            del self.runs[name]
            self.start(name, dict(params)["model.name"])
        for step in {step for *_, step in metrics}:
            self.receive(name, {key: value for key, value, at in metrics if at == step}, step)

    def update_run(self, name, status):
        assert (name in self.runs, status) == (True, "RUNNING")

    def set_terminated(self, name, status):
        self.finished.append((name, ["FINISHED", "KILLED"].index(status)))


class FakeTrackio(Fake):
    """What of trackio is called: a start ends the run that the context has."""

    def __init__(self):
        super().__init__("trackio")
        self.Histogram, self.current = list, contextvars.ContextVar("current", default=None)

    def init(self, *, project, name, config, resume, embed):
        assert (project, resume, embed) == ("lmjax", "allow", False)
        assert self.current.get() is None, "another run would be ended"
        self.current.set(name)
        self.start(name, config["model"]["name"])
        return types.SimpleNamespace(
            log=functools.partial(self.receive, name), finish=lambda: self.finished.append((name, 0))
        )


FAKES = {"wandb": FakeWandb, "mlflow": FakeMlflow, "trackio": FakeTrackio}


@pytest.fixture
def wandb(monkeypatch):
    return faked("wandb", monkeypatch)


def faked(name, monkeypatch):
    fake = FAKES[name]()
    monkeypatch.setitem(sys.modules, name, fake)
    limits = ("WANDB_LOGIN_TIMEOUT", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    for limit in limits:
        monkeypatch.setenv(limit, "1")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return fake


@pytest.mark.parametrize("name", FAKES)
def test_told_of_an_epoch_once_it_is_saved(tmp_path, config, monkeypatch, name):
    """Two seeds at once; and what the tool has of a run is gone on with."""
    tool = faked(name, monkeypatch)
    for seed in ("seed0", "seed1"):
        (tmp_path / seed).mkdir()
    with Trackers([name], tmp_path / "seed0", config) as told, Trackers([name], tmp_path / "seed1", config) as other:
        told.begin([]), other.begin([])
        told.log(row(1)), told.saved()
        other.log(row(1, loss=5.0)), other.saved()
        told.log(row(2, loss=7.0))
        told.begin([row(1)])  # rolled back
        told.log(row(2, loss=3.0)), told.log(row(3, loss=2.0)), told.saved()
    first, second = tool.runs.values()
    assert {step: values["loss/train"] for step, values in first.items()} == {10: 1.0, 20: 3.0, 30: 2.0}
    assert {step: values["loss/train"] for step, values in second.items()} == {10: 5.0}
    assert first[30]["zero_stability/smallest"] == -0.5
    if name != "mlflow":
        assert first[30]["coefficients/stage1"] == [0.1, -0.2]
    with Trackers([name], tmp_path / "seed0", config) as told:  # resumed where it was, by a process that was never told
        told.begin([row(1), row(2), row(3), row(4, loss=1.5)])
    assert list(first) == [10, 20, 30, 40]
    assert len(tool.runs) == 2
    assert tool.again == []
    one, two = tool.runs
    assert tool.finished == [(two, 0), (one, 0), (one, 0)]
    assert json.loads((tmp_path / "seed0" / f"{name}.json").read_text()) == {"id": one, "step": 40}


def test_runs_of_mlflow_and_trackio_are_told_apart(tmp_path, config, monkeypatch):
    """By a process that loses a race for the experiment, one that was stopped, and two folders of one name."""
    mlflow, trackio = faked("mlflow", monkeypatch), faked("trackio", monkeypatch)
    mlflow.create_experiment("lmjax")
    found = iter([None, mlflow.experiments["lmjax"]])
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda name: next(found))
    folders = [tmp_path / place / "runs" / "a" for place in ("here", "there")]
    for folder in folders:
        folder.mkdir(parents=True)
        with Trackers(["trackio"], folder, config) as told:
            told.begin([])
    assert len(trackio.runs) == 2
    assert all(name.startswith("runs/a-") for name in trackio.runs)
    told = Trackers(["mlflow"], folders[0], config)
    told.begin([])
    told.end(finished=False)
    assert mlflow.finished == [("run0", 1)]


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
    assert wandb.again == []
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
    assert wandb.again == []


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
    monkeypatch.setattr(Keeping, "told", [])
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
    assert list(read(tmp_path / "tensorboard")["loss/train"]) == [10, 20, 30]
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
        ("mlflow", "--log mlflow needs mlflow, which is not installed: pip install mlflow"),
        ("trackio", "--log trackio needs trackio, which is not installed: pip install trackio"),
        (
            "tensorbord",
            "unknown tracker 'tensorbord': did you mean 'tensorboard'? known: mlflow, tensorboard, trackio, wandb",
        ),
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
from lmjax.training.trackers import Trackers
from tests.training.test_trackers import row
with Trackers([sys.argv[1]], Path(sys.argv[2]), Config()) as told:
    told.begin([row(n + 1) for n in range(int(sys.argv[3]))])
    told.log(row(3)), told.saved()
"""


def started_and_resumed(name, folder, **settings):
    """What a run leaves in its folder of the tool itself, where that is installed."""
    pytest.importorskip(name)
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT), **settings}
    for count in (1, 2):
        command = [sys.executable, "-c", OFFLINE, name, str(folder), str(count)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert "has failed" not in result.stderr
    note = json.loads((folder / f"{name}.json").read_text())
    assert note["step"] == 30
    return note["id"]


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    run = started_and_resumed("wandb", tmp_path, WANDB_MODE="offline")
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))


@pytest.mark.slow
def test_mlflow_with_a_database(tmp_path):
    pytest.importorskip("sqlalchemy")  # not in mlflow-skinny
    address = f"sqlite:///{tmp_path}/mlflow.db"
    run = started_and_resumed("mlflow", tmp_path, MLFLOW_TRACKING_URI=address)
    client = sys.modules["mlflow"].MlflowClient(address)
    found = client.get_run(run)
    assert (found.info.status, found.data.params["model.name"]) == ("FINISHED", "resnet20")
    assert [metric.step for metric in client.get_metric_history(run, "loss/train")] == [10, 30]


@pytest.mark.slow
def test_trackio_on_this_machine(tmp_path):
    run = started_and_resumed("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    program = "import trackio; print(*(run.name for run in trackio.Api().runs('lmjax')))"
    environment = {**os.environ, "HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [run]


def test_they_are_what_a_tracker_is():
    for name, method in inspect.getmembers(trackers.Tracker, inspect.isfunction):
        for kind in trackers._KINDS.values():
            if not name.startswith("_"):
                ours, theirs = (inspect.signature(f).parameters.keys() for f in (getattr(kind, name), method))
                assert ours == theirs, (kind, name)
