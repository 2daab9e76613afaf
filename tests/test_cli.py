"""The command lmjax: its commands, names of configs, --dry-run, --quiet."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmjax
from lmjax import cli, command_line
from lmjax.cli.train import Train
from lmjax.errors import InputError
from tests.parameters import slow

ROOT = Path(__file__).parent.parent
SMALL = ["--train.epochs", "1", "--train.batch-size", "256", "--model.name", "tiny"]


def said(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    return code, *capsys.readouterr()


def test_every_command_says_what_it_does(capsys):
    code, out, _ = said(capsys, "--help")
    assert code == 0
    page = (ROOT / "docs" / "training.md").read_text()
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^\W+{name} +[A-Z].{{10}}", out, re.M)
        assert f"`lmjax {name}" in page
        found = cli.found(command)
        for words in [[name, one] for one in found] if isinstance(found, dict) else [[name]]:
            code, out_of_one, _ = said(capsys, *words, "--help")
            assert code == 0
            assert out_of_one.startswith(f"usage: {' '.join(['lmjax', *words])} ")


def test_version(capsys):
    assert said(capsys, "--version") == (0, f"lmjax {lmjax.__version__}\n", "")


def test_unknown_command(capsys):
    code, _, err = said(capsys, "trian")
    assert code == 2
    assert "unknown command 'trian': did you mean 'train'?" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Expected one of {train, evaluate,"),
        (["analyze"], "Expected one of {order, stability,"),
        (["analyze", "ordr"], "unknown command 'ordr': did you mean 'order'?"),
        (["analyze", "order"], "give at least one SCHEME"),
        (["analyze", "order", "rk4", "--k", "x"], "--k: could not convert string to float: 'x'\n"),
        (["analyze", "order", "rk4", "--ks", "1"], "Unrecognized options: --ks, 1"),
        (["report"], "give at least one RUN"),
        (["report", "x", "--no-images", "--images-of", "y"], "--no-images and --images-of: give one of them"),
        (
            ["prepare", "resize", "--images", ".", "--to", ".", "--quality", "x"],
            "--quality: invalid literal for int() with base 10: 'x'\n",
        ),
        (["evaluate"], "Missing from lmjax evaluate: RUN"),
        (["evaluate", "x", "--at", "last"], "--at: must be latest, best or the step of a checkpoint, got 'last'\n"),
        (["completion", "csh"], "invalid choice 'csh' for argument 'shell'. Expected one of ('bash', 'zsh')."),
        (["train", "--config", "digits", "--model.steper", "lm"], "Unrecognized options: --model.steper, lm\nPerhaps"),
        (["train", "--config", "digits", "--seed", "-1"], "seed: must be "),
    ],
)
def test_mistakes_are_told_without_a_box(words, message, capsys):
    code, _, err = said(capsys, *words)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert not re.search("[│─╭]", err)


@pytest.mark.parametrize("command", ["train", "analyze order euler"])
def test_ctrl_c_ends_with_130(command, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmjax.command_line.read", interrupt)
    monkeypatch.setattr("lmjax.cli.train.read", interrupt)
    assert said(capsys, *command.split()) == (130, "", "interrupted\n")


def test_help_and_version_import_nothing_of_the_commands():
    program = """
