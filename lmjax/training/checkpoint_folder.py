"""The checkpoints in a folder, as files: which there are, which are damaged, and what each says of itself."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from lmjax import files
from lmjax.errors import InputError, reason
from lmjax.training import integrity

DISCARDED = "discarded"
_DESCRIPTORS = Path("/proc/self/fd")


class Unreadable(InputError):
    """A checkpoint that cannot be read, and whose sums are missing or do not match."""


class CheckpointFolder:
    """A folder of checkpoints. Damaged ones are left out at once, before Orbax reads any.

    Args:
        path: absolute, and without links.
        writes: this run owns the folder; otherwise nothing in it is touched, which may be the work of another run.
        report: told what went wrong, in a line.

    Attributes:
        damaged: the steps that a reader leaves out; a writer has given them another name.
        failed: True once a checkpoint could not be written.
    """

    def __init__(self, path: Path, *, writes: bool, report: Callable[[str], None]):
        self.path, self.writes, self.report = path, writes, report
        self.damaged: set[int] = set()
        self.failed = False
        if not writes and not os.path.isdir(path):
            raise InputError(f"{path}: holds no checkpoint")
        if writes and jax.process_index() == 0:
            try:
                files.make_folder(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be made a folder ({reason(error)})") from error
        if not writes or jax.process_index() == 0:  # of several processes that write, the first decides for all
            for step in checkpoint_steps(path):
                self._check(step)
        if writes:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self.tidy()

    def _check(self, step: int) -> None:
        place, sums = self.path / str(step), integrity.sums(self.path / str(step))
        if sums is not None:
            wrong = integrity.damage(place, sums)
        else:
            wrong = None if _about(place).is_file() else "is no checkpoint"
        if not place.exists():  # removed meanwhile by the run that is still writing
            return
        if wrong:
            self.leave_out(step, wrong)
        elif sums is None:
            self.report(f"{place}: {integrity.NAME} is missing or cut short: it is tried as it is")

    def leave_out(self, step: int, wrong: str) -> None:
        """Do not use a checkpoint any more, and give it another name if that is ours to do."""
        place = self.path / str(step)
        if not self.writes:
            self.damaged.add(step)
            self.report(f"{place}: {wrong}: it is left out")
            return
        names = (f"damaged-{step}" + (f"-{n}" if n else "") for n in range(10_000))
        aside = next(place.with_name(name) for name in names if not place.with_name(name).exists())
        place.rename(aside)
        self.report(f"{place}: {wrong}: it is left out, and set aside as {aside.name}")

    def set_aside(self) -> list[str]:
        """The names of damaged checkpoints, now and earlier."""
        return sorted(path.name for path in self.path.glob("damaged-*"))

    def about(self, step: int) -> dict[str, Any]:
        """The plain data that was kept with a checkpoint.

        Raises:
            InputError: if it cannot be read.
        """
        with self.reading(step):
            about = json.loads(files.read(_about(self.path / str(step))))
            if not isinstance(about, dict):
                raise ValueError("about is no table")
            return about

    @contextlib.contextmanager
    def reading(self, step: int) -> Generator[None, None, None]:
        """Turn what is raised while a checkpoint is read into an InputError that says if it is damaged."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # Orbax raises bare ones, too
            place = self.path / str(step)
            if not place.exists():
                raise InputError(
                    f"{place}: the run that is going on there has removed it meanwhile: try again"
                ) from error
            sums = integrity.sums(place)
            if sums is not None and integrity.damage(place, sums) is None:
                raise InputError(
                    f"{place}: this checkpoint cannot be read here, though its sums are right ({reason(error)}): keep "
                    "it"
                ) from error
            raise Unreadable(
                f"{place}: this checkpoint cannot be read: delete it, and the one before is used, if there is one"
            ) from error

    def seal(self, step: int | None) -> None:
        """Add the sums to a checkpoint of which all files are written, before it gets its name."""
        if jax.process_index() == 0:
            for part in self.path.glob(f"{step}.orbax-checkpoint-tmp*"):
                integrity.seal(part)

    def tidy(self) -> None:
        """Remove the checkpoints that are not kept, and the parts of one that could not be written."""
        if self.writes and jax.process_index() == 0:
            # After a failed save more parts may appear: Orbax does not wait for its threads that have not failed.
            names = [DISCARDED, *(["*.orbax-checkpoint-tmp*"] if self.failed else [])]
            for path in (path for name in names for path in self.path.glob(name)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def require_possible(directory: Path) -> None:
    """Check that checkpoints can be written below a folder of this name, which need not be there yet.

    Raises:
        InputError: if its name has characters that some reader interprets, and the system has no paths for open
            folders.
    """
    if not _is_plain(directory) and not os.path.isdir(_DESCRIPTORS):
        raise InputError(
            f"{directory}: on this system, the path of checkpoints can only have ASCII letters, digits and _ . - in "
            "it: choose another --workdir"
        )


def _is_plain(folder: Path) -> bool:
    return re.fullmatch(r"[\w./-]+", os.path.realpath(folder), re.ASCII) is not None


class PlainPath:
    r"""A path to a folder that Orbax and TensorStore take as it is.

    They interpret some characters of a path ([, *, %, \\, letters that are not ASCII), and may not find what they have
    written. A path with other characters than ASCII letters, digits and _ . / - is replaced by /proc/self/fd/N, with N
    the descriptor of the open folder.

    Raises:
        InputError: where the system has no such paths.
    """

    def __init__(self, folder: Path):
        require_possible(folder)
        self.path, self._descriptor = folder, None
        if _is_plain(folder):
            return
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.path = _DESCRIPTORS / str(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _about(folder: Path) -> Path:
    """The file in which Orbax's handler keeps the plain data of a checkpoint."""
    return folder / "about" / "metadata"


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder, increasing."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isascii() and path.name.isdecimal())


def newest_about(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """The step of the newest checkpoint that says something of itself, and that; None if there is none."""
    for step in reversed(checkpoint_steps(directory)):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return step, json.loads(files.read(_about(directory / str(step))))
    return None
