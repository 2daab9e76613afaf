"""What clusters do to a run, done to real processes: what was promised in docs/reliability.md is what happens."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.parameters import slow
from tests.tiny import ROOT, environment, rows

SMALL = ["--config", "tests/tiny.py", "--train.batch-size", "128", "--train.epochs", "4"]
STEPS = 11  # an epoch

# train.py with something that happens to it after an epoch, or in the middle of a save.
HARNESS = """
import errno, os, resource, signal, sys, time
import train
from lmjax.training import Checkpoints, integrity, loop

folder, fault = sys.argv[1:3]
say_epoch, save, seal = loop.say_epoch, Checkpoints.save, integrity.seal
filler = os.path.join(folder, "filler")

def fill():
    with open(filler, "wb", buffering=0) as file:
        try:
            while True: file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC

def seal_or_die(part):  # what else has been cut short: tests/training/test_power_cut.py
    if fault == "killed while saving" and os.path.basename(part).startswith("22."):
        os.kill(os.getpid(), signal.SIGKILL)
    seal(part)

def save_and_wait(self, *arguments, **options):
    save(self, *arguments, **options)
    self.wait()

def after(row, *others):
    say_epoch(row, *others)
    match fault, row["epoch"]:
        case "file too large", 2: resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
        case "disk full", 2: fill()
        case "disk full", 3: os.remove(filler)
        case "endless step", 1: time.sleep(600)

loop.say_epoch, integrity.seal = after, seal_or_die
Checkpoints.save = save_and_wait  # so that the one before the fault is there
code = train.main(sys.argv[3:])
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)
"""


def command(*arguments, program=("train.py",), prefix=()):
    return [*prefix, sys.executable, *program, *SMALL, *map(str, arguments)]


def harness(fault, folder):
    return "-c", HARNESS, str(folder), fault


def run(*arguments, **how):
    words = command(*arguments, **how)
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run("--workdir", workdir)
    assert result.returncode == 0, result.stderr
    return workdir


def test_killed_while_saving(tmp_path, undisturbed):
    workdir = tmp_path / "run"
    options = ("--workdir", workdir, "--checkpoint.epochs", 1, "--resume", "auto")
    result = run(*options, program=harness("killed while saving", tmp_path))
    assert result.returncode == -signal.SIGKILL
    (part,) = (workdir / "checkpoints").glob("22*")
    assert "orbax-checkpoint-tmp" in part.name
    result = run(*options)
    assert "going on after epoch 1\n" in result.stdout, result.stderr
    assert result.returncode == 0
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert rows(workdir) == rows(undisturbed)


def mounting(folder, options, script):
    """The beginning of a command that a script runs as "$@" where a small disk is mounted, seen by it alone."""
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    begin = f'mount -t tmpfs -o {options} tmpfs "{folder}" && '
    try:
        subprocess.run([*mount, begin + "true"], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    return [*mount, begin + script, "sh"]


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_disk_full_while_saving(tmp_path, disk, undisturbed):
    """From the second epoch to the third. The run goes on, says so, and has lost nothing at its end."""
    workdir = tmp_path / "copy"  # what is on that disk goes with the process
    prefix = mounting(disk, "size=2m", f'{{ "$@"; code=$?; cp -r {disk}/run {workdir}; exit $code; }}')
    options = ("--workdir", disk / "run", "--checkpoint.epochs", 1, "--checkpoint.keep-last", 1)
    result = run(*options, program=harness("disk full", disk), prefix=prefix)
    assert result.returncode == 0, result.stderr
    said = "the checkpoint of step 22 could not be written (No space left on device): going on without it"
    assert said in result.stderr
    assert "the last one is of step 11" in result.stderr
    assert "Traceback" not in result.stderr
    assert rows(workdir) == rows(undisturbed)
    assert max(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")) == 44
    assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_disk_full_at_the_end(tmp_path):
    """The end could not be kept: that is an error, and what was kept before is still good."""
    options = ("--workdir", tmp_path / "run", "--train.epochs", 2, "--checkpoint.epochs", 1)
    result = run(*options, program=harness("file too large", tmp_path))
    assert result.returncode == 2
    assert "the end of the run could not be saved: make room; --resume then goes on from step 11" in result.stderr
    result = run(*options, "--resume")
    assert result.returncode == 0, result.stderr
    assert "going on after epoch 1" in result.stdout
    assert len(rows(tmp_path / "run")) == 2


def test_folder_that_cannot_be_written(disk, undisturbed):
    """A new run, and one that was copied there before."""
    remount = f"rm {disk}/run/summary.json && mount -o remount,ro {disk}"
    prefix = mounting(disk, "size=4m", f'cp -r {undisturbed} {disk}/run && {remount} && exec "$@"')
    program = """
