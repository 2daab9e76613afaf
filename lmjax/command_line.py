"""From the command line to a `Config`: the file that --config names, with overrides."""

import dataclasses
import difflib
import itertools
import json
import re
import runpy
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from lmjax.config import Config, from_dict
from lmjax.errors import InputError, optional_import, unknown

_MOST_SEEDS = 10_000  # in a range, which may be misspelt


@dataclasses.dataclass(frozen=True)
class Options:
    """Choices of a run that are no part of its config."""

    config: str | None = None
    """A Python file (which is run: use only files that you trust), with :ROW if it has several; a config that comes
    with lmjax, such as digits or cifar10:lm_resnet20; or the config.json of a run."""
    seeds: tuple[str, ...] | None = None
    """Make the run from each of these seeds, as in 0 1 2 or 0..7, and report the mean and the standard deviation."""
    resume: str | None = None
    """Go on with the run in --workdir; "auto": start it if there is none, so that one command can be repeated until it
    is finished."""
    evaluate: str | None = None
    """Report the test accuracy of the run in this folder, and stop."""
    at: str = "latest"
    """The checkpoint to evaluate: latest, best, or a step."""
    deterministic: bool = False
    """Make a GPU repeat a run bit for bit, which costs speed."""
    log: tuple[str, ...] = ()
    """Tell tensorboard, wandb, or both of each epoch; tensorboard --logdir runs shows all runs."""
    profile: str | None = None
    """Write a trace of some steps to this folder, or without one to the folder profile of the run."""
    dry_run: bool = False
    """Say what the run would be: its config, parameters, multiplications, steps and memory. Nothing is written."""
    quiet: bool = False
    """Print nothing but warnings, errors and the last line."""

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The seeds as numbers."""
        return None if self.seeds is None else tuple(itertools.chain.from_iterable(map(_numbers, self.seeds)))

    def check(self, overrides: Sequence[str]) -> None:
        """Raise InputError if the choices contradict each other, or the config keys on the command line."""
        if self.evaluate == "":
            raise InputError("--evaluate: give the folder of a run")
        if self.resume not in (None, "required", "auto"):
            raise InputError(f"--resume: takes auto or nothing, got {self.resume!r}")
        if self.resume and self.evaluate is not None:
            raise InputError("--resume: does not go with --evaluate")
        if self.at not in ("latest", "best") and not self.at.isdecimal():
            raise InputError(f"--at: must be latest, best or the step of a checkpoint, got {self.at!r}")
        if self.at != "latest" and self.evaluate is None:
            raise InputError("--at: goes with --evaluate")
        if self.evaluate is not None and (self.log or self.profile is not None or self.dry_run):
            raise InputError("--log, --profile and --dry-run: go with training, not with --evaluate")
        if self.seeds is not None:
            _check_seeds(self, overrides)


def _numbers(word: str) -> Iterable[int]:
    match = re.fullmatch(r"(-?\d+)(?:\.\.(\d+))?", word, re.ASCII)
    if match is None or (match[2] and not 0 <= int(match[2]) - int(match[1]) < _MOST_SEEDS):
        raise InputError(f"--seeds: must be whole numbers, as in 0 1 2 or 0..7, got {word!r}")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


@dataclasses.dataclass(frozen=True)
class _Words(Options):
    help: str | None = None
    """Show this; "--help model" explains the keys of the config that begin with --model, and "--help all" all keys."""


def parse(arguments: Sequence[str] | None, *, prog: str, description: str) -> tuple[Config, Options]:
    """The config and the options of a command line.

    Args:
        arguments: the words after the program's name; None takes the process's own.
        prog, description: of the program, for --help.

    Raises:
        InputError: if the config file does not exist or holds no config, or the choices contradict each other.
        SystemExit: after --help, and after an override that is unknown or ill-typed, with a message that says so.
    """
    words = ["--help" if word == "-h" else word for word in (sys.argv[1:] if arguments is None else arguments)]
    for name, value in (("--resume", "required"), ("--profile", ""), ("--help", "")):
        words = _completed(words, name, value)
    tyro = optional_import("tyro", package="tyro", purpose="reading the command line")
    form = {"prog": prog, "description": description, "add_help": False, "config": (tyro.conf.FlagCreatePairsOff,)}
    if "--help" in words:
        _show_help(tyro, form, words[words.index("--help") + 1])
    options, overrides = tyro.cli(_Words, args=words, return_unknown_args=True, **form)
    if options.config is None:
        raise InputError(f"give --config FILE{_available()}")
    options.check(overrides)
    return override(load(options.config), overrides, prog=f"{prog} --config {options.config}"), options


def _completed(words: Sequence[str], name: str, value: str) -> list[str]:
    """The words, with a value after an option that stands alone."""
    found = []
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        found += [word, value] if word == name and following.startswith("-") else [word]
    return found


def _show_help(tyro: ModuleType, form: dict[str, Any], topic: str) -> NoReturn:
    groups = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
    form = form | {"add_help": True, "args": ["--help"]}
    if topic == "all":
        tyro.cli(Config, **form | {"description": "Keys of the config."})
    elif topic in groups:
        alone = dataclasses.make_dataclass("Keys", [(topic, groups[topic], groups[topic]())])
        tyro.cli(alone, **form | {"description": groups[topic].__doc__})
    elif topic:
        raise unknown("topic of --help", topic, [*groups, "all"])
    keys = {
        name: ", ".join(field.name.replace("_", "-") for field in dataclasses.fields(groups[name])) for name in groups
    }
    lines = [f"  --{name}.KEY: {found}" for name, found in keys.items()]
    text = "\n\nKeys of the config, which change what the file says (--help model explains those of --model):\n"
    tyro.cli(Options, **form | {"description": form["description"] + text + "\n".join([*lines, "  --seed, --workdir"])})
    raise AssertionError("tyro ends the program after --help")


def _check_seeds(options: Options, overrides: Sequence[str]) -> None:
    seeds = options.numbers
    if not seeds:
        raise InputError("--seeds: give at least one, as in 0 1 2 or 0..7")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise InputError(f"--seeds: {', '.join(map(str, twice))} twice: give each seed once")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise InputError(f"--seeds: must be from 0 to 2**32 - 1, got {wrong[0]}")
    if any(re.match(r"--seed\b", word) for word in overrides):
        raise InputError("--seed and --seeds: give one of them")
    if options.evaluate is not None:
        raise InputError("--seeds: does not go with --evaluate: evaluate the folder of one seed")


def override(config: Config, arguments: Sequence[str], *, prog: str = "lmjax train") -> Config:
    """The config with keys replaced, e.g. by ["--model.stepper", "euler", "--train.epochs", "5"].

    Raises:
        InputError: for a value that will not do.
        SystemExit: for a key that is unknown or ill-typed.
    """
    if not arguments:
        return config
    tyro = optional_import("tyro", package="tyro", purpose="changing a config from the command line")
    return tyro.cli(Config, prog=prog, description="Keys of the config:", default=config, args=arguments)


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
    """The names that a Python file defines."""
    _require_file(path)
    try:
        return runpy.run_path(str(path))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the file is the user's: what is wrong with it is for them to mend
        raise InputError(f"--config {path}{_line(error, path)}: {type(error).__name__}: {error}") from error


def _split(place: str | Path) -> tuple[Path, str]:
    """The file, and the row in it, "" if none is named. A plain name is that of a config that comes with lmjax."""
    match = re.fullmatch(r"(.+\.py|\w\w+):(.*)", str(place))
    path, row = (Path(match[1]), match[2]) if match else (Path(place), "")
    if re.fullmatch(r"\w+", str(path)) and not path.is_file():
        path = next((file for file in _ours() if file.stem == str(path)), path)
    return path, row


def _ours() -> list[Path]:
    """The configs that come with lmjax: in the package once it is installed, beside it in its repository."""
    package = Path(__file__).parent
    return sorted(
        next(
            filter(None, (list(folder.glob("*.py")) for folder in (package / "configs", package.parent / "configs"))),
            [],
        )
    )


def _which(path: Path, row: str, rows: dict) -> str:
    """The message for a row that is missing or unknown."""
    close = difflib.get_close_matches(row, rows, n=1)
    start = f"has no row {row!r}" + (f": did you mean {close[0]!r}?" if close else "") if row else "has several rows"
    lines = [
        f"  {path}:{key:22}{row.describe() if hasattr(row, 'describe') else ''}".rstrip() for key, row in rows.items()
    ]
    return f"--config {path}: {start}; give one of\n" + "\n".join(lines)


def stem(place: str | Path) -> str:
    """The name of a run of this config: "cifar10-lm_resnet20"."""
    path, row = _split(place)
    return f"{path.stem}-{row}" if row else path.stem


def _line(error: Exception, path: Path) -> str:
    """The line of the file with the error, as ", line N"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _available() -> str:
    return f"; with lmjax come {', '.join(path.stem for path in _ours())}" if _ours() else ""
