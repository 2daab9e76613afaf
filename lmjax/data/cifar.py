"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), without pickle and without TensorFlow.

Taken from a directory that tensorflow-datasets has prepared if there is one, else from the official binary archive,
which is fetched once.
"""

import dataclasses
import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from lmjax.data import prepared
from lmjax.data.dataset import Dataset, Split
from lmjax.data.folder import require_directory
from lmjax.data.memory import into_memory
from lmjax.errors import InputError, optional_import

# Channel means and standard deviations as the authors of LM-ResNet have them, for both data sets.
_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32) * 255
_STD = np.array([0.2023, 0.1994, 0.2010], np.float32) * 255
_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Archive:
    """An official binary archive and how its records are laid out.

    Attributes:
        url, sha256: where it is and what it must be.
        folder: the folder inside it.
        train, test: the files of each split.
        names: the file with the names of the classes.
        label_bytes: bytes before the pixels of a record, of which the last one is the label.
        classes: how many classes there are.
    """

    url: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    classes: int

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,  # the coarse label, then the fine one
        classes=100,
    ),
}


def outline(name: str) -> Dataset:
    """CIFAR without its images: all are black, in no memory."""
    classes = tuple(map(str, range(ARCHIVES[name].classes)))
    train, test = (
        Split(np.broadcast_to(np.uint8(0), (count, 32, 32, 3)), np.broadcast_to(np.int32(0), count))
        for count in (50_000, 10_000)
    )
    return Dataset(name, train, test, classes, _MEAN, _STD)


def load_cifar(name: str, directory: str | Path | None = None, on_error: str = "stop") -> Dataset:
    """Load "cifar10" or "cifar100" into memory.

    Args:
        name: which of the two.
        directory: see `lmjax.data.datasets.cifar10`.
        on_error: "stop", or "skip" for what cannot be decoded of what tensorflow-datasets has prepared; an archive is
            whole, or refused.

    Raises:
        InputError: if the directory does not exist, the archive cannot be fetched, or its content is not what it
            should be.
    """
    if directory is not None:
        directory = require_directory(directory)
        version = prepared.find(name, directory)
        if version is not None:
            return _from_tfds(name, version, on_error)
        if (directory / "train").is_dir():
            raise InputError(f"{directory} holds a folder of images: use --data.name folder to train on it")
    archive = ARCHIVES[name]
    path = None if directory is None else directory / archive.filename
    if path is None or not path.exists():
        path = _fetch(archive, directory)
    return _from_archive(name, archive, path)


def _from_tfds(name: str, directory: Path, on_error: str) -> Dataset:
    found = prepared.load(directory, name=name)
    dataset = into_memory(name, found.train, found.test, found.classes, on_error=on_error, mean=_MEAN, std=_STD)
    if dataset.shape != (32, 32, 3):
        height, width, _ = dataset.shape
        raise InputError(f"{directory}: its images are {width} x {height} pixels, not 32 x 32: prepare {name} again")
    return dataset


def _fetch(archive: Archive, directory: Path | None) -> Path:
    """Download the archive once, check it against its SHA-256, and move it into place only when it is whole."""
    pooch = optional_import("pooch", package="pooch", purpose="downloading CIFAR")
    by_hand = f"or put {archive.filename} from {archive.url} into a folder and name it with --data.dir"
    folder = Path(pooch.os_cache("lmjax")) if directory is None else directory
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=f"sha256:{archive.sha256}",
            fname=archive.filename,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=20),
        )
    except ValueError as error:  # pooch's word for a checksum that differs
        raise InputError(
            f"{archive.url}: the download is not the official archive (its SHA-256 differs): try again, {by_hand}"
        ) from error
    except OSError as error:  # connections refused, cut or timed out, and disks that are full or read-only
        raise InputError(
            f"{archive.url}: cannot be downloaded into {folder} ({_reason(error)}): "
            f"check the connection and the disk, {by_hand}"
        ) from error
    return Path(path)


def _reason(error: BaseException) -> str:
    """The innermost cause, which says what happened without the layers that passed it on."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def _from_archive(name: str, archive: Archive, path: Path) -> Dataset:
    again = "delete it, and it is fetched again"
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != archive.sha256:
                raise InputError(f"{path}: is not the official archive, or damaged (its SHA-256 differs): {again}")
        with tarfile.open(path, "r:gz") as tar:
            wanted = {f"{archive.folder}/{file}" for file in (*archive.train, *archive.test, archive.names)}
            content = {
                member.name: file.read()
                for member in tar
                if member.isfile() and member.name in wanted and (file := tar.extractfile(member))
            }
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a tar.gz archive ({error}): {again}") from error
    missing = sorted(wanted - content.keys())
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)} (it must be the *binary* version): {again}")

    def split(files):
        record = archive.label_bytes + _PIXELS
        raw = b"".join(content[f"{archive.folder}/{file}"] for file in files)
        if len(raw) % record:
            raise InputError(f"{path}: {', '.join(files)} do not hold whole records of {record} bytes: {again}")
        records = np.frombuffer(raw, np.uint8).reshape(-1, record)
        images = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), records[:, archive.label_bytes - 1].astype(np.int32))

    names = tuple(content[f"{archive.folder}/{archive.names}"].decode(errors="replace").split())
    if len(names) != archive.classes:
        raise InputError(f"{path}: names {len(names)} classes instead of {archive.classes}: {again}")
    return Dataset(name, split(archive.train), split(archive.test), names, _MEAN, _STD)
