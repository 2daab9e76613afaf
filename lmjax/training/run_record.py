"""The files that a run leaves in its folder: config.json, metrics.jsonl, summary.json."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from lmjax import files, registry
from lmjax.config import Config, differences, from_dict
from lmjax.errors import InputError, reason
from lmjax.training.checkpoint_folder import newest_about

_FILES = ("config.json", "metrics.jsonl", "summary.json")
_SEED = re.compile("seed(0|[1-9][0-9]*)")  # one name a seed


class RunRecord:
    """The folder of a run, to read.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: str | Path):
        self.directory = files.local(directory, "folder of the run:")
        self.config_path, self.metrics_path, self.summary_path = (self.directory / name for name in _FILES)

    @property
    def started(self) -> bool:
        """True if the folder holds a run."""
        return os.path.exists(self.config_path)  # unlike Path's, it takes any text for a name

    def require_none(self) -> None:
        """Raise InputError if the folder holds a run, or those of several seeds, already."""
        what = "a run: go on with it by --resume"
        if found := _seeds(self.directory):
            what = f"runs of several seeds ({found}): go on with them by --seeds and --resume"
        if found or any(os.path.lexists(self.directory / name) for name in (*_FILES, "checkpoints")):
            raise InputError(f"{self.directory} already holds {what}, or choose another folder")

    def config(self) -> Config:
        """The config of the run, as of its start or its last --resume.

        Raises:
            InputError: if the folder holds no run.
        """
        try:
            return from_dict(json.loads(files.read(self.config_path)))
        except (FileNotFoundError, NotADirectoryError) as error:
            seeds = _seeds(self.directory)
            several = f", but those of several seeds: name one ({seeds}), or train all with --seeds" if seeds else ""
            raise InputError(f"{self.directory} holds no run (no {self.config_path.name}){several}") from error
        except OSError as error:
            raise InputError(f"{self.config_path}: cannot be read ({reason(error)})") from error
        except (ValueError, RecursionError) as error:  # no text, no JSON, or JSON that is no config
            raise InputError(f"{self.config_path}: is not a config ({error}){registry.cure(error)}") from error

    def require_same(
        self, config: Config, sections: tuple[str, ...] | None = None, *, may_be_longer: bool = False
    ) -> None:
        """Check that a config describes the run in this folder.

        Args:
            config: to be compared with that of the run.
            sections: see `differences`.
            may_be_longer: accept more epochs, for a run that is to go on.

        Raises:
            InputError: naming every key that differs, with both values.
        """
        different = _differences(self.config(), config, sections, may_be_longer)
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
            different = _differences(from_dict(about["config"]), ours, None, may_be_longer=True)
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
        """The summary of the run; None if it has not come to its end.

        Raises:
            InputError: if it is not what was written.
        """
        try:
            summary = json.loads(files.read(self.summary_path))
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
        if found is None or not isinstance(found[1], dict):
            return
        last = (found[1].get("rows") or [{}])[-1]  # of an earlier epoch, if it was saved before the evaluation
        if last.get("step") == summary.get("steps") == found[0] and last["test_accuracy"] != summary["test_accuracy"]:
            raise ValueError("its test_accuracy is not that of the last checkpoint")

    def read_rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one an epoch; a last line that a crash has cut short is left out.

        Raises:
            InputError: naming any other line that is no row, or saying why the file cannot be read.
        """
        try:
            lines = files.read(self.metrics_path).splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.metrics_path}: cannot be read ({reason(error)})") from error
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


def _differences(
    before: Config, now: Config, sections: tuple[str, ...] | None, may_be_longer: bool
) -> dict[str, tuple[Any, Any]]:
    different = differences(before, now, sections)
    if may_be_longer and now.train.epochs > before.train.epochs:
        different.pop("train.epochs", None)
    return different


def _told(different: dict[str, tuple[Any, Any]], now: str) -> str:
    """Keys with their values there and here, for a message."""
    return ", ".join(f"{key} {theirs!r} ({now} {ours!r})" for key, (theirs, ours) in different.items())


def seed_folders(directory: Path) -> list[Path]:
    """The runs of seeds that a folder holds, by increasing seed."""
    found = [path for path in directory.glob("seed*") if _SEED.fullmatch(path.name)] if os.path.isdir(directory) else []
    held = (path for path in found if any((path / name).exists() for name in _FILES))
    return sorted(held, key=lambda path: int(path.name[4:]))


def _seeds(directory: Path) -> str:
    return ", ".join(path.name for path in seed_folders(directory))
