"""Data sets that tensorflow-datasets (TFDS) has prepared: their images, undecoded and without TensorFlow.

Of the formats that TFDS writes, it reads array_record without TensorFlow itself. tfrecord, which it writes unless told
otherwise, is read here: every record of a file stands between its length (u64) with a checksum (u32) and a checksum of
its own (u32).
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.errors import InputError, optional_import

_INFO = "dataset_info.json"  # the last file that TFDS writes
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find(name: str | None, directory: Path) -> Path | None:
    """The newest prepared version below a directory of TFDS, which may be named at any of its levels.

    Args:
        name: of the data set; None takes whichever is there.
        directory: what TFDS calls data_dir, or the data set's or the version's folder in it.

    Raises:
        InputError: without a name, if the directory holds several data sets.
    """
    if name is not None and (versions := _versions(directory / name)):
        return versions[-1]
    if (directory / _INFO).is_file():
        return directory
    if versions := _versions(directory):
        return versions[-1]
    if name is not None or not directory.is_dir():
        return None
    found = {folder.name: versions[-1] for folder in sorted(directory.iterdir()) if (versions := _versions(folder))}
    if len(found) > 1:
        raise InputError(
            f"{directory}: holds several prepared data sets ({', '.join(found)}): name one of their folders, as in "
            f"--data.dir {directory / min(found)}"
        )
    return next(iter(found.values()), None)


def _versions(folder: Path) -> list[Path]:
    """The finished versions in a data set's folder, the newest last."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name) and (path / _INFO).is_file()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


class Records:
    """The images of one split, undecoded; what `lmjax.data.Stream` reads.

    Threads may share it. Pickled, it takes along where its records are, but no open file.

    Args:
        builder: of TFDS, for a directory in the array_record or the tfrecord format.
        split: its name.

    Attributes:
        directory, split: what it reads.
        files: those that hold its records.

    Raises:
        InputError: here, or where an image is read, naming a file that is missing, cut short or damaged.
    """

    def __init__(self, builder: Any, split: str):
        from tensorflow_datasets import decode

        info = builder.info.splits[split]
        self._classes = builder.info.features["label"].num_classes
        self.directory, self.split = os.fspath(builder.data_dir), split
        self.files = [os.fspath(path) for path in info.filepaths]
        self._ends = list(itertools.accumulate(info.shard_lengths))
        undecoded = {"image": decode.SkipDecoding()}
        if builder.info.file_format.value == "array_record":
            _parallel(_check_array_record, self.files, info.shard_lengths)
            self._examples = builder.as_data_source(split, decoders=undecoded)
        else:
            self._examples = _TFRecords(self.files, info.shard_lengths, builder.info.features, undecoded)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The content of an image file, and its label."""
        example = self._example(i)
        return example["image"], int(example["label"])

    def place(self, i: int) -> str:
        """What to call image i in a message: the name that its record may have, and where that is."""
        try:
            name = self._example(i).get("file_name")
        except InputError:  # the message is about something else
            name = None
        name = name.decode(errors="replace") if isinstance(name, bytes) else ""
        return f"{self.directory}: image {i}{name and f' ({name})'} of the split {self.split!r}"

    def _example(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        file = self.files[bisect.bisect_right(self._ends, i)]
        try:
            example = self._examples[i]
        except Exception as error:  # a broken file makes the readers of others raise whatever they stumble over
            raise _unreadable(file, error) from error
        image, label = example["image"], example["label"]
        if not isinstance(image, bytes):
            raise _unreadable(file, f"record {i} of the split {self.split!r} holds no image")
        if label is None or not 0 <= label < self._classes:  # one out of range would train a wrong class, or none
            classes = f"there are {self._classes} classes, numbered from 0"
            raise _unreadable(file, f"record {i} of the split {self.split!r} has the label {label}, and {classes}")
        return example


class _TFRecords:
    """The examples in files of the tfrecord format, by their number.

    Args:
        files, lengths: and how many records each of them has.
        features: what TFDS parses a record with.
        decoders: what it decodes the features with.
    """

    def __init__(self, files: list[str], lengths: list[int], features: Any, decoders: dict[str, Any]):
        self._files, self._features, self._decoders = files, features, decoders
        # One array for all files: each adds where its records begin, and where the last one ends.
        self._offsets = np.concatenate(_parallel(_index, files, lengths))
        self._firsts = [0, *itertools.accumulate(lengths)]
        self._reset()

    def _reset(self):
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, i: int) -> dict[str, Any]:
        file = bisect.bisect_right(self._firsts, i) - 1
        begin, end = map(int, self._offsets[i + file : i + file + 2])
        return self._features.deserialize_example_np(
            os.pread(self._descriptor(file), end - begin - 16, begin + 12), decoders=self._decoders
        )

    def _descriptor(self, file: int) -> int:
        if file not in self._open:
            with self._lock:
                if file not in self._open:
                    self._open[file] = os.open(self._files[file], os.O_RDONLY)
        return self._open[file]

    def __del__(self):
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key not in ("_open", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()


def _index(file: str, length: int) -> np.ndarray:
    """Where the records of a tfrecord file begin, and where the last one ends, from the lengths before them."""
    offsets, offset = [0], 0
    try:
        with open(file, "rb", buffering=0) as opened:
            descriptor = opened.fileno()
            if hasattr(os, "posix_fadvise"):  # or reading ahead would read a good part of the data, too
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            size = os.fstat(descriptor).st_size
            while offset < size and len(offsets) <= length:
                offset += 16 + int.from_bytes(os.pread(descriptor, 8, offset), "little")
                offsets.append(offset)
    except OSError as error:
        raise _unreadable(file, error.strerror) from error
    if len(offsets) <= length or offset != size:
        raise _unreadable(file, f"it should hold {length} whole records, and is cut short or damaged")
    return np.int64(offsets)


def _check_array_record(file: str, length: int) -> None:
    """Reads the end of a file, where array_record keeps how many records there are, and closes it again."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(file)
        found = reader.num_records()
        reader.close()
    except RuntimeError as error:
        raise _unreadable(file, error) from error
    if found != length:
        raise _unreadable(file, f"it holds {found} records instead of {length}")