import sys, train
new, old, *words = sys.argv[1:]
print(train.main([*words, "--workdir", new]), train.main([*words, "--workdir", old, "--resume"]))
"""
    result = run(program=("-c", program, str(disk / "new"), str(disk / "run")), prefix=prefix)
    assert result.stdout.endswith("\n2 2\n")
    assert result.stderr.count("cannot be written (Read-only file system)") == 2
    assert "Traceback" not in result.stderr


def hang_up():
    """Unlike what nohup starts, end by SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextlib.contextmanager
def started(folder, *arguments, program=("train.py",), count=1, apart=False):
    """The processes of a run. What one says is in a file: a full pipe would stop it, and with it the others."""
    variables, processes = {}, []
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    try:
        for i in range(count):
            said = folder / f"process{i}.txt"
            if count > 1:
                variables["JAX_PROCESS_ID"] = str(i)
            with said.open("w") as file:
                process = subprocess.Popen(
                    command("--workdir", folder / (f"run{i}" if apart else "lr=[0.1]"), *arguments, program=program),
                    cwd=ROOT, env=environment(**variables), stdin=subprocess.DEVNULL,
                    stdout=file, stderr=subprocess.STDOUT, preexec_fn=hang_up,
                )  # fmt: skip
            process.said = said.read_text
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()


def wait_for(text, process, *others, seconds=120):
    end = time.monotonic() + seconds
    while text not in process.said():
        gone = [each.returncode for each in (process, *others) if each.poll() is not None]
        if gone or time.monotonic() > end:
            pytest.fail(f"{text!r} was never said; ended with {gone}: {process.said()}")
        time.sleep(0.1)


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.slow  # by default, SIGHUP and SIGTERM are sent below
@pytest.mark.parametrize("number", [TERM, INT, HUP], ids=["SIGTERM", "SIGINT", "SIGHUP"])
def test_stopped_by_a_signal_within_seconds(tmp_path, number):
    with started(tmp_path, "--train.epochs", 1000) as (process,):
        wait_for("epoch    2/1000", process)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    assert time.monotonic() - began < 30
    step = int(process.said().split("stopped at step ")[1].split(":")[0])
    assert (tmp_path / "lr=[0.1]" / "checkpoints" / str(step)).is_dir()
    assert "Traceback" not in process.said()


@pytest.mark.parametrize("lost", [slow(">/dev/full 2>/dev/full"), slow("<&- >&- 2>&-")], ids=["full", "closed"])
def test_output_that_cannot_be_written(tmp_path, undisturbed, lost):
    """On a full disk, or to descriptors that are closed and may become those of a file: the numbers are the same."""
    result = run("--workdir", tmp_path / "run", prefix=["sh", "-c", f'exec "$@" {lost}', "sh"])
    assert result.returncode == 0
    assert rows(tmp_path / "run") == rows(undisturbed)
    assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()) == 44


