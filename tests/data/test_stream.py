"""The batches of photographs: pure functions of (seed, step), whoever makes them."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmjax import InputError
from lmjax.data import Files, Loader, Stream
from lmjax.data.crops import random_box
from lmjax.data.decode import PillowImage
from tests.data.photos import write_folder
from tests.parameters import few, slow
from tests.tiny import ROOT

pytest.importorskip("grain")
pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """53 generated photographs of three classes, of several sizes."""
    folder = write_folder(tmp_path_factory.mktemp("photos"), train=53, val=3) / "train"
    return Files(folder, ("n0", "n1", "n2"))


@pytest.fixture
def loader(files):
    return Loader(files, 24, min_area=0.2)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_batch(loader):
    batch = Stream(loader, 8, seed=0)[0]
    assert batch["image"].shape == (8, 24, 24, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert (batch["broken"] == -1).all()


@pytest.mark.parametrize("cut", ["random", "middle"])
def test_labels_without_a_class(files, cut):
    stream = Stream(Loader(files, 24, classes=2), 8, seed=0 if cut == "random" else None)
    with pytest.raises(InputError, match=r"n2/\d+\.JPEG: has the label 2, but there are 2 classes, numbered from 0"):
        [stream[i] for i in range(7)]


@pytest.mark.parametrize("workers", few([0, 1, 2], [0, 2]))
@pytest.mark.parametrize("threads", few([1, 3], [3]))
def test_neither_workers_nor_threads_change_a_batch(loader, workers, threads):
    stream = Stream(loader, 8, seed=3)
    expected = [stream[i] for i in range(4, 16)]  # across the end of an epoch of six batches, twice
    with stream.read(4, workers=workers, threads=threads) as reader:
        for batch in expected:
            assert equal(next(reader), batch)


def test_another_seed_and_another_epoch_are_other_batches(loader):
    stream, other = Stream(loader, 8, seed=3), Stream(loader, 8, seed=4)
    assert len(stream) == 6
    assert not equal(stream[0], other[0])
    assert not equal(stream[0], stream[6])


def test_an_epoch_shows_no_image_twice_and_every_epoch_leaves_out_others(files):
    class Numbered(Files):
        """The label of an image is its number."""

        def __getitem__(self, i):
            return super().__getitem__(i)[0], i

    stream = Stream(Loader(Numbered(Path(files.folder), ("n0", "n1", "n2")), 8, min_area=0.5), 8, seed=0)
    left_out = []
    for epoch in range(4):
        seen = np.concatenate([stream[6 * epoch + i]["label"] for i in range(6)])
        assert len(set(seen.tolist())) == 48
        left_out.append(frozenset(range(53)) - set(seen.tolist()))
    assert len(set(left_out)) == 4


def test_the_same_image_is_cropped_otherwise_in_every_epoch(files):
    class One(Files):
        def __len__(self):
            return 1

    stream = Stream(Loader(One(Path(files.folder), ("n0", "n1", "n2")), 8, min_area=0.2), 1, seed=0)
    crops = {stream[i]["image"].tobytes() for i in range(8)}
    assert len(crops) == 8


def test_crops_are_random_boxes_or_without_an_area_the_middle(files):
    for index in range(len(files)):
        rng, image = np.random.default_rng(index), PillowImage(files[index][0])
        drawn = Loader(files, 8, min_area=0.2).random(index, np.random.default_rng(index))
        np.testing.assert_array_equal(drawn["image"], image.crop(random_box(rng, *image.size, 0.2), 8))
        middle = Loader(files, 8, "turbo")
        np.testing.assert_array_equal(middle.random(index, rng)["image"], middle.middle(index)["image"])


def test_processes_share_a_batch_without_overlap(loader):
    whole = Stream(loader, 8, seed=1)
    shares = [Stream(loader, 8, seed=1, rows=rows) for rows in (range(4), (4, 5), (7, 6))]
    for step in (0, 5, 7):
        parts = [share[step] for share in shares]
        for key in whole[step]:
            together = np.concatenate([part[key] for part in parts])
            np.testing.assert_array_equal(together, whole[step][key][[0, 1, 2, 3, 4, 5, 7, 6]])


def test_an_evaluation_shows_every_image_once_in_order(files):
    stream = Stream(Loader(files, 24), 10, seed=None)
    assert len(stream) == 6
    batches = [stream[i] for i in range(6)]
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[:53], files.labels)
    assert (labels[53:] == -1).all()
    assert (batches[5]["image"][3:] == 0).all()
    np.testing.assert_array_equal(batches[0]["image"][2], PillowImage(files[2][0]).center(24, 27))
    assert equal(stream[6], batches[0])


@pytest.fixture
def damaged(tmp_path):
    """Six images of which the second and third cannot be decoded."""
    folder = write_folder(tmp_path, train=6, val=1, classes=1) / "train"
    for name in sorted((folder / "n0").iterdir())[1:3]:
        name.write_bytes(name.read_bytes()[:-200])
    return Files(folder, ("n0",))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_the_run_and_is_named(damaged, workers):
    with (
        pytest.raises(InputError, match=r"n0/1\.JPEG: cannot be decoded \(.*--data.on-error skip|n0/2\.JPEG"),
        Stream(Loader(damaged, 8, min_area=0.5), 6, seed=0).read(workers=workers) as reader,
    ):
        next(reader)


def test_a_broken_image_is_skipped_and_reported_if_asked(damaged):
    stream = Stream(Loader(damaged, 8, min_area=0.5, skip=True), 6, seed=0)
    batch = stream[0]
    assert sorted(batch["broken"].tolist()) == [-1, -1, -1, -1, 1, 2]
    assert (batch["label"] == 0).all()
    assert batch["image"].any((1, 2, 3)).all()
    assert equal(stream[0], batch)
    test = Stream(Loader(damaged, 8, skip=True), 4, seed=None)
    assert test[0]["label"].tolist() == [0, -1, -1, 0]
    assert test[0]["broken"].tolist() == [-1, 1, 2, -1]
    assert test[1]["label"].tolist() == [0, 0, -1, -1]
    assert test[1]["broken"].tolist() == [-1, -1, -1, -1]


def test_a_batch_needs_as_many_images(files):
    with pytest.raises(InputError, match="54 is more than the 53 images"):
        Stream(Loader(files, 8, min_area=0.5), 54, seed=0)


def test_nothing_but_broken_images_is_an_error(tmp_path):
    folder = write_folder(tmp_path, train=3, val=1, classes=1) / "train"
    for name in (folder / "n0").iterdir():
        name.write_bytes(b"")
    loader = Loader(Files(folder, ("n0",)), 8, min_area=0.5, skip=True)
    with pytest.raises(InputError, match=r"JPEG: neither this image nor the 2 after it can be decoded"):
        Stream(loader, 3, seed=0)[0]
    for name in sorted((folder / "n0").iterdir())[1:]:
        name.unlink()
    with pytest.raises(InputError, match=r"0\.JPEG: cannot be decoded$"):
        Stream(dataclasses.replace(loader, source=Files(folder, ("n0",))), 1, seed=0)[0]


SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path

if __name__ == "__mp_main__" and sys.argv[2] == "starting":  # a worker that has not yet heard of lmjax
    Path(f"{os.getpid()}.worker").touch()
    time.sleep(2)

from lmjax.data import Files, Loader, Stream

def interrupt():
    while len(list(Path().glob("*.worker"))) < 2:
        time.sleep(0.02)
    os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in its background
    files = Files(Path(sys.argv[1]), ("n0", "n1", "n2"))
    reader = Stream(Loader(files, 64, min_area=0.2), 16, seed=0).read(workers=2)
    if sys.argv[2] == "starting":
        print("reading", flush=True)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            next(reader)
        finally:
            reader.close()
    batches = [next(reader) for _ in range(5)]
    print("reading", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "killed with all that it has started":
        os.killpg(0, signal.SIGKILL)
    if sys.argv[2] == "failed":
        try:
            raise RuntimeError("something else went wrong")
        finally:
            reader.close()
    if sys.argv[2] == "terminated":  # a run goes on until it can be saved
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.killpg(0, signal.SIGTERM)
        for _ in range(20):
            next(reader)
    if sys.argv[2] == "interrupted":
        try:
            os.killpg(0, signal.SIGINT)  # as a terminal does
            while True:
                next(reader)
        finally:
            reader.close()
    reader.close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc and /dev/shm")
@pytest.mark.parametrize(
    "end",
    few(
        ["closed", "failed", "interrupted", "killed", "killed with all that it has started", "starting", "terminated"],
        ["interrupted", "killed with all that it has started"],
    ),
)
def test_workers_end_with_the_run_and_leave_nothing_in_shared_memory(files, tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LMJAX_TEST": (mark := f"{os.getpid()}-{end}")}
    errors, command = tmp_path / "errors.txt", [sys.executable, "script.py", files.folder]
    with errors.open("w") as file:
        run = subprocess.Popen(
            [*command, end],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True,
        )  # fmt: skip
    assert run.communicate(timeout=120)[0] == "reading\n", errors.read_text()
    expected = {"closed": 0, "terminated": 0, "failed": 1}
    killed = end.startswith("killed")
    code = -signal.SIGKILL if killed else expected.get(end, -signal.SIGINT)
    assert run.returncode == code, errors.read_text()
    if not killed:  # then Python itself cleans up, and says so
        # Nothing but the traceback of the run itself: none of a worker, no warning of leaked memory.
        assert errors.read_text().count("Traceback") == (run.returncode != 0), errors.read_text()
        assert "leaked" not in errors.read_text()
    deadline = time.monotonic() + 20
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive
    names = re.compile(rf"(sem\.)?lmjax-\d+-{run.pid}-")

    def left():
        return [name for name in os.listdir("/dev/shm") if names.match(name)]

    if end == "killed with all that it has started":  # nobody is left to clean up: the next run does it
        assert left()
        subprocess.run([*command, "closed"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert not left()


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ("4k", "could not be started (No space left on device)"),
        slow("512k", "has found no room in shared memory"),
    ],
)
def test_shared_memory_that_is_too_small_is_said_in_one_line(files, tmp_path, size, why):
    """As in a container, of which it has 64 MiB."""
    (tmp_path / "script.py").write_text(SCRIPT)
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    run = subprocess.run(
        [*prefix, sys.executable, "script.py", files.folder, "closed"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (said,) = [line for line in run.stderr.splitlines() if "WorkerDied: " in line]
    assert f"a process that decodes images {why}. Is there memory for all of them? /dev/shm has 0." in said


def _marked(mark):
    """The processes that have inherited an environment with this mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"LMJAX_TEST={mark}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found
