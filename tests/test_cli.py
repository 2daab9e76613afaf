"""The command lmjax: its commands, names of configs, --dry-run, --quiet."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import lmjax
from lmjax import cli, command_line
from lmjax.cli.reproduce import Reproduce
from lmjax.cli.train import Train
from lmjax.errors import InputError
from tests.parameters import slow
from tests.tiny import ROOT

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


TRAIN, ADDRESS = f"train --config {ROOT}/tests/tiny.py", ":// is not supported: name a folder of this machine"
MISTAKES = {  # values that no key of a config has are in tests/test_config.py
    "": [
        ("", "Expected one of {train, evaluate,"),
        ("trian", "unknown command 'trian': did you mean 'train'?"),
        ("completion csh", "invalid choice 'csh' for argument 'shell'. Expected one of ('bash', 'zsh')."),
    ],
    TRAIN: [
        ("--model.steper lm", "Unrecognized options: --model.steper, lm\nPerhaps"),
        ("--trian.epochs 3", "--train.epochs"),
        ("--train.epochs many", "many"),
        ("--model.stepper lmm", "unknown stepper 'lmm': did you mean 'lm'"),
        ("--optimizer.accumulate-steps 99", "optimizer.accumulate_steps: must be at most the"),
        ("--optimizer.warmup-epochs 3", "optimizer.warmup_epochs: 3 is more than the run has"),
        ("--model.branch symmetric --model.zero-init", "zero_init: a symmetric branch that starts at zero"),
        ("--model.name revnet38", "on the command line --model.stepper None"),
        ("--model.name fractalnet20", "takes no stepper: leave it out"),
        ("--model.name fractalnet5x2 --model.stepper None", "are too small for 5 blocks"),
        ("--model.width 1e300", "width 1e+300 makes 8e+300 channels: choose a smaller one"),
        ("--train.epochs 4294967295", "train.epochs: 4,294,967,295 are 94,489,280,490 steps"),
        ("--train.batch-size 100", "100 cannot be split evenly over 8 devices"),
        ("--data.name folder", "give --data.dir"),
        ("--data.name folder --data.dir /nowhere", "there is no directory /nowhere"),
        ("--data.name cifar10 --data.dir /nowhere", "there is no directory /nowhere"),
        ("--data.name cifar10 --data.dir gs://b/x", ADDRESS),
        ("--evaluate /nowhere", "/nowhere holds no run"),
        ("--evaluate=", "--evaluate: give the folder of a run"),
        ("--evaluate gs://b/x", ADDRESS),
        ("--at best", "--at: goes with --evaluate"),
        ("--help modle", "unknown topic of --help 'modle': did you mean 'model'"),
        ("--profile gs://b/x", ADDRESS),
        ("--resume", "give the --workdir"),
        ("--resume automatic", "--resume: takes auto or nothing, got 'automatic'"),
        ("--resume --workdir /nowhere", "/nowhere holds no run"),
        ("--resume --workdir s3://b/x", ADDRESS),
        ("--workdir gs://b/x", ADDRESS),
        ("--workdir /proc/run", "/proc/run: cannot be written"),
        *((f"{options} {'a' * 300}", "a" * 300) for options in ("--workdir", "--resume auto --workdir", "--evaluate")),
        *((f"--seeds {word}", f"0 1 2 or 0..7, got {word!r}") for word in ("3..1", "a", "1.5", "..", "0..99999999")),
        (f"--seeds {'9' * 5000}", "0 1 2 or 0..7, got '999"),
    ],
    "train --config": [("a" * 300, "a" * 300)],
    "evaluate": [
        ("", "Missing from lmjax evaluate: RUN"),
        ("nowhere", "nowhere holds no run"),
        ("a" * 300, "a" * 300),
    ],
    "analyze": [
        ("", "Expected one of {order, stability,"),
        ("ordr", "unknown command 'ordr': did you mean 'order'?"),
        ("order", "give at least one SCHEME"),
        ("order rk4 --k x", "--k: could not convert string to float: 'x'\n"),
        ("order rk4 --ks 1", "Unrecognized options: --ks, 1"),
        ("order euler --out gs://b/x.png", ADDRESS),
        ("curves " + "a" * 300, "a" * 300),
    ],
    "report": [
        ("", "give at least one RUN"),
        ("a" * 300, "a" * 300),
        ("x --no-images --images-of y", "--no-images and --images-of: give one of them"),
        (". --out gs://b/x.html", ADDRESS),
    ],
    "prepare": [
        ("resize --images . --to . --quality x", "--quality: invalid literal for int() with base 10: 'x'\n"),
        ("resize --images gs://b/x --to there", ADDRESS),
        ("resize --images . --to gs://b/x", ADDRESS),
        ("imagenet2012 --archives . --data-dir gs://b/x", ADDRESS),
        ("imagenet2012 --archives gs://b/x --data-dir .", ADDRESS),
        ("sort-validation --images gs://b/x", ADDRESS),
        ("sort-validation --images .", ": holds no images"),
        ("sort-validation --images nowhere", "there is no folder nowhere"),
    ],
    "reproduce": [
        ("nothing", "table 'nothing'"),
        ("small --out /nowhere/at/all --only-report", "/nowhere/at/all: holds no finished run"),
        (f"depth --out {ROOT}/results/digits --only-report", "holds no finished run of this table"),
        ("small --only-report --seeds 3", "--seeds: is for making runs"),
        ("small --only-report --data-note=", "--data-note: is for making runs"),
        ("--export results", "--export: of which table?"),
        ("digits --data-name cifar10", "cifar10: does not hold the images of this table: leave it out"),
        ("small --data-name folder", "--data-name folder: does not hold the images of this table"),
        ("depth --data-name digits", "does not hold the images of this table: choose from cifar10, folder"),
        ("digits --data-dir here", "data.dir: must be left out for digits"),
        ("digits --page /nowhere", "--page /nowhere: cannot be read"),
        ("digits --page .", "cannot be read"),
        (f"digits --page {ROOT}/LICENSE", "has no place for this"),
        (f"digits --export {ROOT}/LICENSE", "is a file: choose a folder"),
        ("digits --out here --export here/kept", "--export here/kept: holds the runs themselves"),
        (f"digits --out {ROOT}/LICENSE/a --data-note a", "is a file, or below one"),
        (f"digits --out {ROOT}/LICENSE", "is a file, or below one"),
        *((f"digits --{word} gs://b/x", ADDRESS) for word in ("out", "export", "data-dir")),
        *((f"digits --seeds={count}", "--seeds: ") for count in ("0", "-1", "1001", "9" * 30, "1.5", "many")),
    ],
}  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize(
    ("words", "message"),
    [(f"{command} {words}", message) for command in MISTAKES for words, message in MISTAKES[command]],
    ids=lambda value: value.replace(str(ROOT), "")[:60],
)
def test_mistakes_end_with_one_clear_message_before_anything_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, *words.split())
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert not re.search("[│─╭]|Traceback", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "analyze order euler"])
def test_ctrl_c_ends_with_130(command, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmjax.command_line.read", interrupt)
    monkeypatch.setattr("lmjax.cli.train.read", interrupt)
    assert said(capsys, *command.split()) == (130, "", "interrupted\n")


def test_nothing_is_imported_before_it_is_needed():
    program = """
