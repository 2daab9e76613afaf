"""Data sets that tensorflow-datasets (TFDS) has prepared: their images, undecoded and without TensorFlow.

The files that describe a data set are read here, as data: TFDS itself would import the Python modules that
features.json names.

Of the formats that TFDS writes, array_record has a reader of its own. tfrecord, which TFDS writes unless told
otherwise, is read here: every record of a file stands between its length (u64) with a checksum (u32) and a checksum of
its own (u32).
"""

import bisect
import concurrent.futures
import dataclasses
import itertools
import json
import os
import re
import shlex
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from lmjax import files
from lmjax.data.folder import require_directory
from lmjax.data.source import Source, hold_out
from lmjax.errors import InputError, optional_import

_INFO = "dataset_info.json"  # the last file that TFDS writes
_NAME = re.compile(r"\w+(/\w[\w.+-]*)?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_AGAIN = "prepare the data set again, or name another data.dir"
_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


def find(name: str | None, directory: Path) -> Path | None:
    """The newest prepared version below a directory of TFDS, which may be named at any of its levels.

    Args:
        name: of the data set, as "mnist" or "imagenet_resized/32x32"; None takes whichever is there.
        directory: what TFDS calls data_dir, or the data set's or the version's folder in it.

    Raises:
        InputError: if the directory holds several data sets without a name, or several variants of the set.
    """
    parts = () if name is None else tuple(name.split("/"))
    places = [directory.joinpath(*parts[skipped:]) for skipped in range(len(parts) + 1)]
    for place in places:
        if versions := _versions(place):
            return versions[-1]
        if (place / _INFO).is_file():
            return place
    for place in [p for p in places if name is None or p.name == parts[-1]]:  # it holds variants of the set, or sets
        folders = sorted(place.iterdir()) if place.is_dir() else []
        found = {folder.name: versions[-1] for folder in folders if (versions := _versions(folder))}
        if len(found) > 1:
            raise InputError(
                f"{place}: holds several prepared data sets ({', '.join(found)}): name one of their folders, as in "
                f"--data.dir {place / min(found)}"
            )
        if found:
            return next(iter(found.values()))
    return None


def require_name(kind: str, name: str) -> None:
    """Raise InputError if TFDS cannot have a data set of that name."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{kind}: the name must be that of a data set of tensorflow-datasets, as in tfds(mnist) or "
            f"tfds('imagenet_resized/32x32'), got {name!r}"
        )


def require(name: str, directory: str | Path | None) -> Path:
    """The newest prepared version of a data set.

    Args:
        name: what TFDS calls it.
        directory: see `find`; None: where TFDS prepares a data set unless told otherwise.

    Raises:
        InputError: if there is none, with the command that prepares it.
    """
    if directory is None:
        root = files.local(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR:")
    else:
        root = require_directory(directory)
    if (found := find(name, root)) is not None:
        return found
    place = "" if directory is None else f", data_dir={json.dumps(os.fspath(root))}"
    program = (
        f'import tensorflow_datasets as tfds; tfds.builder("{name}"{place}).download_and_prepare('
        'file_format="array_record")'
    )
    raise InputError(
        f"data.dir: {name} is not prepared in {root}: name the folder that has it, or prepare it, which needs "
        f"tensorflow-datasets and TensorFlow: python -c {shlex.quote(program)}"
    )


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
        directory, split: the folder of the data set, and the name of the split; also attributes.
        files: the paths of its files; also an attribute.
        lengths: the number of records in each file.
        classes: the number of classes.
        file_format: "array_record" or "tfrecord".

    Raises:
        InputError: here, or where an image is read, naming a file that is missing, cut short or damaged.
    """

    def __init__(
        self, directory: Path, split: str, files: list[str], lengths: list[int], classes: int, file_format: str
    ):
        self.directory, self.split, self.files = os.fspath(directory), split, files
        self._classes, self._ends = classes, list(itertools.accumulate(lengths))
        if file_format == "array_record":
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            _parallel(_check_array_record, files, lengths)
            # In a path alone, brackets could mean a part of a file.
            shards = zip(files, lengths, strict=True)
            whole = [SimpleNamespace(filename=file, skip=0, take=n, examples_in_shard=n) for file, n in shards]
            self._records = ArrayRecordDataSource(whole)
        else:
            self._records = _TFRecords(files, lengths)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The content of an image file, and its label."""
        return self._read(i)[:2]

    def place(self, i: int) -> str:
        """The name of image i in messages: that of its record, if it has one, and its place."""
        try:
            name = "".join(filter(str.isprintable, self._read(i)[2]))
        except InputError:  # the message is about something else
            name = ""
        return f"{self.directory}: image {i}{name and f' ({name})'} of the split {self.split!r}"

    def _read(self, i: int) -> tuple[bytes, int, str]:
        from tensorflow_datasets.proto import tf_example_pb2

        if not 0 <= i < len(self):
            raise IndexError(i)
        file = self.files[bisect.bisect_right(self._ends, i)]
        try:
            # Protobuf makes the class when it is imported.
            # pyrefly: ignore[missing-attribute]
            values = tf_example_pb2.Example.FromString(self._records[i]).features.feature
        except Exception as error:  # a broken file makes the readers of others raise whatever they stumble over
            raise _unreadable(file, error) from error
        images, labels = values["image"].bytes_list.value, values["label"].int64_list.value
        if len(images) != 1:
            raise _unreadable(file, f"record {i} of the split {self.split!r} holds no image")
        label = labels[0] if len(labels) == 1 else None
        if label is None or not 0 <= label < self._classes:  # one out of range would train a wrong class, or none
            classes = f"there are {self._classes} classes, numbered from 0"
            raise _unreadable(file, f"record {i} of the split {self.split!r} has the label {label}, and {classes}")
        return images[0], label, b"".join(values["file_name"].bytes_list.value).decode(errors="replace")


class _TFRecords:
    """The records in files of the tfrecord format, by their number.

    Args:
        files, lengths: and how many records each of them has.
    """

    def __init__(self, files: list[str], lengths: list[int]):
        self._files = files
        # One array for all files: each adds where its records begin, and where the last one ends.
        self._offsets = np.concatenate(_parallel(_index, files, lengths))
        self._firsts = [0, *itertools.accumulate(lengths)]
        self._reset()

    def _reset(self):
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, i: int) -> bytes:
        file = bisect.bisect_right(self._firsts, i) - 1
        begin, end = map(int, self._offsets[i + file : i + file + 2])
        return os.pread(self._descriptor(file), end - begin - 16, begin + 12)

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
    """The offsets of the records of a tfrecord file and of its end, from the lengths before them."""
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
    return np.array(offsets, np.int64)


def _check_array_record(file: str, length: int) -> None:
    """Read the end of a file, where array_record keeps how many records there are, and close it again."""
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
        train, test: its images.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    test: Source


def load(
    directory: Path,
    *,
    name: str | None = None,
    tests: tuple[str, ...] = ("validation", "test"),
    val_split: float | None = None,
) -> Prepared:
    """Open a data set of images and labels that TFDS has prepared.

    Args:
        directory: the version's folder, as `find` gives it.
        name: of the data set; None for whichever it is.
        tests: the splits that may be tested on, the best first.
        val_split: see `hold_out`.

    Raises:
        InputError: if TFDS is not installed, or the directory is not whole, in a format that needs TensorFlow, of
            another data set, or holds something else than images with one label each.
    """
    optional_import(
        "tensorflow_datasets", package="tensorflow-datasets", purpose=f"reading {directory}, prepared by it,"
    )
    info = _info(directory)
    if name is not None and name not in (info.name, info.name.partition("/")[0]):
        raise InputError(f"{directory} holds {info.name}, not {name}: name another data.dir")
    if "train" not in info.splits:
        raise InputError(f"{directory}: has no split 'train', only {', '.join(info.splits) or '(none)'}: {_AGAIN}")
    if info.file_format not in ("array_record", "tfrecord"):
        raise InputError(
            f"{directory}: the format {info.file_format} cannot be read here: prepare {info.name} again with "
            "file_format='array_record'"
        )
    tested = [split for split in tests if split in info.splits][:1]
    used = {split: info.splits[split] for split in ("train", *tested)}
    for split, (_, lengths) in used.items():
        if not sum(lengths):
            raise InputError(f"{directory}: the split {split!r} is empty: {_AGAIN}")
    # The readers close none of them, and ImageNet has more than a thousand.
    allow_open_files(sum(len(files) for files, _ in used.values()))
    count = len(info.classes)
    train, *test = (Records(directory, split, *shards, count, info.file_format) for split, shards in used.items())
    part = f"split {' or '.join(map(repr, tested or tests))}"
    return Prepared(info.name, info.classes, *hold_out(train, test[0] if test else None, val_split, directory, part))


class _Info(NamedTuple):
    """The description of a data set, from the files beside its records."""

    name: str  # with that of its variant: "imagenet_resized/32x32"
    file_format: str
    splits: dict[str, tuple[list[str], list[int]]]  # files, and the number of records in each
    classes: tuple[str, ...]


def _info(directory: Path) -> _Info:
    """The description of images with one label each.

    Raises:
        InputError: if it is not whole, or of something else.
    """
    try:
        info = json.loads(files.read(directory / _INFO))
        name = "/".join(filter(None, (info["name"], info.get("configName"))))
        file_format = info.get("fileFormat") or "tfrecord"
        splits = {
            split["name"]: _shards(directory, info["name"], file_format, split) for split in info.get("splits", [])
        }
        _, features = _feature(json.loads(files.read(directory / "features.json")))
        features = features.get("features", features)
        if not all(map(str.isprintable, (name, file_format, *splits, *features))):
            raise ValueError("a name in it cannot be printed")
        kinds = {key: _feature(features[key]) for key in ("image", "label") if key in features}
        if [kind for kind, _ in kinds.values()] != [_IMAGE, _LABEL]:
            raise InputError(f"{directory}: holds no images with one label each; {name} has {', '.join(features)}")
        (_, image), (_, label) = kinds.values()
        dtype, count = image["dtype"], int(label.get("numClasses") or label["num_classes"])
        classes = _class_names(directory / "label.labels.txt", count)
    except InputError:
        raise
    except Exception as error:  # whatever else the files hold than they should
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # some say it in several lines
        raise InputError(f"{directory}: is only half prepared, or damaged ({reason}): {_AGAIN}") from error
    if len(classes) != count:
        raise InputError(f"{directory}: has names for {len(classes)} of its {count} classes: {_AGAIN}")
    if dtype != "uint8":
        raise InputError(f"{directory}: its images are {dtype!r}, not of 8 bits")
    return _Info(name, file_format, splits, classes)


def _shards(directory: Path, name: str, file_format: str, split: dict) -> tuple[list[str], list[int]]:
    """The files of a split, all of them directly in the data set's folder, and how many records each of them has."""
    lengths = [int(length) for length in split.get("shardLengths", [])]
    if any(length < 0 for length in lengths):
        raise ValueError(f"{min(lengths)} records")
    digits = max(5, len(str(len(lengths))))
    file = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    for variable, value in (
        ("DATASET", name),
        ("SPLIT", split["name"]),
        ("FILEFORMAT", file_format),
        ("SHARD_X_OF_Y", "{SHARD_INDEX}-of-{NUM_SHARDS}"),
        ("NUM_SHARDS", f"{len(lengths):0{digits}}"),
    ):
        file = file.replace(f"{{{variable}}}", value)
    if "/" in file or not file.isprintable():
        raise ValueError(f"{file!r} is no file directly in it")
    files = [file.replace("{SHARD_INDEX}", f"{i:0{digits}}") for i in range(len(lengths))]
    return [os.fspath(directory / file) for file in files], lengths


def _feature(feature: dict) -> tuple[str, dict]:
    """The class of a feature and what else features.json says of it, in any of the forms that TFDS has written."""
    if "type" in feature:  # older; a message of protobuf may be text in it
        content = feature["content"]
        return feature["type"], json.loads(content) if isinstance(content, str) else content
    (content,) = (value for value in feature.values() if isinstance(value, dict))
    return feature.get("pythonClassName") or feature["python_class_name"], content


def _class_names(file: Path, count: int) -> tuple[str, ...]:
    """The names of the classes; their numbers if there is no file of names."""
    if file.exists():
        return tuple(line.strip() for line in files.read(file).split("\n") if line.strip())
    if count > 10**6:
        raise ValueError(f"{count} classes without names")
    return tuple(map(str, range(count)))


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