import sys
from lmjax import cli
assert cli.main(sys.argv[1:]) == 0
loaded = {name for name in sys.modules if name.startswith("lmjax.") and name.count(".") == 1}
assert not loaded & {"lmjax.analysis", "lmjax.results", "lmjax.training", "lmjax.networks"}, loaded
assert "matplotlib" not in sys.modules
"""
    for word in ("--version", "--help"):
        result = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_options(tmp_path, capsys):
    code, script, _ = said(capsys, "completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(script)
    assert subprocess.run(["bash", "-n", tmp_path / "script"], check=False).returncode == 0

    def completed(*words):
        ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_lmjax; printf "%s\\n" "${COMPREPLY[@]}"'
        command = ["bash", "-c", f'source "$1"; shift; {ask}', "bash", tmp_path / "script", "lmjax", *words]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())

    assert completed("") == {"-h", "--help", *cli.COMMANDS}
    assert completed("analyze", "o") == {"order"}
    assert completed("analyze", "stability", "--z", "") == {"equation", "branch"}
    assert completed("train", "--model.st") == {"--model.stepper"}
    assert all(word.startswith("--") for word in completed("train", "--"))


@pytest.mark.versions
def test_configs_that_come_with_lmjax(tmp_path, monkeypatch):
    """From any folder; a file of that name there comes first."""
    monkeypatch.chdir(tmp_path)
    assert command_line.load("digits").data.name == "digits"
    assert command_line.load("cifar10:lm_resnet20").model.stepper == "lm"
    assert command_line.stem("cifar10:lm_resnet20") == "cifar10-lm_resnet20"
    with pytest.raises(InputError, match="there is no file digitts; with lmjax come cifar10, cifar100, digits"):
        command_line.load("digitts")
    with pytest.raises(InputError, match="has several rows"):
        command_line.load("cifar10")


@pytest.mark.versions
def test_train_evaluate_and_quiet(tmp_path, capsys):
    run = tmp_path / "run"
    code, out, _ = said(capsys, "train", "--config", "digits", *SMALL, "--workdir", run, "--quiet")
    assert code == 0
    assert re.fullmatch(r"test accuracy [\d.]+%; everything is in .*run\n", out)
    code, out, _ = said(capsys, "evaluate", run, "--at", "best")
    found = json.loads(out)
    assert code == 0
    assert found["test_accuracy"] == pytest.approx(json.loads((run / "summary.json").read_text())["test_accuracy"])
    code, _, err = said(capsys, "evaluate", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere holds no run" in err


def test_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = said(capsys, "train", "--config", "digits", *SMALL, "--dry-run")
    assert code == 0
    assert not list(tmp_path.iterdir())
    for words in ("2,547 parameters", "5 an epoch, 5 in 1 epochs", "1,437 training and 360 test", "MiB for state"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "numbers"), [(["0", "1", "2"], (0, 1, 2)), (["0..3"], (0, 1, 2, 3)), (["7", "2..3"], (7, 2, 3))]
)
def test_seeds_may_be_ranges(words, numbers):
    _, options = Train.parse(["--config", "digits", "--seeds", *words])
    assert options.numbers == numbers


@pytest.mark.parametrize("word", ["3..1", "a", "0..99999999", "1.5", ".."])
def test_seeds_that_are_no_numbers(word, capsys):
    code, _, err = said(capsys, "train", "--config", "digits", "--seeds", word)
    assert code == 2
    assert f"--seeds: must be whole numbers, as in 0 1 2 or 0..7, got {word!r}" in err


@pytest.mark.slow
def test_installed_from_the_wheel_and_from_the_sdist(tmp_path):
    """With the configs, the marker of types and the command, and from an empty folder."""
    root = Path(lmjax.__file__).parent.parent
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=root, check=True)
    for package in sorted((tmp_path / "dist").iterdir()):
        place = tmp_path / package.name.replace(".", "-")
        install = [*pip, "install", "--no-deps", "--no-build-isolation", "--target", str(place), str(package)]
        subprocess.run(install, check=True)
        assert {path.name for path in (place / "lmjax" / "configs").glob("*.py")} == {
            path.name for path in (root / "configs").glob("*.py")
        }
        assert (place / "lmjax" / "py.typed").exists()
        (tmp_path / "empty").mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(place), "XDG_CACHE_HOME": str(tmp_path)}
        for words in (
            ["list", "steppers"],
            ["train", "--config", "digits", *SMALL, "--model.name", "resnet8", "--quiet"],
        ):
            result = subprocess.run(
                [place / "bin" / "lmjax", *words], cwd=tmp_path / "empty", env=environment, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
            assert "adams_bashforth" in result.stdout or "test accuracy" in result.stdout


@pytest.mark.parametrize(
    "words",
    [["train", "--config", "digits"], slow(["analyze", "order", "rk4"]), ["evaluate", "runs/a"]],
    ids=lambda x: x[0],
)
def test_a_device_that_is_not_there_is_a_mistake(words, tmp_path, runs):
    words = [str(runs["euler"]) if word == "runs/a" else word for word in words]
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "lmjax", *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.endswith("JAX finds no device of JAX_PLATFORMS=cuda: install its plugin, or choose another\n")
    assert "Traceback" not in result.stderr


def test_places_that_cannot_be_are_mistakes(tmp_path, capsys):
    """As a folder that one may not enter; what the disk itself does wrong is another matter."""

    def fails(number, name):
        raise OSError(number, os.strerror(number), name)

    for number in (errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOSPC):
        assert command_line.exit_code(lambda number=number: fails(number, "some/place")) == 2
        assert capsys.readouterr().err == f"error: some/place: {os.strerror(number)}\n"
    with pytest.raises(OSError, match="Input/output"):
        command_line.exit_code(lambda: fails(errno.EIO, "some/place"))
    long = "a" * 300
    for words in (["report", long], ["evaluate", long], ["analyze", "curves", long], ["train", "--config", long]):
        assert cli.main(words) == 2
        assert f"{long}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--model.width", "1e4"], r"width 10000 makes 1\.6e\+05 channels: choose a smaller one"),
        (["--model.width", "1e300"], r"width 1e\+300 makes .* channels: choose a smaller one"),
        (["--train.epochs", "4294967295"], r"train\.epochs: 4,294,967,295 are 94,489,280,490 steps"),
    ],
)
def test_sizes_that_cannot_be_are_mistakes(keys, message, capsys, tmp_path):
    assert cli.main(["train", "--config", "digits", "--workdir", str(tmp_path / "run"), *keys]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [MemoryError("none"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_too_little_memory_is_a_mistake(error, capsys):
    def fails():
        raise error

    assert command_line.exit_code(fails) == 2
    assert (
        f"error: there is not enough memory ({error}): choose a smaller --train.batch-size" in capsys.readouterr().err
    )
