"""What clusters do to a run, done to real processes: what was promised in docs/reliability.md is what happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.tiny import ROOT, environment

SMALL = ["--config", "tests/tiny.py", "--train.batch-size", "128", "--train.epochs", "4"]
STEPS = 11  # an epoch

# train.py with something that happens to it after an epoch, or in the middle of a save.
HARNESS = """
import errno, os, resource, signal, sys
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

def seal_or_die(part):
    if os.path.basename(part).startswith("22."):  # if it was so fast that nobody has seen the first file
        os.kill(os.getpid(), signal.SIGKILL)
    seal(part)

def save_and_die(self, state, *arguments, **options):
    save(self, state, *arguments, **options)
    while int(state.step) == 22:  # until the first of its files is there, which are not all of them
        if any(path.is_file() for path in self.directory.glob("22.*/**/*")):
            os.kill(os.getpid(), signal.SIGKILL)

def save_and_wait(self, *arguments, **options):
    save(self, *arguments, **options)
    self.wait()

def after(row, *others):
    say_epoch(row, *others)
    if (fault, row["epoch"]) == ("file too large", 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
    if (fault, row["epoch"]) == ("file too large", 3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if (fault, row["epoch"]) == ("disk full", 2):
        fill()
    if (fault, row["epoch"]) == ("disk full", 3):
        os.remove(filler)

loop.say_epoch = after
Checkpoints.save = save_and_wait  # so that the one before the fault is there
if fault == "killed while saving":
    Checkpoints.save, integrity.seal = save_and_die, seal_or_die
code = train.main(sys.argv[3:])
sys.stdout.flush(), sys.stderr.flush()
os._exit(code)
"""

# A disk of two megabytes, or one that cannot be written, for one process and its children.
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


def run(*arguments, prefix=()):
    command = [*prefix, sys.executable, "train.py", *SMALL, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def run_with(fault, folder, *arguments, prefix=()):
    command = [*prefix, sys.executable, "-c", HARNESS, str(folder), fault, *SMALL, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in ("images_per_second", "wall_seconds")} for x in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run("--workdir", workdir)
    assert result.returncode == 0, result.stderr
    return workdir


def test_killed_while_saving(tmp_path, undisturbed):
    workdir = tmp_path / "run"
    options = ("--workdir", workdir, "--checkpoint.epochs", 1, "--resume", "auto")
    result = run_with("killed while saving", tmp_path, *options)
    assert result.returncode == -signal.SIGKILL
    (part,) = (workdir / "checkpoints").glob("22*")
    assert "orbax-checkpoint-tmp" in part.name
    result = run(*options)
    assert "going on after epoch 1\n" in result.stdout, result.stderr
    assert result.returncode == 0
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert rows(workdir) == rows(undisturbed)


def mounting(folder, options):
    """The beginning of a command that runs where a small disk is mounted."""
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    prefix = [*MOUNT, script, "sh"]
    try:
        possible = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no disk can be mounted here")
    return prefix


@pytest.mark.parametrize("fault", ["disk full", pytest.param("file too large", marks=pytest.mark.slow)])
def test_disk_full_while_saving(tmp_path, undisturbed, fault):
    """From the second epoch to the third. The run goes on, says so, and has lost nothing at its end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    # What is on that disk goes with the process: it is copied before.
    prefix = []
    if fault == "disk full":
        prefix = mounting(disk, "size=2m")
        prefix[-2] = prefix[-2].replace('exec "$@"', f'"$@"; code=$?; cp -r {disk}/run {tmp_path}/copy; exit $code')
    options = ("--workdir", disk / "run", "--checkpoint.epochs", 1, "--checkpoint.keep-last", 1)
    result = run_with(fault, disk, *options, prefix=prefix)
    assert result.returncode == 0, result.stderr
    why = {"disk full": "No space left on device", "file too large": "File too large"}[fault]
    assert f"the checkpoint of step 22 could not be written ({why}): going on without it" in result.stderr
    assert "the last one is of step 11" in result.stderr
    assert "Traceback" not in result.stderr
    workdir = tmp_path / "copy" if fault == "disk full" else disk / "run"
    assert rows(workdir) == rows(undisturbed)
    assert max(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*")) == 44
    assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_disk_full_at_the_end(tmp_path):
    """The end could not be kept: that is an error, and what was kept before is still good."""
    options = ("--workdir", tmp_path / "run", "--train.epochs", 2, "--checkpoint.epochs", 1)
    result = run_with("file too large", tmp_path, *options)
    assert result.returncode == 2
    assert "the end of the run could not be saved: make room; --resume then goes on from step 11" in result.stderr
    result = run(*options, "--resume")
    assert result.returncode == 0, result.stderr
    assert "going on after epoch 1" in result.stdout
    assert len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["start", "resume"])
def test_folder_that_cannot_be_written(tmp_path, undisturbed, resume):
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = mounting(disk, "size=4m")
    # A run is copied there, and the disk made read-only.
    copying = f'cp -r {undisturbed} {disk}/run; rm {disk}/run/summary.json; mount -o remount,ro {disk}; exec "$@"'
    prefix[-2] = prefix[-2].replace('exec "$@"', copying)
    result = run("--workdir", disk / ("run" if resume else "new"), *resume, prefix=prefix)
    assert result.returncode == 2
    assert "cannot be written (Read-only file system)" in result.stderr
    assert "Traceback" not in result.stderr


def start(workdir, output, *arguments, **variables):
    command = [sys.executable, "train.py", *SMALL, "--workdir", str(workdir), *map(str, arguments)]
    with output.open("w") as file:  # a file: a full pipe would stop one process, and with it the others
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(**variables), stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # unlike nohup
        )  # fmt: skip


def start_two(workdir, folder, *arguments, second=None):
    """Two processes of one run; `second` is another folder for the second of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outputs = [folder / f"process{i}.txt" for i in range(2)]
    return [
        start(
            (second if i and second else workdir), output, *arguments,
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i),
        )
        for i, output in enumerate(outputs)
    ], outputs  # fmt: skip


def wait_for(text, output, processes, seconds=120):
    end = time.monotonic() + seconds
    while text not in output.read_text():
        gone = [process.returncode for process in processes if process.poll() is not None]
        if gone or time.monotonic() > end:
            pytest.fail(f"{text!r} was never said; ended with {gone}: {output.read_text()}")
        time.sleep(0.1)


TERM, INT = signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)


@pytest.mark.parametrize("number", [TERM, INT, signal.SIGHUP], ids=["SIGTERM", "SIGINT", "SIGHUP"])
def test_stopped_by_a_signal_within_seconds(tmp_path, undisturbed, number):
    process = start(tmp_path / "run", tmp_path / "said.txt", "--train.epochs", 1000)
    wait_for("epoch    2/1000", tmp_path / "said.txt", [process])
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert time.monotonic() - began < 15
    said = (tmp_path / "said.txt").read_text()
    step = int(said.split("stopped at step ")[1].split(":")[0])
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    assert "Traceback" not in said


@pytest.mark.parametrize("lost", ["full", pytest.param("closed", marks=pytest.mark.slow)])
def test_output_that_cannot_be_written(tmp_path, undisturbed, lost):
    """On a full disk, or to descriptors that are closed and may become those of a file: the numbers are the same."""
    where = {"full": ">/dev/full 2>/dev/full", "closed": "<&- >&- 2>&-"}[lost]
    result = run("--workdir", tmp_path / "run", prefix=["sh", "-c", f'exec "$@" {where}', "sh"])
    assert result.returncode == 0
    assert rows(tmp_path / "run") == rows(undisturbed)
    assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()) == 44


@pytest.mark.parametrize("lost", [pytest.param("reader", marks=pytest.mark.slow), "terminal"])
def test_nobody_reads_any_more(tmp_path, undisturbed, lost):
    """As with `| tee log` and Ctrl-C, which ends tee as well; or when a terminal is gone, with its bar."""
    ours, theirs = os.pipe() if lost == "reader" else os.openpty()
    command = [sys.executable, "train.py", *SMALL, "--workdir", str(tmp_path / "run"), "--train.epochs", "1000"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        said = b""
        while b"epoch    1/1000" not in said:
            said += os.read(ours, 65536)
        os.close(ours)
        before = len(rows(tmp_path / "run"))
        while len(rows(tmp_path / "run")) < before + 2:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert rows(tmp_path / "run")[before]["epoch"] == before + 1
    assert list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_second_ctrl_c_ends_at_once(tmp_path):
    """Even where the first does not come to its end, because the step takes for ever."""
    program = HARNESS.replace("loop.say_epoch = after", "loop.say_epoch = lambda *_: __import__('time').sleep(600)")
    command = [sys.executable, "-c", program, str(tmp_path), "none", *SMALL, "--workdir", str(tmp_path / "run")]
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=file, stderr=file)
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        wait_for("interrupted: saving", said, [process])
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
    assert "what has not been saved is lost" in said.read_text()


@pytest.mark.versions
@pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
def test_two_processes_stop_at_the_same_step_go_on_and_one_is_lost(tmp_path, number):
    """The signal reaches the second alone."""
    workdir = tmp_path / "lr=[0.1]"  # which some readers take for a pattern
    processes, outputs = start_two(workdir, tmp_path, "--train.epochs", 300, "--checkpoint.keep-best", 0)
    try:
        wait_for("epoch   1/300", outputs[0], processes)
        processes[1].send_signal(number)
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = outputs[0].read_text()
    assert codes == [143, 128 + number], said + outputs[1].read_text()
    step = int(said.split("stopped at step ")[1].split(":")[0])
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {str(step)}
    # Where the processes stop is not the end of what they do: they go on together.
    processes, outputs = start_two(workdir, tmp_path, "--train.epochs", 300, "--resume", "auto")
    try:
        wait_for(f"epoch {step // STEPS + 2:>3}/300", outputs[0], processes)
        assert "going on after epoch" in outputs[0].read_text()
        lose(1, processes, outputs)
    finally:
        for process in processes:
            process.kill()


def test_two_processes_that_were_given_different_runs(tmp_path):
    """Another folder, or one that only one of them sees: both say so, instead of waiting for each other."""
    first, second = tmp_path / "first", tmp_path / "second"
    processes, outputs = start_two(first, tmp_path, "--resume", "auto", second=second)
    try:
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [output.read_text() for output in outputs]
    assert codes == [2, 2], said
    assert f"error: workdir is '{first}' in the first process and '{second}' in this one: give all" in said[1]
    assert "error: another process of this run differs, as it says: give all processes the same command" in said[0]
    assert not first.exists()
    assert not second.exists()


@pytest.mark.slow  # the second process is lost above
def test_the_first_of_two_processes_is_lost(tmp_path):
    processes, outputs = start_two(tmp_path / "run", tmp_path, "--train.epochs", 300)
    try:
        wait_for("epoch   1/300", outputs[0], processes)
        lose(0, processes, outputs)
    finally:
        for process in processes:
            process.kill()


def lose(lost, processes, outputs):
    """Kill one of two processes: the other ends within a minute, and says why."""
    processes[lost].kill()
    code, said = processes[1 - lost].wait(timeout=60), outputs[1 - lost].read_text()
    # JAX itself ends a process that has lost the first one, or that waited for another one's part of a checkpoint: by
    # an abort, or with code 1 (seen with 0.7.2).
    assert code in (75, -signal.SIGABRT, 1), said
    words = "another process of this run has ended" if code == 75 else "another task died"
    assert words in said


def test_repeating_the_command_until_it_is_finished(tmp_path, undisturbed):
    """As a restart loop does, with a kill in between."""
    workdir = tmp_path / "run"
    options = ("--workdir", workdir, "--checkpoint.steps", 3, "--resume", "auto")
    process = start(workdir, tmp_path / "said.txt", *options[2:])
    wait_for("epoch 1/4", tmp_path / "said.txt", [process])
    process.kill()
    process.wait()
    ends = [run(*options) for _ in range(2)]
    assert [end.returncode for end in ends] == [0, 0]
    assert "going on after epoch" in ends[0].stdout
    assert "is finished: test accuracy" in ends[1].stdout
    assert rows(workdir) == rows(undisturbed)
