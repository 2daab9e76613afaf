"""What a program does before JAX starts in it. Whatever changes the process is tried in one of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import pytest

import train
from lmjax import InputError, runtime
from tests import UNOPTIMIZED, tiny
from tests.parameters import slow
from tests.tiny import ROOT


def environment(**variables):
    hidden = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    base = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**base, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}


def python(program, **variables):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)


def test_options_and_flags_of_xla_and_those_of_the_user(monkeypatch):
    monkeypatch.setattr(runtime, "COMPILER_OPTIONS", {"gpu": {"xla_a": 1, "xla_b": 2}})
    monkeypatch.setattr(runtime, "DETERMINISTIC", ["--d=4"])
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=3")
    assert runtime.compiler_options("gpu") == {"xla_b": 2}
    assert runtime.compiler_options("cpu") == {}
    assert runtime.set_flags(deterministic=False) == []
    assert runtime.set_flags(deterministic=True) == ["--d=4"]
    assert os.environ["XLA_FLAGS"] == "--xla_a=3 --d=4"
    assert runtime.set_flags(deterministic=True) == []


@pytest.mark.versions
@pytest.mark.parametrize("platform", runtime.COMPILER_OPTIONS)
def test_options_are_known_to_this_xla(platform):
    """Those of an accelerator, too, though here they do nothing."""
    jax.jit(lambda x: x + 1).lower(1.0).compile(runtime.COMPILER_OPTIONS[platform])


@pytest.mark.versions
def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    program = """
import jax, lmjax.runtime
lmjax.runtime.start()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))), sum("cache_hits" in event for event in hits))
"""
    first, second = (python(program, XDG_CACHE_HOME=str(tmp_path)).stdout.split() for _ in range(2))
    assert first[0] == second[0] == "512.0"
    assert int(first[1]) == 0 < int(second[1])
    (folder,) = (tmp_path / "lmjax" / "programs").iterdir()
    assert list(folder.iterdir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Asks for the folder of compiled programs, as a new process does; nothing else is changed."""
    monkeypatch.setattr(runtime.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(
        runtime, "_SETTINGS", SimpleNamespace(jax_compilation_cache_dir=None, jax_enable_compilation_cache=True)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return runtime.cache_programs


def test_the_cache_can_be_elsewhere_off_or_impossible(cache, tmp_path, monkeypatch):
    for settings in ({"jax_compilation_cache_dir": "mine"}, {"jax_enable_compilation_cache": False}):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(runtime._SETTINGS, name, value)
            assert cache() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError))  # a container's user that no file knows
    assert cache() is None


def test_the_cache_is_private(cache, capsys):
    """What is compiled is run as it is found: nobody else may have put it there."""
    before = os.umask(0)
    try:
        folder = cache()
    finally:
        os.umask(before)
    chain = [folder, *folder.parents[:2]]
    assert [path.stat().st_mode & 0o777 for path in chain] == [0o700] * 3
    for path in chain:
        path.chmod(0o720)
        assert cache() is None
        assert capsys.readouterr().err == (
            f"note: {path}: others can write to it: delete it, and a new one is made: compiled programs are not kept\n"
        )
        path.chmod(0o700)
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        assert cache() is None
        assert f"{folder}: belongs to another user" in capsys.readouterr().err


def test_memory_is_kept_on_a_cpu():
    """Once the heap has grown to what steps need, they ask the system for no new pages; else every one does."""
    program = """
import ctypes, os, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no pages of 2 MiB
import jax, jax.numpy as jnp
import lmjax.runtime
if os.environ.get("KEEP"): lmjax.runtime.keep_memory()
f = jax.jit(lambda x: x * 1.5)  # a result of 64 MiB, beyond what glibc keeps by itself
x = jnp.ones(2**24)
for _ in range(12): jax.block_until_ready(f(x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6): jax.block_until_ready(f(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if sys.platform != "linux":
        pytest.skip("glibc is Linux's")
    kept, asked = int(python(program, KEEP="1").stdout), int(python(program).stdout)
    assert asked > 50_000, "six times 64 MiB, in pages of 4 KiB"
    assert kept < asked / 2


def test_what_describes_only_some_of_the_processes():
    given = {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}
    with pytest.raises(InputError, match="without JAX_COORDINATOR_ADDRESS: give all three or none"):
        runtime.join_processes(given)
    with pytest.raises(InputError, match="must be whole numbers"):
        runtime.join_processes({**given, "JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "one"})
    with pytest.raises(InputError, match="JAX_COORDINATOR_ADDRESS given without JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        runtime.join_processes({"JAX_COORDINATOR_ADDRESS": "localhost:1", "TPU_SKIP_MDS_QUERY": "1"})


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),  # the shell of an allocation
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1k-0,t1k-1"}, True),
    ],
    ids=str,
)
def test_launchers_are_recognized(monkeypatch, variables, several):
    joined = []
    monkeypatch.setattr(runtime.jax.distributed, "initialize", lambda **arguments: joined.append(arguments))
    runtime.join_processes({"TPU_SKIP_MDS_QUERY": "1", **variables})
    assert [each["heartbeat_timeout_seconds"] for each in joined] == [runtime.HEARTBEAT_SECONDS] * several
    assert all(each["initialization_timeout"] > runtime.JOIN_SECONDS for each in joined), "ours ends the waiting"


@pytest.mark.parametrize("process", ["0", slow("1")])
def test_a_process_that_never_comes(process):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": process}
    result = python("from lmjax import runtime; runtime.JOIN_SECONDS = 1; runtime.start()", **variables)
    assert result.returncode == 75, result.stderr
    assert "error: another process of this run has ended, or cannot be reached: start all again" in result.stderr


CPUS = f"{UNOPTIMIZED} --xla_force_host_platform_device_count"
TRAIN = [sys.executable, "train.py", "--config", "tests/tiny.py", "--train.batch-size", "1024", "--train.epochs", "1"]


def test_two_processes_of_train_py(tmp_path, monkeypatch):
    """Started as docs/devices.md says: one folder, one set of files, and the numbers of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    workers, outputs = [], [tmp_path / f"process{i}.txt" for i in range(2)]
    for process, path in enumerate(outputs):
        variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(process)}
        there = tiny.environment(XLA_FLAGS=f"{CPUS}=4", **variables)
        with path.open("w") as output:  # a file: a full pipe would stop one process, and with it the other
            workers.append(
                subprocess.Popen(
                    [*TRAIN, "--workdir", str(tmp_path / "two")], cwd=ROOT, env=there, stdout=output,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                )
            )  # fmt: skip
    try:
        for worker in workers:
            worker.wait(timeout=300)
    except subprocess.TimeoutExpired:
        pytest.fail("\n".join(path.read_text() for path in outputs))
    finally:
        for worker in workers:
            worker.kill()
    first, second = (path.read_text() for path in outputs)
    assert [worker.returncode for worker in workers] == [0, 0], first + second
    assert "process 0 of 2, 4 devices here" in first
    assert "on 8 x cpu" in first
    assert "epoch 1/1" in first
    assert "epoch 1/1" not in second, "only the first process reports"

    monkeypatch.chdir(ROOT)
    assert train.main([*TRAIN[2:], "--workdir", str(tmp_path / "one")]) == 0  # on eight devices, too
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("two", "one")]
    for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3)
