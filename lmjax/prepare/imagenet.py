"""ImageNet (ILSVRC 2012), which tensorflow-datasets prepares from its official archives.

That takes TensorFlow, which is let into a process of its own only.
"""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from lmjax import files
from lmjax.console import show
from lmjax.data import prepared
from lmjax.errors import InputError, reason

_SOURCE = "they are at https://www.image-net.org/download-images, for those who have registered"
_TRAIN, _VALIDATION, _TEST = (f"ILSVRC2012_img_{split}.tar" for split in ("train", "val", "test"))
_UNFINISHED = "preparing-"
_BYTES_PER_SECOND = 45e6  # of the archives; 38 and 57 MB/s were measured for 1.4 GB
_PACKAGES = {  # what to import, and what pip calls it
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "array_record": "array_record",
    "importlib_resources": "importlib_resources",  # needed by tensorflow-datasets, which does not say so
}

# What runs in the process that TensorFlow is allowed into. That one is ended by this one, not by Ctrl-C itself.
_BUILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
import tensorflow_datasets as tfds
archives, directory = sys.argv[1:]
tfds.builder("imagenet2012", data_dir=directory).download_and_prepare(
    file_format="array_record", download_config=tfds.download.DownloadConfig(manual_dir=archives)
)
"""


def prepare(archives: Path, data_dir: Path, *, check: bool = False) -> None:
    """Prepare ImageNet, after reporting what that needs and what of it is there.

    Args:
        archives: the folder with the official archives of the training and the validation images.
        data_dir: where to put `imagenet2012/<version>`.
        check: only report, and write nothing.

    Raises:
        InputError: naming all that is missing or unsuitable; or if tensorflow-datasets fails, whose files are then
            removed.
    """
    archives, data_dir = archives.expanduser().absolute(), data_dir.expanduser().absolute()
    done = prepared.find("imagenet2012", data_dir)
    if done is not None:
        if done.parent.name != "imagenet2012":
            raise InputError(f"--data-dir {data_dir}: holds another data set, {done}: name another folder")
        try:
            found = prepared.load(done)
        except InputError as error:
            raise InputError(f"{error}; for that, delete {done} first") from error
        show(f"{done}: is prepared already, with {len(found.train):,} training and {len(found.test):,} test images")
        _say_how_to_train(data_dir)
        return
    files.inside(data_dir, "imagenet2012")  # found out before all the work
    problems = _plan(archives, data_dir)
    if problems:
        raise InputError("; ".join(problems))
    if check:
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # All that is unfinished is in here, whatever ends the preparation, and nothing reads it.
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    except OSError as error:
        raise InputError(f"--data-dir {data_dir}: cannot be written to ({reason(error)})") from error
    prepared.allow_open_files(1000)  # of the parts in which tensorflow-datasets shuffles
    try:
        with _ending_like_interrupts():
            status = _build(archives, unfinished)
            version = prepared.find("imagenet2012", unfinished)
            if status or version is None:
                how = f"exit status {status}" if status >= 0 else f"signal {-status}; is there enough memory?"
                raise InputError(
                    f"tensorflow-datasets failed ({how}), for the reason above if it gave one; nothing of what it did "
                    f"is left in {data_dir}"
                )
            found = prepared.load(version)
            target = files.inside(data_dir, "imagenet2012", version.name)
            try:
                target.parent.mkdir(exist_ok=True)
                version.rename(target)
            except OSError as error:
                raise InputError(f"{target}: cannot be put there ({reason(error)})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    show(f"{target}: {len(found.train):,} training and {len(found.test):,} test images")
    _say_how_to_train(data_dir)


def _build(archives: Path, directory: Path) -> int:
    """Run tensorflow-datasets in a process that does not outlive this function; returns its exit status."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}  # it is not to take a GPU
    process = subprocess.Popen([sys.executable, "-c", _BUILD, str(archives), str(directory)], env=environment)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()  # or it might still write to what is deleted next


