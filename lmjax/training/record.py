"""What a run leaves in its folder: config.json, metrics.jsonl, summary.json."""

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmjax import files
from lmjax.config import Config, differences, from_dict, to_dict
from lmjax.console import warn
from lmjax.errors import InputError, reason
from lmjax.training.checkpoint import newest_about

_FILES = ("config.json", "metrics.jsonl", "summary.json")


class Record:
    """The folder of a run. Only one process of a run writes it, and only one run at a time.

    Args:
        directory: the folder.
        writes: whether this process is the one that writes.
        report: told what went wrong without ending the run, in a line.

    Use it as a context manager, or call `close`: then others may write there.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        writes: bool = True,
        report: Callable[[str], None] = warn,
    ):
        self.directory = files.local(directory, "folder of the run:")
        self.writes = writes
        self.config_path, self.metrics_path, self.summary_path = (self.directory / name for name in _FILES)
        self.rows: list[dict[str, Any]] = []
        self._report = report
        self._behind = False
        # The system takes it back however a process ends.
        self._lock = FileLock(self.directory / ".lock", thread_local=False)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write."""
        self._lock.release()

    @property
    def started(self) -> bool:
        """Whether the folder holds a run."""
        return os.path.exists(self.config_path)  # unlike Path's, it takes any text for a name

    def require_none(self) -> None:
        """Raises InputError if the folder holds a run already."""
        if any(os.path.lexists(self.directory / name) for name in (*_FILES, "checkpoints")):
            raise InputError(
                f"{self.directory} already holds a run: go on with it by --resume, or choose another folder"
            )

    def hold(self) -> None:
        """Keeps other runs from writing here until `close`.

        Raises:
            InputError: if one is writing, or the folder cannot be written.
        """
        if not self.writes:
            return
        try:
            files.make_folder(self.directory)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.directory}: another run is writing there just now: wait for it, stop it, or choose another "
                "folder"
            ) from None
        except NotImplementedError:
            self._report(f"{self.directory} is on a file system without locks: see to it that one run alone writes it")
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise InputError(f"{self.directory}: cannot be written ({reason(error)})") from error

    def start(self, config: Config) -> None:
        """Makes the folder and notes the config.

        Raises:
            InputError: if it holds a run already, or cannot be made.
        """
        if self.writes:
            self.require_none()
            self.hold()
            self.require_none()  # of two that start at once, one gets the folder
            try:
                files.write(self.config_path, _json(to_dict(config)))
            except OSError as error:
                raise InputError(f"{self.directory}: cannot be written ({reason(error)})") from error

    def config(self) -> Config:
        """The config that the run was started with.

        Raises:
            InputError: if the folder holds no run.
        """
        try:
            return from_dict(json.loads(self.config_path.read_text()))
        except OSError as error:
            places = self.directory.glob(f"seed*/{self.config_path.name}") if os.path.isdir(self.directory) else ()
            seeds = sorted(path.parent.name for path in places)
            several = f", but those of several seeds: add --seeds, or name one ({', '.join(seeds)})" if seeds else ""
            raise InputError(f"{self.directory} holds no run (no {self.config_path.name}){several}") from error
        except (ValueError, RecursionError) as error:  # no text, no JSON, or JSON that is no config
            raise InputError(f"{self.config_path}: is not a config ({error}){_cure(error)}") from error

    def require_same(self, config: Config, sections: tuple[str, ...] | None = None) -> None:
        """Checks that a config describes the run in this folder.

        Raises:
            InputError: naming every key that differs, with both values.
        """
        different = differences(self.config(), config, sections)
        if different:
            raise InputError(
                f"{self.directory} holds another run, with {_told(different, 'now')}: give the same values, or choose "
                "another folder"
            )
        if found := newest_about(self.directory / "checkpoints"):
            self.require_own(*found)

    def require_own(self, step: int, about: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to the run in this folder.

        Args:
            step: of the checkpoint.
            about: what was kept with it.

        Raises:
            InputError: naming every key of its config that differs, with both values.
        """
        ours = self.config()
        try:
            different = differences(from_dict(about["config"]), ours)
        except (KeyError, TypeError, InputError) as error:
            raise InputError(
                f"{self.directory}: the checkpoint of step {step} is of another version of lmjax ({error}): start a "
                "new run"
            ) from error
        if different:
            raise InputError(
                f"{self.directory}: the checkpoint of step {step} is of another run, with {_told(different, 'here')}: "
                f"restore {self.config_path.name}, or move the checkpoint to the folder of its own run"
            )

    def summary(self) -> dict[str, Any] | None:
        """What `summarise` has written; None if the run has not come to its end.

        Raises:
            InputError: if it is not what was written.
        """
        try:
            summary = json.loads(self.summary_path.read_text())
            accuracy = summary.get("test_accuracy") if isinstance(summary, dict) else None
            if not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
                raise ValueError("it has no test_accuracy between 0 and 1")
            self._require_own_numbers(summary)
            return summary
        except FileNotFoundError:
            return None
        except InputError:  # of config.json: the summary is not to blame
            raise
        except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.summary_path}: is not a summary ({error}): delete it, and going on with the run writes it again"
            ) from error

    def _require_own_numbers(self, summary):
        """Raise ValueError for the summary of another run."""
        for key, value in summary.items():
            if key.startswith("test_") and not (isinstance(value, (int, float)) and math.isfinite(value)):
                raise ValueError(f"{key} is {value!r}, and no number")
        seed = self.config().seed
        if summary.get("seed", seed) != seed:
            raise ValueError(f"it is of seed {summary['seed']}, and the run of seed {seed}")
        found = newest_about(self.directory / "checkpoints")
        rows = found[1].get("rows") if found and isinstance(found[1], dict) else None
        if rows and summary.get("steps") == found[0] and rows[-1].get("test_accuracy") != summary["test_accuracy"]:
            raise ValueError("its test_accuracy is not that of the last checkpoint")

    def read_rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one an epoch; a last line that a crash has cut short is left out.

        Raises:
            InputError: naming any other line that is no row, or saying why the file cannot be read.
        """
        try:
            lines = self.metrics_path.read_text().splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.metrics_path}: cannot be read ({error})") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if type(row["step"]) is not int:
                    raise ValueError("a step is a whole number")
            except (ValueError, RecursionError, TypeError, KeyError, IndexError) as error:
                if number == len(lines):
                    break
                raise InputError(
                    f"{self.metrics_path}: line {number} is not a row of metrics: mend or delete it"
                ) from error
            rows.append(row)
        return rows

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl. If it cannot be written, that is reported, and made up for with the next."""
        self.rows.append(row)
        if self._behind:
            self.rewrite(self.rows)
        elif self.writes:
            with self._failure_is_reported():
                files.append(self.metrics_path, _line(row))

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Makes metrics.jsonl consist of these rows: those of the checkpoint that a run goes on from.

        What a crash has left in the file, half a line or lines of an epoch that is made once more, is gone then.
        """
        self.rows = list(rows)
        if self.writes:
            with self._failure_is_reported():
                files.write(self.metrics_path, "".join(map(_line, rows)))

    @contextlib.contextmanager
    def _failure_is_reported(self):
        try:
            yield
            self._behind = False
        except OSError as error:
            self._behind = True
            self._report(f"{self.metrics_path} could not be written ({reason(error)}): going on without it")

    def summarise(self, summary: dict[str, Any]) -> None:
        """Writes summary.json.

        Raises:
            InputError: if it cannot be written.
        """
        if self.writes:
            path = self.metrics_path
            try:
                if self._behind:
                    files.write(path, "".join(map(_line, self.rows)))
                path = self.summary_path
                files.write(path, _json(summary))
            except OSError as error:
                raise InputError(
                    f"{path}: could not be written ({reason(error)}): make room, and going on with the run writes it"
                ) from error


def _told(different: dict[str, tuple[Any, Any]], now: str) -> str:
    """Keys with their values there and here, for a message."""
    return ", ".join(f"{key} {theirs!r} ({now} {ours!r})" for key, (theirs, ours) in different.items())


def _cure(error: Exception) -> str:
    """What helps against a scheme that is registered by no part of the library."""
    if not str(error).startswith("unknown stepper"):
        return ""
    return "; if a config of yours registers it, give that by --config FILE"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