def _parallel(function, *arguments) -> list:
    """A map over files; the disk is what it waits for."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, *arguments))


def _unreadable(file: str, reason: object) -> InputError:
    reason = " ".join(str(reason).split())  # some say it in several lines
    return InputError(f"{file}: cannot be read ({reason}): copy it or prepare the data set again")


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A data set that TFDS has prepared.

    Attributes:
        name: what TFDS calls it.
        classes: the name of each label.
        train, test: its images; those of the split "validation" are taken for tests if there is one.
    """

    name: str
    classes: tuple[str, ...]
    train: Records
    test: Records


def load(directory: Path) -> Prepared:
    """Opens a data set of images and labels that TFDS has prepared.

    Args:
        directory: the version's folder, as `find` gives it.

    Raises:
        InputError: if TFDS is not installed, or the directory is not whole, in a format that needs TensorFlow, or holds
            something else than images with one label each.
    """
    tfds = optional_import(
        "tensorflow_datasets", package="tensorflow-datasets", purpose=f"reading {directory}, prepared by it,"
    )
    again = "prepare the data set again, or name another data.dir"
    try:
        builder = tfds.builder_from_directory(directory)
        features, splits = dict(builder.info.features), builder.info.splits
        files = {split: len(splits[split].filepaths) for split in splits}
    except Exception as error:  # of json, protobuf or TFDS
        reason = " ".join(str(error).split())  # some say it in several lines
        raise InputError(f"{directory}: is only half prepared, or damaged ({reason}): {again}") from error
    image, label = features.get("image"), features.get("label")
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise InputError(f"{directory}: holds no images with one label each; {builder.name} has {', '.join(features)}")
    if len(label.names) != label.num_classes:
        raise InputError(f"{directory}: has names for {len(label.names)} of its {label.num_classes} classes: {again}")
    if image.np_dtype != np.uint8:
        raise InputError(f"{directory}: its images are {np.dtype(image.np_dtype)}, not of 8 bits")
    tests = [split for split in ("validation", "test") if split in splits]
    if "train" not in splits or not tests:
        raise InputError(
            f"{directory}: holds only the splits {', '.join(splits) or '(none)'}; needed are train, and validation or "
            f"test: {again}"
        )
    if builder.info.file_format.value not in ("array_record", "tfrecord"):
        raise InputError(
            f"{directory}: the format {builder.info.file_format.value} cannot be read here: prepare {builder.name} "
            "again with file_format='array_record'"
        )
    for split in ("train", tests[0]):
        if not splits[split].num_examples:
            raise InputError(f"{directory}: the split {split!r} is empty: {again}")
    # The readers close none of them, and ImageNet has more than a thousand.
    allow_open_files(files["train"] + files[tests[0]])
    return Prepared(builder.name, tuple(label.names), Records(builder, "train"), Records(builder, tests[0]))


def allow_open_files(files: int) -> None:
    """Lets this process and those that it starts have that many files open; often, only 1024 are allowed at first."""
    import resource

    needed = files + 512  # what else a program opens
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(f"{files} files must be open at once, but at most {hard} may be: raise the limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
