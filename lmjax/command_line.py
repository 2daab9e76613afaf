"""The command line: typed commands from words, and configs from files."""

import collections
import contextlib
import dataclasses
import difflib
import errno
import io
import json
import os
import re
import runpy
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from lmjax import console, files, runtime
from lmjax.config import Config, from_dict
from lmjax.errors import InputError, reason

# Of a path that was given: not allowed, not there, too long a name, no room. The disk's own errors are none of these.
_MISTAKES = {
    errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS,
    errno.ENOSPC,
}  # fmt: skip


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Command:
    """A command, a frozen dataclass: its fields are the options, and the docstrings of these are the help."""

    def __init_subclass__(cls):
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self):
        for name, value in dict(vars(self)).items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, Path):
                object.__setattr__(self, name, files.local(value, option))
            elif isinstance(value, tuple):
                found = (files.local(each, option) if isinstance(each, Path) else each for each in value)
                object.__setattr__(self, name, tuple(found))

    @classmethod
    def start(cls, words: Sequence[str], prog: str) -> int | None:
        """Run the command that the words give; returns the exit code, None for 0."""
        return read(cls, words, prog=prog).run()

    @classmethod
    def form(cls) -> type:
        """The class whose fields are all that may follow the command."""
        return cls


_MOST_SEEDS = 10_000  # in a range, which may be misspelt


def seed_numbers(words: Sequence[str] | None) -> tuple[int, ...] | None:
    """The seeds that --seeds names, as in 0 1 2 or 0..7; None without it. Raises InputError if they cannot be."""
    if words is None:
        return None
    numbers: list[int] = []
    for word in words:
        match = re.fullmatch(r"(-?\d{1,10})(?:\.\.(\d{1,10}))?", word, re.ASCII)
        if match is None or (match[2] and not 0 <= int(match[2]) - int(match[1]) < _MOST_SEEDS):
            raise InputError(f"--seeds: must be whole numbers, as in 0 1 2 or 0..7, got {word!r}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not numbers:
        raise InputError("--seeds: give at least one, as in 0 1 2 or 0..7")
    if twice := sorted(seed for seed, count in collections.Counter(numbers).items() if count > 1):
        raise InputError(f"--seeds: {', '.join(map(str, twice))} twice: give each seed once")
    if wrong := [seed for seed in numbers if not 0 <= seed < 2**32]:
        raise InputError(f"--seeds: must be from 0 to 2**32 - 1, got {wrong[0]}")
    return tuple(numbers)


def start_alone(config: Path | None) -> None:
    """Prepare a command that reads runs; a Python file registers parts of the user's own first."""
    runtime.start_alone()
    if config is not None:
        rows(config)


def exit_code(work: Callable[[], int | None]) -> int:
    """Do the work of a program; returns its exit code.

    This is 2 after a mistake of the user, which is one line without a traceback, and 130 after Ctrl-C. What cannot be
    printed ends no program.
    """
    with console.lossy():
        try:
            return work() or 0
        except InputError as error:
            console.warn(f"error: {error}")
            return 2
        except OSError as error:
            if error.errno not in _MISTAKES:
                raise
            console.warn(f"error: {f'{error.filename}: ' if error.filename else ''}{reason(error)}")
            return 2
        except (RuntimeError, AssertionError, MemoryError) as error:
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                cure = "choose a smaller --train.batch-size or --model.width, or --model.memory remat"
                console.warn(f"error: there is not enough memory ({reason(error)}): {cure}")
                return 2
            if _has_devices():  # a missing plugin of JAX_PLATFORMS is an AssertionError
                raise
            chosen = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
            console.warn(f"error: JAX finds no device of {chosen}: install its plugin, or choose another")
            return 2
        except KeyboardInterrupt:
            console.warn("interrupted")
            return 130
        except SystemExit as stop:  # after --help
            return int(stop.code or 0)


def _has_devices() -> bool:
    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def read(form: Any, words: Sequence[str], *, prog: str, **how: Any) -> Any:
    """The object of a typed class that words describe.

    Args:
        form: the class.
        words: what follows the name of the program.
        prog: the name of the program, for messages and help.
        how: other arguments of `tyro.cli`.

    Raises:
        InputError: if the words do not fit.
        SystemExit: after --help.
    """
    how: dict[str, Any] = {"config": (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)} | how
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(form, args=words, prog=prog, **how)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        raise InputError(_without_box(said.getvalue())) from None


def _without_box(text: str) -> str:
    """The text in a box of tyro's, a line for each part; of a value that has no type, the last reason alone."""
    _, *lines = text.splitlines()  # the first is its title
    bare = "\n".join(line.strip("│ ") for line in lines)
    parts = (" ".join(part.split()) for part in re.split(r"^[─╰╯-]+$", bare, flags=re.MULTILINE))
    plain = "\n".join(filter(None, parts))
    return re.sub(r"^Error parsing (?:[^-].*?: )?|no type matching .*- <class '\w+'>: ", "", plain)


def require_some(given: Sequence[Any], name: str) -> None:
    """Raise InputError if an argument that may be repeated was not given."""
    if not given:
        raise InputError(f"give at least one {name}")


def override(config: Config, arguments: Sequence[str], *, prog: str = "lmjax train") -> Config:
    """The config with keys replaced, e.g. by ["--model.stepper", "euler", "--train.epochs", "5"].

    Raises:
        InputError: if a key is unknown, or a value is invalid.
        SystemExit: after --help.
    """
    if not arguments:
        return config
    return read(Config, arguments, prog=prog, description="Keys of the config:", default=config, config=())


def load(place: str | Path) -> Config:
    """The config in a file: `config` of a Python file, one of its `rows` as in "cifar10.py:lm_resnet20", or JSON.

    Raises:
        InputError: if it does not exist or holds none.
    """
    path, row = _split(place)
    if path.suffix == ".json":
        _require_file(path)
        try:
            return from_dict(json.loads(files.read(path)))
        except (OSError, ValueError, RecursionError) as error:  # no text, no JSON, or JSON that is no config
            raise InputError(f"--config {path}: is not a config ({reason(error)})") from error
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
        raise InputError(f"--config: there is no file {path}{available()}")


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
    path, row = (match[1], match[2]) if match else (place, "")
    path = Path(os.path.expanduser(path))
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


def _line(error: BaseException, path: Path) -> str:
    """The line of the file with the error, as ", line N"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def available() -> str:
    """The names of the configs that come with lmjax, as the end of a message."""
    return f"; with lmjax come {', '.join(path.stem for path in _ours())}" if _ours() else ""