import sys
import lmjax
def loaded(names):
    return {*names.split()} & {*sys.modules}
assert not loaded("flax optax orbax PIL")
from lmjax import cli
assert cli.main(["--version"]) == cli.main(["--help"]) == 0
assert not loaded("lmjax.analysis lmjax.results lmjax.training lmjax.networks matplotlib")
lmjax.networks.create, lmjax.training.Trainer, lmjax.data.load, lmjax.config.Config
assert not loaded("matplotlib pandas jinja2 scipy.stats")
from lmjax.prepare import validation
validation._labels()
assert not loaded("tensorflow")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"lmjax {lmjax.__version__}\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_options(tmp_path, capsys):
    code, script, _ = said(capsys, "completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(script)

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
    code, out, _ = said(
        capsys, "train", "--config", ROOT / "tests" / "tiny.py", "--train.epochs", 1, "--workdir", run, "--quiet"
    )
    assert code == 0
    assert re.fullmatch(r"test accuracy [\d.]+%; everything is in .*run\n", out)
    code, out, _ = said(capsys, "evaluate", run, "--at", "best")
    assert code == 0
    accuracy = json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert json.loads(out)["test_accuracy"] == pytest.approx(accuracy)


def test_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = said(capsys, "train", "--config", "digits", *SMALL, "--dry-run")
    assert code == 0
    assert not list(tmp_path.iterdir())
    for words in ("2,547 parameters", "5 an epoch, 5 in 1 epochs", "1,437 training and 360 test", "MiB for state"):
        assert words in out


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """Also in --out=~/x, which a shell leaves as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command_line.read(Reproduce, ["digits", "--out=~/x"], prog="lmjax reproduce").out == tmp_path / "x"


@pytest.mark.parametrize(("words", "numbers"), [("0 1 2", (0, 1, 2)), ("0..3", (0, 1, 2, 3)), ("7 2..3", (7, 2, 3))])
def test_seeds_may_be_ranges(words, numbers):
    _, options = Train.parse(["--config", "digits", "--seeds", *words.split()])
    assert options.numbers == numbers


@pytest.mark.slow
def test_installed_from_the_wheel_and_from_the_sdist(tmp_path):
    """With the configs, the marker of types and the command, and from an empty folder."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True)
    (tmp_path / "empty").mkdir()
    for package in sorted((tmp_path / "dist").iterdir()):
        place = tmp_path / package.name.replace(".", "-")
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", place, package], check=True)
        configs = (place / "lmjax" / "configs").glob("*.py")
        assert {path.name for path in configs} == {path.name for path in (ROOT / "configs").glob("*.py")}
        for name in ("py.typed", "estimate/targets.json", "results/report.css", "results/report.html.j2"):
            assert (place / "lmjax" / name).exists()
        how = {"cwd": tmp_path / "empty", "capture_output": True, "text": True}
        how["env"] = {**os.environ, "PYTHONPATH": str(place), "XDG_CACHE_HOME": str(tmp_path)}
        for words in (["list", "steppers"], ["train", "--config", "digits", *SMALL, "--model.name", "resnet14"]):
            result = subprocess.run([place / "bin" / "lmjax", *words], **how, check=False)
            assert result.returncode == 0, result.stderr
            assert "adams_bashforth" in result.stdout or "test accuracy" in result.stdout


@pytest.mark.parametrize("words", ["train --config digits", slow("analyze order rk4"), slow("evaluate RUN")])
def test_a_device_that_is_not_there_is_a_mistake(words, tmp_path, runs):
    words = words.replace("RUN", str(runs["euler"])).split()
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "lmjax", *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.endswith("JAX finds no device of JAX_PLATFORMS=cuda: install its plugin, or choose another\n")
    assert "Traceback" not in result.stderr


def test_places_that_cannot_be_are_mistakes(capsys):
    """As a folder that one may not enter; what the disk itself does wrong is another matter."""

    def fails(number):
        raise OSError(number, os.strerror(number), "some/place")

    for number in (errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOSPC):
        assert command_line.exit_code(lambda number=number: fails(number)) == 2
        assert capsys.readouterr().err == f"error: some/place: {os.strerror(number)}\n"
    with pytest.raises(OSError, match="Input/output"):
        command_line.exit_code(lambda: fails(errno.EIO))


@pytest.mark.parametrize("error", [MemoryError("none"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_too_little_memory_is_a_mistake(error, capsys):
    def fails():
        raise error

    assert command_line.exit_code(fails) == 2
    message = f"error: there is not enough memory ({error}): choose a smaller --train.batch-size"
    assert message in capsys.readouterr().err


def test_a_thread_that_does_not_end_keeps_no_program():
    program = (
        "import threading, time; from lmjax import cli; cli.PATIENCE = 0.5; "
        "threading.Thread(target=time.sleep, args=[300]).start(); print('last', flush=True); cli.end(2)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, b"last\n")