@pytest.mark.parametrize(("lost", "number"), [slow("reader", INT), ("terminal", HUP)], ids=["reader", "terminal"])
def test_nobody_reads_any_more(tmp_path, lost, number):
    """As with `| tee log` and Ctrl-C, which ends tee as well; or when a terminal is gone, with its bar."""
    ours, theirs = os.pipe() if lost == "reader" else os.openpty()
    workdir = tmp_path / "run"
    words = command("--workdir", workdir, "--train.epochs", 1000)
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=theirs, stderr=theirs, preexec_fn=hang_up)
    os.close(theirs)
    try:
        said = b""
        while b"epoch    1/1000" not in said:
            more = os.read(ours, 65536)
            assert more, said
            said += more
        os.close(ours)
        before = len(rows(workdir))
        while len(rows(workdir)) < before + 2:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
    assert rows(workdir)[before]["epoch"] == before + 1
    assert list((workdir / "checkpoints").glob("[0-9]*"))


def test_second_ctrl_c_ends_at_once(tmp_path):
    """Even where the first does not come to its end, because the step takes for ever."""
    with started(tmp_path, program=harness("endless step", tmp_path)) as (process,):
        wait_for("epoch 1/4", process)
        process.send_signal(INT)
        wait_for("interrupted: saving", process)
        process.send_signal(INT)
        assert process.wait(timeout=60) == 130
    assert "what has not been saved is lost" in process.said()


@pytest.mark.versions
@pytest.mark.parametrize("number", [TERM, slow(INT)], ids=["SIGTERM", "SIGINT"])
def test_two_processes_stop_at_the_same_step_go_on_and_one_is_lost(tmp_path, number):
    """The signal reaches the second alone."""
    with started(tmp_path, "--train.epochs", 300, "--checkpoint.keep-best", 0, count=2) as processes:
        wait_for("epoch   1/300", *processes)
        processes[1].send_signal(number)
        codes, said = [process.wait(timeout=60) for process in processes], processes[0].said()
    assert codes == [143, 128 + number], said + processes[1].said()
    step = int(said.split("stopped at step ")[1].split(":")[0])
    assert {p.name for p in (tmp_path / "lr=[0.1]" / "checkpoints").iterdir()} == {str(step)}
    # Where the processes stop is not the end of what they do: they go on together.
    with started(tmp_path, "--train.epochs", 300, "--resume", "auto", count=2) as processes:
        wait_for(f"epoch {step // STEPS + 2:>3}/300", *processes)
        assert "going on after epoch" in processes[0].said()
        lose(processes[1], processes[0])


def test_two_processes_that_were_given_different_runs(tmp_path):
    """Another folder here: both say so, instead of waiting for each other."""
    with started(tmp_path, "--resume", "auto", count=2, apart=True) as processes:
        codes = [process.wait(timeout=60) for process in processes]
        said = [process.said() for process in processes]
    assert codes == [2, 2], said
    first, second = (tmp_path / f"run{i}" for i in range(2))
    assert f"error: workdir is '{first}' in the first process and '{second}' in this one: give all" in said[1]
    assert "error: another process of this run differs, as it says: give all processes the same command" in said[0]
    assert not first.exists()
    assert not second.exists()


@pytest.mark.slow  # the second process is lost above
def test_the_first_of_two_processes_is_lost(tmp_path):
    with started(tmp_path, "--train.epochs", 300, count=2) as processes:
        wait_for("epoch   1/300", *processes)
        lose(*processes)


def lose(lost, left):
    """Kill one of two processes: the other ends within a minute, and says why."""
    lost.kill()
    code = left.wait(timeout=60)
    # JAX itself ends a process that has lost the first one, or that waited for another one's part of a checkpoint: by
    # an abort, or with code 1 (seen with 0.7.2).
    assert code in (75, -signal.SIGABRT, 1), left.said()
    words = "another process of this run has ended" if code == 75 else "another task died"
    assert words in left.said()


def test_repeating_the_command_until_it_is_finished(tmp_path, undisturbed):
    """As a restart loop does, with a kill in between. Once more, it says that it is finished: tests/test_train.py."""
    options = ("--checkpoint.steps", 3, "--resume", "auto")
    with started(tmp_path, *options) as (process,):
        wait_for("epoch 1/4", process)
    process.wait()
    result = run("--workdir", tmp_path / "lr=[0.1]", *options)
    assert result.returncode == 0
    assert "going on after epoch" in result.stdout
    assert rows(tmp_path / "lr=[0.1]") == rows(undisturbed)
