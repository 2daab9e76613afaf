"""What a run leaves in its folder: config.json, metrics.jsonl, summary.json."""

import json
import os
from pathlib import Path
from typing import Any

from lmjax.config import Config, differences, from_dict, to_dict
from lmjax.errors import InputError

_FILES = ("config.json", "metrics.jsonl", "summary.json")


class Record:
    """The folder of a run. Only one process of a run writes it.

    Args:
        directory: the folder.
        writes: whether this process is the one that writes.
    """

    def __init__(self, directory: str | Path, *, writes: bool = True):
        self.directory = Path(directory)
        self.writes = writes
        self.config_path, self.metrics_path, self.summary_path = (self.directory / name for name in _FILES)

    @property
    def started(self) -> bool:
        """Whether the folder holds a run."""
        return self.config_path.exists()

    def require_none(self) -> None:
        """Raises InputError if the folder holds a run already."""
        if any((self.directory / name).exists() for name in (*_FILES, "checkpoints")):
            raise InputError(
                f"{self.directory} already holds a run: go on with it by --resume, or choose another --workdir"
            )

    def start(self, config: Config) -> None:
        """Makes the folder and notes the config.

        Raises:
            InputError: if it holds a run already, or cannot be made.
        """
        if self.writes:
            self.require_none()
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                with self.config_path.open("x") as file:  # of two runs that start at once, one gets the folder
                    file.write(_json(to_dict(config)))
            except OSError as error:
                raise InputError(f"--workdir {self.directory}: cannot be written ({error.strerror})") from error

    def config(self) -> Config:
        """The config that the run was started with.

        Raises:
            InputError: if the folder holds no run.
        """
        try:
            return from_dict(json.loads(self.config_path.read_text()))
        except OSError as error:
            seeds = sorted(path.parent.name for path in self.directory.glob(f"seed*/{self.config_path.name}"))
            several = f", but those of several seeds: add --seeds, or name one ({', '.join(seeds)})" if seeds else ""
            raise InputError(f"{self.directory} holds no run (no {self.config_path.name}){several}") from error
        except ValueError as error:  # bytes that are no text, text that is no JSON, JSON that is no config
            raise InputError(f"{self.config_path}: is not a config ({error})") from error

    def require_same(self, config: Config, sections: tuple[str, ...] | None = None) -> None:
        """Checks that a config describes the run in this folder.

        Raises:
            InputError: naming every key that differs, with both values.
        """
        different = differences(self.config(), config, sections)
        if different:
            said = ", ".join(f"{key} {theirs!r} (now {ours!r})" for key, (theirs, ours) in different.items())
            raise InputError(
                f"{self.directory} holds another run, with {said}: give the same values, or choose another folder"
            )

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one an epoch; a last line that a crash has cut short is left out.

        Raises:
            InputError: naming any other line that is no row.
        """
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                row["step"]
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                if number == len(lines):
                    break
                raise InputError(
                    f"{self.metrics_path}: line {number} is not a row of metrics: mend or delete it"
                ) from error
            rows.append(row)
        return rows

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl."""
        if self.writes:
            with self.metrics_path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Forgets the rows after a step, for a run that goes on from there, and returns the ones before."""
        rows = [row for row in self.rows() if row["step"] <= step]
        if self.writes:
            _replace(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def summarise(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        if self.writes:
            _replace(self.summary_path, _json(summary))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    """Writes a file so that it is either the old one or the new one, whatever happens in between."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
