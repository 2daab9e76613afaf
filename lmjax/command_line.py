"""From the command line to a `Config`: the file that --config names, with overrides."""

import argparse
import json
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path

from lmjax.config import Config, from_dict
from lmjax.errors import InputError, optional_import


def parse(arguments: Sequence[str] | None, *, description: str) -> tuple[Config, argparse.Namespace]:
    """Reads the command line of train.py.

    Args:
        arguments: the words after the program's name; None takes the process's own.
        description: the first lines of --help.

    Returns:
        The config, and the choices that are no part of it: `config` (the file), `resume`, `evaluate`.

    Raises:
        InputError: if the config file does not exist or holds no config.
        SystemExit: after --help, and after an override that is unknown or ill-typed, with a message that says so.
    """
    parser = argparse.ArgumentParser(
        description=description,
        add_help=False,
        allow_abbrev=False,
        usage="train.py --config FILE [--KEY VALUE ...] [--resume | --evaluate DIR]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a Python file of configs/ (which is run: use only files that you trust), or the config.json of a run",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="go on with the run in --workdir")
    mode.add_argument("--evaluate", metavar="DIR", help="report the test accuracy of the run in DIR and stop")
    parser.add_argument("-h", "--help", action="store_true", help="show this, and every key with its default")
    choices, overrides = parser.parse_known_args(arguments)
    if choices.help:
        parser.print_help()
        overrides = ["--help"]
    elif choices.config is None:
        raise InputError(f"give --config FILE{_available()}")
    if choices.evaluate == "":
        raise InputError("--evaluate: give the folder of a run")
    config = Config() if choices.config is None else load(choices.config)
    return override(config, overrides), choices


def override(config: Config, arguments: Sequence[str]) -> Config:
    """The config with keys replaced, e.g. by ["--model.stepper", "euler", "--train.epochs", "5"]."""
    if not arguments:
        return config
    tyro = optional_import("tyro", package="tyro", purpose="changing a config from the command line")
    return tyro.cli(
        Config, prog="train.py --config FILE", description="Keys of the config:", default=config, args=arguments
    )


def load(path: str | Path) -> Config:
    """The config in a file: `config` of a Python file, or a config.json.

    Raises:
        InputError: if it does not exist or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--config: there is no file {path}{_available()}")
    if path.suffix == ".json":
        try:
            return from_dict(json.loads(path.read_text()))
        except ValueError as error:  # bytes that are no text, text that is no JSON, JSON that is no config
            raise InputError(f"--config {path}: is not a config ({error})") from error
    try:
        config = runpy.run_path(str(path)).get("config")
    except InputError:
        raise
    except Exception as error:  # the file is the user's: what is wrong with it is for them to mend
        raise InputError(f"--config {path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise InputError(f"--config {path}: does not define `config`, an lmjax.config.Config")
    return config


def _line(error: Exception, path: Path) -> str:
    """Where in the file it went wrong, ", line N"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _available() -> str:
    found = sorted(Path("configs").glob("*.py"))
    return f"; in configs/: {', '.join(p.name for p in found)}" if found else ""
