"""From the command line to a `Config`: the file that --config names, with overrides."""

import argparse
import difflib
import json
import re
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmjax.config import Config, from_dict
from lmjax.errors import InputError, optional_import


def parse(arguments: Sequence[str] | None, *, description: str) -> tuple[Config, argparse.Namespace]:
    """Reads the command line of train.py.

    Args:
        arguments: the words after the program's name; None takes the process's own.
        description: the first lines of --help.

    Returns:
        The config, and the choices that are no part of it: `config` (the file), `seeds`, `resume` ("required", "auto"),
        `evaluate`, `at`, `deterministic`, `log` (names), `profile` (a folder, or "" for one in that of the run).

    Raises:
        InputError: if the config file does not exist or holds no config, or the choices contradict each other.
        SystemExit: after --help, and after an override that is unknown or ill-typed, with a message that says so.
    """
    parser = argparse.ArgumentParser(
        description=description,
        add_help=False,
        allow_abbrev=False,
        usage="train.py --config FILE [--KEY VALUE ...] [--seeds N ...] [--resume [auto] | --evaluate DIR [--at STEP]] "
        "[--log NAME ...] [--profile [DIR]]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a Python file of configs/ (which is run: use only files that you trust), with :ROW if it has several; "
        "or the config.json of a run",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        nargs="+",
        type=int,
        help="make the run from each of these seeds, and report the mean and the standard deviation",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        metavar="auto",
        nargs="?",
        const="required",
        help="go on with the run in --workdir; auto: start it if there is none, so that one command can be repeated "
        "until it is finished",
    )
    mode.add_argument("--evaluate", metavar="DIR", help="report the test accuracy of the run in DIR and stop")
    parser.add_argument(
        "--at",
        metavar="STEP",
        default="latest",
        help="the checkpoint to evaluate: latest (the default), best, or a step",
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="make a GPU repeat a run bit for bit, which costs speed"
    )
    # Not keys of the config: they do not change the run, may differ when it is resumed, and are not in a published row.
    parser.add_argument(
        "--log",
        metavar="NAME",
        nargs="+",
        default=(),
        help="tell tensorboard, wandb, or both of each epoch; tensorboard --logdir runs shows all runs",
    )
    parser.add_argument(
        "--profile",
        metavar="DIR",
        nargs="?",
        const="",
        help="write a trace of some steps to DIR, or to the folder profile of the run",
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this, and every key with its default")
    choices, overrides = parser.parse_known_args(arguments)
    if choices.help:
        parser.print_help()
        overrides = ["--help"]
    elif choices.config is None:
        raise InputError(f"give --config FILE{_available()}")
    if choices.evaluate == "":
        raise InputError("--evaluate: give the folder of a run")
    if choices.resume not in (None, "required", "auto"):
        raise InputError(f"--resume: takes auto or nothing, got {choices.resume!r}")
    if choices.at not in ("latest", "best") and not choices.at.isdecimal():
        raise InputError(f"--at: must be latest, best or the step of a checkpoint, got {choices.at!r}")
    if choices.at != "latest" and choices.evaluate is None:
        raise InputError("--at: goes with --evaluate")
    if choices.evaluate is not None and (choices.log or choices.profile is not None):
        raise InputError("--log and --profile: go with training, not with --evaluate")
    if choices.seeds is not None:
        _check_seeds(choices, overrides)
    config = Config() if choices.config is None else load(choices.config)
    return override(config, overrides), choices


def _check_seeds(choices: argparse.Namespace, overrides: Sequence[str]) -> None:
    seeds = choices.seeds
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise InputError(f"--seeds: {', '.join(map(str, twice))} twice: give each seed once")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise InputError(f"--seeds: must be from 0 to 2**32 - 1, got {wrong[0]}")
    if any(re.match(r"--seed\b", word) for word in overrides):
        raise InputError("--seed and --seeds: give one of them")
    if choices.evaluate is not None:
        raise InputError("--seeds: does not go with --evaluate: evaluate the folder of one seed")


def override(config: Config, arguments: Sequence[str]) -> Config:
    """The config with keys replaced, e.g. by ["--model.stepper", "euler", "--train.epochs", "5"].

    Raises:
        InputError: for a value that will not do.
        SystemExit: for a key that is unknown or ill-typed.
    """
    if not arguments:
        return config
    tyro = optional_import("tyro", package="tyro", purpose="changing a config from the command line")
    return tyro.cli(
        Config, prog="train.py --config FILE", description="Keys of the config:", default=config, args=arguments
    )


def load(place: str | Path) -> Config:
    """The config in a file: `config` of a Python file, one of its `rows` as in "cifar10.py:lm_resnet20", or JSON.

    Raises:
        InputError: if it does not exist or holds none.
    """
    path, row = _split(place)
    if path.suffix == ".json":
        _require_file(path)
        try:
            return from_dict(json.loads(path.read_text()))
        except ValueError as error:  # bytes that are no text, text that is no JSON, JSON that is no config
            raise InputError(f"--config {path}: is not a config ({error})") from error
    defined = _run(path)
    found, config = defined.get("rows"), defined.get("config")
    if isinstance(found, dict) and (row or config is None):
        if row not in found:
            raise InputError(_which(path, row, found))
        config = getattr(found[row], "config", found[row])
    elif row:
        raise InputError(f"--config {path}: has no `rows`, so leave out :{row}")
    if not isinstance(config, Config):
        raise InputError(
            f"--config {path}: does not define `config`, an lmjax.config.Config, or `rows`, a dict of them"
        )
    return config


def rows(path: str | Path) -> dict[str, Any]:
    """The rows of a Python file, or of "FILE:ROW", each a `Config` or something with a `config`; {} if it has none."""
    return _run(_split(path)[0]).get("rows", {})


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"--config: there is no file {path}{_available()}")


def _run(path: Path) -> dict[str, Any]:
    """What a Python file defines."""
    _require_file(path)
    try:
        return runpy.run_path(str(path))
    except InputError:
        raise
    except Exception as error:  # the file is the user's: what is wrong with it is for them to mend
        raise InputError(f"--config {path}{_line(error, path)}: {type(error).__name__}: {error}") from error


def _split(place: str | Path) -> tuple[Path, str]:
    """The file, and the row in it, "" if none is named."""
    match = re.fullmatch(r"(.+\.py):(.*)", str(place))
    return (Path(match[1]), match[2]) if match else (Path(place), "")


def _which(path: Path, row: str, rows: dict) -> str:
    """What to say to someone who has named no row of a file, or one that is none."""
    close = difflib.get_close_matches(row, rows, n=1)
    start = f"has no row {row!r}" + (f": did you mean {close[0]!r}?" if close else "") if row else "has several rows"
    lines = [
        f"  {path}:{key:22}{row.describe() if hasattr(row, 'describe') else ''}".rstrip() for key, row in rows.items()
    ]
    return f"--config {path}: {start}; give one of\n" + "\n".join(lines)


def stem(place: str | Path) -> str:
    """What to call a run of this config: "cifar10-lm_resnet20"."""
    path, row = _split(place)
    return f"{path.stem}-{row}" if row else path.stem


def _line(error: Exception, path: Path) -> str:
    """Where in the file it went wrong, ", line N"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _available() -> str:
    found = sorted(Path("configs").glob("*.py"))
    return f"; in configs/: {', '.join(p.name for p in found)}" if found else ""
