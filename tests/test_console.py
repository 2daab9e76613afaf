"""What programs print: a stream that cannot be written ends none of them."""

import subprocess
import sys

import pytest

from lmjax import console
from lmjax.config import Config, TrainConfig
from lmjax.training.progress import say_epoch
from tests.parameters import slow
from tests.tiny import ROOT

SAYS = """
import sys, warnings
from tqdm import tqdm
from lmjax import console
with console.lossy():
    for i in tqdm(range(3)):
        print("±", i, "x" * 100_000, flush=True)
        warnings.warn("careful")
    print("last", file=sys.stderr)
    console.tell("signal")
open(sys.argv[1], "w").write("done")
"""


def sh(redirection, *command):
    script = f'"$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["-m lmjax list steppers", slow("train.py --help"), slow("-m lmjax --help")])
def test_command_ends_well_on_a_full_disk(command):
    result = sh(">/dev/full", *command.split())
    assert (result.returncode, result.stderr) == (0, "")


def test_help_to_a_reader_that_leaves():
    result = sh("| head -n 1; exit ${PIPESTATUS[0]}", "train.py", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: train.py")


@pytest.mark.parametrize("redirection", ["2>/dev/full", slow("2>&-")])
def test_error_that_cannot_be_written(redirection):
    assert sh(redirection, "-m", "lmjax", "report", "none").returncode == 2


@pytest.mark.parametrize("where", ["&>/dev/full", "<&- >&- 2>&-", "2>&1 | head -n 1"])
def test_everything_that_prints(tmp_path, where):
    result = sh(where, "-c", SAYS, str(tmp_path / "file"))
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == "done"


def test_other_encodings_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = sh("", "-c", SAYS, str(tmp_path / "file"))
    assert result.stdout.startswith(r"\xb1 0")
    assert "last\nsignal" in result.stderr


def test_streams_are_put_back_and_others_left_alone(capsys):
    ours = sys.stdout
    with console.lossy():
        assert sys.stdout is ours
        print("seen")
    assert capsys.readouterr().out == "seen\n"
    with capsys.disabled():
        before = sys.stdout, sys.stderr
        with console.lossy():
            assert (sys.stdout is before[0]) == (before[0] is not sys.__stdout__)
        assert (sys.stdout, sys.stderr) == before


def test_names_cannot_control_the_terminal(capsys):
    """A folder, a class or a file may be named as a terminal's commands are."""
    name = "\x1b]0;title\x07\x9b31m\r"
    for write in (console.show, console.say, console.warn, console.note):
        write(f"{name}: two\nlines\tand a tab")
        out, err = capsys.readouterr()
        assert out + err == r"\x1b]0;title\x07\x9b31m\x0d" + ": two\nlines\tand a tab\n"


@pytest.mark.parametrize(
    ("epoch", "rate", "end"),
    [(1, 1.0, "  about 2 h 00 min left\n"), (3, 240.0, "  about 10 s left\n"), (4, 1.0, " images/s\n")],
)
def test_an_epoch_says_how_long_the_run_will_take_still(epoch, rate, end, capsys):
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
    row = {"epoch": epoch, "images_per_second": rate} | dict.fromkeys(names, 0.5)
    say_epoch(row, Config(train=TrainConfig(epochs=4, batch_size=8)), "run", 300)
    assert capsys.readouterr().out.endswith(end)
