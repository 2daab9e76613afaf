"""train.py --profile: a trace that others can read, of a run whose numbers it does not change."""

import contextlib
import dataclasses
import functools
import gzip
import json

import chex
import jax
import numpy as np
import pytest

from lmjax import InputError
from lmjax.config import TrainConfig
from lmjax.training import Trainer, profiling, train_epoch
from lmjax.training.profiling import Profile, window
from tests import tiny
from tests.devices import ONE

CONFIG = tiny.config


@pytest.fixture(scope="module")
def compiled(digits):
    return tiny.create_trainer(CONFIG, digits, ONE)


@pytest.fixture
def trainer(compiled):
    """At the beginning of a run of five steps an epoch."""
    compiled.restart()
    return compiled


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ([1] * 390, (10, 20)),
        ([1] * 15, (5, 15)),  # the end of a short epoch
        ([1] * 5, (1, 5)),  # all but the first
        ([1], (0, 1)),
        ([50] * 7 + [40], (50, 100)),  # by whole programs
        ([4] * 6, (12, 24)),
        ([11, 11], (11, 22)),
        ([22], (0, 22)),
    ],
)
def test_the_window_lies_between_programs(programs, expected):
    assert window(programs) == expected


def annotations(directory):
    """The steps that are marked in what Perfetto opens, and all that it names."""
    (path,) = directory.glob("plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = [int(event["args"]["step_num"]) for event in events if event.get("name") == "train"]
    return steps, {event.get("args", {}).get("hlo_module") for event in events}


@pytest.mark.versions
def test_a_trace_of_some_steps_and_the_numbers_of_the_run(trainer, tmp_path, capsys):
    train_epoch(trainer)
    plain, sums = jax.device_get(trainer.state), trainer.sums[0]
    trainer.restart()
    with Profile(tmp_path).epoch(trainer) as between:
        train_epoch(trainer, pause=between)
    chex.assert_trees_all_equal(plain, jax.device_get(trainer.state))
    assert dataclasses.replace(sums, seconds=0) == dataclasses.replace(trainer.sums[0], seconds=0)
    assert trainer.sums[0].seconds > 0
    steps, modules = annotations(tmp_path)
    assert steps == [2, 3, 4, 5]  # of five
    assert "jit_train" in modules
    said = capsys.readouterr().out
    assert "a trace of steps 2 to 5: open " in said
    assert "https://ui.perfetto.dev" in said
    (binary,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    content = binary.read_bytes()
    for name in (b"stage1", b"head"):
        assert name in content


@pytest.mark.slow
def test_of_programs_of_several_steps(digits, tmp_path):
    config = dataclasses.replace(CONFIG, train=TrainConfig(epochs=2, batch_size=32, steps_per_dispatch=5))
    trainer = Trainer(config, digits, ONE)
    assert trainer.compiled.dispatches(10) == [5, 5]
    with Profile(tmp_path).epoch(trainer) as between:
        train_epoch(trainer, pause=between)
    assert annotations(tmp_path)[0] == [6]


@pytest.mark.parametrize("what", ["pause", "error"])
def test_an_interruption_ends_the_trace(trainer, tmp_path, what):
    def pause(step):
        if step == 3 and what == "error":
            raise RuntimeError("of another cause")
        return step == 3

    with (
        pytest.raises(RuntimeError, match="of another cause") if what == "error" else contextlib.nullcontext(),
        Profile(tmp_path).epoch(trainer) as between,
    ):
        train_epoch(trainer, pause=lambda step: between(step) or pause(step))
    assert annotations(tmp_path)[0] == [2, 3, 4]  # the last of which has only begun
    jax.profiler.start_trace(str(tmp_path / "again"))  # an error if one were still going on
    jax.profiler.stop_trace()


def test_a_place_that_is_no_folder_is_refused_before_the_run(tmp_path, capsys):
    import train

    file = tmp_path / "README.md"
    file.write_text("")
    for place in (file, file / "below"):
        for seeds in ([], ["--seeds", "0", "1"]):
            command = ["--config", "configs/digits.py", "--workdir", str(tmp_path / "run"), "--profile", str(place)]
            assert train.main([*command, *seeds]) == 2
            said = capsys.readouterr().err
            assert said == f"error: --profile {place}: {file} is not a folder: name another place\n"
    with pytest.raises(InputError, match=r"cannot be a folder \(File name too long\): name another place"):
        profiling.require(tmp_path / ("x" * 300))
    profiling.require(tmp_path / "new" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("fails", ["start_trace", "stop_trace"])
def test_a_trace_that_fails_is_reported_and_the_run_goes_on(trainer, tmp_path, monkeypatch, capsys, fails):
    def fail(*_, **__):
        raise RuntimeError("Only one profile may be run at a time.\nAt all.")

    with monkeypatch.context() as patch:
        for name in ("start_trace", "stop_trace"):
            patch.setattr(profiling.jax.profiler, name, fail if name == fails else lambda *_, **__: None)
        with Profile(tmp_path).epoch(trainer) as between:
            assert train_epoch(trainer, pause=between) is not None
    assert trainer.step == 5
    said = capsys.readouterr().err
    assert said == "--profile has failed (Only one profile may be run at a time.): going on without it\n"


def test_the_names_of_the_stages_are_in_no_operation(trainer, monkeypatch):
    def program():
        step = jax.jit(functools.partial(trainer.compiled.functions.train, steps=1))
        lowered = step.lower(trainer.state, np.uint32(0), trainer.feed.example)
        return lowered.as_text(), lowered.as_text(debug_info=True)

    named, details = program()
    assert "stage1" in details
    monkeypatch.setattr(jax, "named_scope", lambda name: contextlib.nullcontext())
    plain, details = program()
    assert "stage1" not in details
    assert named == plain
