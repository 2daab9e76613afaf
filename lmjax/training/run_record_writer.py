"""The writing of a run's record: one process of one run at a time."""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmjax import files
from lmjax.config import Config, to_dict
from lmjax.console import warn
from lmjax.errors import InputError, reason
from lmjax.training.run_record import RunRecord


class RunRecordWriter(RunRecord, contextlib.AbstractContextManager):
    """The folder of a run, to write. Only one process of a run writes it, and only one run at a time.

    Args:
        directory: the folder.
        writes: this process is the one that writes.

    Use it as a context manager, or call `close`: then others may write there.

    Attributes:
        rows: the rows of metrics.jsonl.
    """

    def __init__(self, directory: str | Path, *, writes: bool = True):
        super().__init__(directory)
        self.writes = writes
        self.rows: list[dict[str, Any]] = []
        self._behind = False
        self._place: tuple[int, int] | None = None
        # A lock that the operating system releases, however a process ends.
        self._lock = FileLock(self.directory / ".lock", thread_local=False)

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock, so that other runs may write here."""
        self._lock.release()

    def hold(self) -> None:
        """Lock the folder against other runs until `close`.

        Raises:
            InputError: if another run has locked it, or the folder cannot be written.
        """
        if not self.writes:
            return
        with files.writing(self.directory):
            files.make_folder(self.directory)
            if os.path.islink(self._lock.lock_file):
                raise OSError(errno.ELOOP, ".lock is a link")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.directory}: another run is writing there just now: wait for it, stop it, or choose another "
                    "folder"
                ) from None
            except NotImplementedError:
                warn(f"{self.directory} is on a file system without locks: see to it that one run alone writes it")
            self._place = _identity(self.directory)

    def require_there(self) -> None:
        """Raise InputError if the folder is not the one that is held any more, or has lost its config."""
        if self.writes and (_identity(self.directory) != self._place or not self.started):
            raise InputError(
                f"{self.directory}: was removed, moved or emptied while the run went on: what it had is not kept there "
                "any more; bring it back, and --resume goes on from its last checkpoint"
            )

    def start(self, config: Config) -> None:
        """Make the folder and note the config.

        Raises:
            InputError: if it holds a run already, or cannot be made.
        """
        if self.writes:
            self.require_none()
            self.hold()
            self.require_none()  # once more, under the lock: two runs may have started at once
            with files.writing(self.directory):
                self._write(config)

    def update(self, config: Config) -> Config | None:
        """Note the config that a run goes on with, where it is another; returns the one before.

        The summary of a run that is made longer is not that of its end any more: it is removed first.

        Raises:
            InputError: if it cannot be written.
        """
        before = self.config()
        if not self.writes or _absolute(config) == before:
            return None
        with files.writing(self.config_path):
            if config.train.epochs > before.train.epochs:
                self.summary_path.unlink(missing_ok=True)
                files.sync(self.directory)
            self._write(config)
        return before

    def _write(self, config: Config) -> None:
        files.write(self.config_path, _json(to_dict(_absolute(config))))

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to metrics.jsonl. If it cannot be written, that is reported, and made up for with the next."""
        self.rows.append(row)
        if self._behind:
            self.rewrite(self.rows)
        elif self.writes:
            with self._failure_is_reported():
                files.append(self.metrics_path, _line(row))

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Make metrics.jsonl consist of these rows: those of the checkpoint that a run goes on from.

        What a crash has left in the file, half a line or lines of an epoch that is made once more, is gone then.
        """
        self.rows = list(rows)
        if self.writes:
            with self._failure_is_reported():
                files.write(self.metrics_path, "".join(map(_line, rows)))

    @contextlib.contextmanager
    def _failure_is_reported(self) -> Generator[None, None, None]:
        try:
            yield
            self._behind = False
        except OSError as error:
            self._behind = True
            warn(f"{self.metrics_path} could not be written ({reason(error)}): going on without it")

    def summarize(self, summary: dict[str, Any]) -> None:
        """Write summary.json.

        Raises:
            InputError: if it cannot be written.
        """
        if self.writes:
            path = self.metrics_path
            try:
                if self._behind or (self.rows and not path.exists()):
                    files.write(path, "".join(map(_line, self.rows)))
                path = self.summary_path
                files.write(path, _json(summary))
            except OSError as error:
                raise InputError(
                    f"{path}: could not be written ({reason(error)}): make room, and going on with the run writes it"
                ) from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """The device and number of a folder; None if it is not there."""
    with contextlib.suppress(OSError):
        found = os.stat(folder)
        return found.st_dev, found.st_ino
    return None


def _absolute(config: Config) -> Config:
    """The config with paths that do not depend on the current folder."""
    places = [None if path is None else str(Path(path).absolute()) for path in (config.workdir, config.data.dir)]
    return dataclasses.replace(config, workdir=places[0], data=dataclasses.replace(config.data, dir=places[1]))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