def _plan(archives: Path, data_dir: Path) -> list[str]:
    """Print what the preparation needs and what of it is there; returns what is wrong."""
    problems: list[str] = []
    total = 0
    show(f"ImageNet, by tensorflow-datasets, to {data_dir / 'imagenet2012'}")
    for name, examine in ((_TRAIN, _examine_train), (_VALIDATION, _examine_validation), (_TEST, _examine_test)):
        path = archives / name
        if path.is_file():
            total += path.stat().st_size
            try:
                content = f"{_size(path.stat().st_size)}, {examine(path)}"
            except InputError as error:
                content = "will not do"
                problems.append(str(error))
        elif name == _TEST:
            continue
        else:
            content = "missing"
            problems.append(f"there is no {path}: name the folder that holds it by --archives ({_SOURCE})")
        show(f"  {name}: {content}")

    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    show(f"  packages: {', '.join(_PACKAGES.values())}: {'missing: ' + ', '.join(missing) if missing else 'found'}")
    if missing:
        problems.append(
            f"packages that preparing needs (training does not) are missing: pip install {' '.join(missing)}"
        )

    # What is written first and sorted is deleted piece by piece while the result is written.
    needed, place = int(1.02 * total), next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    show(f"  disk: {_size(needed)} are needed (the archives' size; no more while it runs), {_size(free)} are free")
    if free < needed:
        problems.append(f"--data-dir {data_dir}: only {_size(free)} of the {_size(needed)} that are needed are free")
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        problems.append(f"--data-dir {data_dir}: cannot be written to")
    for left in sorted(data_dir.glob(f"{_UNFINISHED}*")):
        show(f"  {left}: is being prepared by another process, or left by one that was killed; then delete it")
    show(
        f"  memory: about 3 GiB; time: about {max(total / _BYTES_PER_SECOND / 60, 1):.0f} min, at the "
        f"{_BYTES_PER_SECOND / 1e6:.0f} MB/s of one core and a local SSD; all is read and written twice"
    )
    return problems


def _examine_train(path: Path) -> str:
    names = _members(path)
    for name in names:
        if not re.fullmatch(r"n\d{8}\.tar", name):
            raise InputError(f"{path}: is not the official archive, which holds nothing like {name!r} ({_SOURCE})")
    return f"{len(names):,} of 1,000 classes"


def _examine_validation(path: Path) -> str:
    names = sorted(_members(path))
    # tensorflow-datasets labels them by their order: one too many or too few would shift all behind it.
    for number, name in enumerate(names, start=1):
        if name != f"ILSVRC2012_val_{number:08}.JPEG":
            raise InputError(
                f"{path}: is not the official archive: it holds {name!r} where image {number} should be ({_SOURCE})"
            )
    return f"{len(names):,} of 50,000 images"


def _examine_test(path: Path) -> str:
    return f"{len(_members(path)):,} images, which have no labels; not needed, but tensorflow-datasets takes them along"


def _members(path: Path) -> list[str]:
    """The names in an archive, of which only the headers are read."""
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            members = tar.getmembers()
            if not members:
                raise tarfile.ReadError("it is empty")
            last = members[-1]
            file.seek(last.offset_data + -(-last.size // 512) * 512)
            if file.read(1024) != bytes(1024):  # cut between two files, it would seem whole without this mark
                raise tarfile.ReadError("the mark at its end is missing")
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path}: is no tar archive, or cut short ({error}): fetch it again ({_SOURCE})") from error
    return [member.name for member in members]


@contextlib.contextmanager
def _ending_like_interrupts():
    """Turn signals that end a program at once into an interruption, as Ctrl-C, after which it cleans up."""

    def interrupt(*_):
        raise KeyboardInterrupt

    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in signals:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)


def _say_how_to_train(data_dir: Path) -> None:
    show(f"lmjax train --config imagenet:lm_resnet50 --data.dir {shlex.quote(str(data_dir))}")


def _size(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"
