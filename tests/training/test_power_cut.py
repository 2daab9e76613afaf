"""A power cut at any moment: what has not been synced may be lost, and a run goes on from what has.

The writes, syncs, renames and removals of a run are recorded. For every moment between two of them, the disk is built
as a file system may leave it: names and contents that were synced are there; what was not may be there, or as it was
before, or empty.
"""

import itertools
import os
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import Config
from lmjax.training import Checkpoints, RunRecordWriter
from lmjax.training.step import TrainState
from tests.parameters import slow

ACCURACIES = [0.5, 0.7, 0.2]


class Disk:
    """A folder whose changes are recorded.

    A file or folder has a number of its own, which it keeps when it is renamed. `moments` has, for every event, what
    was there (folders as {name: number}, files as their bytes), what of it had been synced, and what was promised.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.moments, self.promised = root, [], {}
        self._number, self._known, self._synced = itertools.count(), {}, {}
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir"):
            monkeypatch.setattr(os, name, self._recorded(getattr(os, name), sync=name == "fsync"))

    def _recorded(self, function, *, sync):
        def call(*arguments, **options):
            self._look()
            result = function(*arguments, **options)
            inodes = self._look()
            if sync and (number := inodes.get(os.fstat(arguments[0]).st_ino)) is not None:
                self._synced[number] = self._there[number]
                self._look()
            return result

        return call

    def _look(self):
        there, inodes = {}, {}

        def visit(place):
            inode = os.stat(place).st_ino
            number = inodes[inode] = self._known.get(inode, None)
            if number is None:
                number = inodes[inode] = next(self._number)
            if os.path.isdir(place):
                there[number] = {name: visit(os.path.join(place, name)) for name in os.listdir(place)}
            else:
                there[number] = Path(place).read_bytes()
            return number

        for _ in range(100):  # other threads write meanwhile
            try:
                there.clear(), inodes.clear()
                visit(self.root)
                break
            except FileNotFoundError:
                continue
        # The number of a file that is gone may be given to the next one.
        self._known, self._there = inodes, there
        self.moments.append((there, dict(self._synced), dict(self.promised)))
        return inodes

    def after(self, moment: int, keeps) -> dict[str, bytes | None]:
        """What a power cut leaves: the bytes of files, None for folders. `keeps` says whether a change of a name that
        has not been synced is kept."""
        there, synced, _ = self.moments[moment]
        left = {}

        def put(number, place, found):
            if isinstance(found, bytes):
                left[place] = synced.get(number, b"")
                return
            left[place] = None
            before = synced.get(number, {})
            for name in sorted(found.keys() | before.keys()):
                child = (found if keeps() else before).get(name)
                if child is not None:
                    put(child, f"{place}/{name}", there.get(child, synced.get(child, b"")))

        put(0, "", there[0])
        return left


def state(step: int) -> TrainState:
    values = jnp.arange(1000, dtype=jnp.float32) + step
    return TrainState(jnp.int32(step), {"a": values, "b": values[:7]}, {"mean": -values}, {"momentum": 2 * values})


def row(epoch: int) -> dict:
    return {"epoch": epoch, "step": epoch, "test_accuracy": ACCURACIES[epoch - 1]}


def run(folder: Path, disk: Disk) -> None:
    """What a run writes."""
    record = RunRecordWriter(folder)
    with record:
        record.start(Config(workdir="w"))
        disk.promised["config"] = True
        for step, accuracy in enumerate(ACCURACIES, start=1):  # stopped, and gone on with
            with Checkpoints(folder / "checkpoints", keep_last=1, keep_best=1) as checkpoints:
                if step > 1:
                    checkpoints.restore(state(0))
                    record.rewrite(record.rows)
                record.log(row(step))
                disk.promised["rows"] = step
                for known in (accuracy,) if step < 3 else (None, accuracy):  # in the evaluation, and after it
                    checkpoints.save(state(step), {"rows": record.rows}, test_accuracy=known)
                    checkpoints.wait()
                disk.promised["step"] = step
        record.summarize({"test_accuracy": 0.2})
        disk.promised["summary"] = True
    disk._look()


def check(folder: Path, promised: dict) -> None:
    """What a run that goes on finds there."""
    record = RunRecordWriter(folder)
    if promised.get("config"):
        assert record.config() == Config(workdir=os.path.abspath("w"))
    if promised.get("rows"):
        assert [each["epoch"] for each in record.read_rows()][: promised["rows"]] == [*range(1, promised["rows"] + 1)]
    if promised.get("summary") or record.summary_path.exists():
        assert record.summary() == {"test_accuracy": 0.2}
    reports = []
    with Checkpoints(folder / "checkpoints", report=reports.append) as checkpoints:
        if checkpoints.latest() is None:
            assert not promised.get("step"), reports
            assert not checkpoints.folder.set_aside(), reports
            return
        found, about = checkpoints.restore(state(0))
        step = int(found.step)
        assert promised.get("step", 0) <= step <= promised.get("step", 0) + 1, reports
        assert about["rows"] == [row(epoch) for epoch in range(1, step + 1)]
        for ours, theirs in zip(*(map(np.asarray, vars_of(each)) for each in (found, state(step))), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        known = range(1, step + ("test_accuracy" in about))  # of the last one perhaps not yet
        assert checkpoints.best() == max(known, key=lambda epoch: ACCURACIES[epoch - 1], default=None)


def vars_of(found: TrainState) -> list:
    return [found.step, *found.params.values(), *found.statistics.values(), *found.optimizer.values()]


@pytest.mark.versions
@pytest.mark.parametrize("every", [30, slow(1)])
def test_power_cut_at_any_moment(tmp_path, every):
    root = tmp_path / "disk"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        disk._look()
        run(root / "new" / "run", disk)
    assert len(disk.moments) > 100
    rng = random.Random(0)
    leaves = {
        "only what was synced": lambda: False,
        "all": lambda: True,
        "some": lambda: rng.random() < 0.5,
    }
    seen = set()
    for (what, keeps), moment in itertools.product(leaves.items(), range(0, len(disk.moments), every)):
        left, promised = disk.after(moment, keeps), disk.moments[moment][2]
        if (key := hash((*left.items(), *promised.items()))) in seen:
            continue
        seen.add(key)
        folder = tmp_path / str(len(seen))
        for name, content in left.items():
            place = Path(f"{folder}{name}")
            place.mkdir() if content is None else place.write_bytes(content)
        try:
            check(folder / "new" / "run", promised)
        except Exception as error:
            raise AssertionError(f"moment {moment} of {len(disk.moments)}, of the names {what}") from error
    assert len(seen) > 100 / every
