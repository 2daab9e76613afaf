"""CIFAR from a small archive of the official layout, served by a local server that can misbehave, and from TFDS."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError
from lmjax.data import cifar, load
from tests.data import handmade

RECORDS = 4
rng = np.random.default_rng(0)
PIXELS = {"train": rng.integers(0, 256, (5 * RECORDS, 32, 32, 3), np.uint8)}
PIXELS["test"] = rng.integers(0, 256, (RECORDS, 32, 32, 3), np.uint8)


def records(images, labels, label_bytes):
    """As the official files have them: labels, then the red, the green and the blue plane."""
    prefix = bytes(label_bytes - 1)  # CIFAR-100's coarse label
    return b"".join(prefix + bytes([y]) + x.transpose(2, 0, 1).tobytes() for x, y in zip(images, labels, strict=True))


def make_archive(name, *, leave_out=(), cut=0, names=None):
    layout = cifar.ARCHIVES[name]
    labels = {split: np.arange(len(x)) % layout.classes for split, x in PIXELS.items()}
    per_file = len(PIXELS["train"]) // len(layout.train)
    files = {
        file: records(*(x["train"][i * per_file : (i + 1) * per_file] for x in (PIXELS, labels)), layout.label_bytes)
        for i, file in enumerate(layout.train)
    }
    files[layout.test[0]] = records(PIXELS["test"], labels["test"], layout.label_bytes)
    names = [f"class{i}" for i in range(layout.classes)] if names is None else names
    files[layout.names] = ("\n".join(names) + "\n\n").encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in files.items():
            if file not in leave_out:
                content = content[: len(content) - cut] if file == layout.test[0] else content
                member = tarfile.TarInfo(f"{layout.folder}/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@contextlib.contextmanager
def serve(content, *, cut=0):
    """A server on this machine that answers every request with `content`, breaking off `cut` bytes before the end."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - cut])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def official(monkeypatch):
    """Takes an archive for the official one of a data set, and a server for its place."""

    def official(content, url="http://127.0.0.1:1", name="cifar10"):
        archive = cifar.ARCHIVES[name]
        digest = hashlib.sha256(content).hexdigest()
        changed = dataclasses.replace(archive, url=f"{url}/{archive.filename}", sha256=digest)
        monkeypatch.setitem(cifar.ARCHIVES, name, changed)
        return changed

    return official


@pytest.fixture
def put(official, tmp_path):
    """Puts an archive into the folder by hand."""

    def put(content):
        path = tmp_path / official(content).filename
        path.write_bytes(content)
        return path

    return put


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_downloads_once(tmp_path, official, name):
    content = make_archive(name)
    with serve(content) as (url, requests):
        archive = official(content, url, name)
        dataset = load(name, directory=tmp_path)
        again = load(name, directory=tmp_path)
    assert len(requests) == 1
    assert [p.name for p in tmp_path.iterdir()] == [archive.filename]
    np.testing.assert_array_equal(dataset.train.images, PIXELS["train"])
    np.testing.assert_array_equal(again.test.images, PIXELS["test"])
    assert dataset.train.labels.tolist() == [i % archive.classes for i in range(20)]
    assert dataset.classes[-1] == f"class{archive.classes - 1}"


def test_archive_put_there_by_hand_is_used(tmp_path, put):
    path = put(make_archive("cifar10"))
    assert len(load("cifar10", directory=tmp_path).train) == 20
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not the official archive, or damaged \(its SHA-256 differs\)"):
        load("cifar10", directory=tmp_path)


def test_a_download_that_is_cut_or_another_archive_leaves_nothing(tmp_path, official):
    content = make_archive("cifar10")
    with serve(content, cut=1000) as (url, _):
        official(content, url)
        with pytest.raises(InputError, match="cannot be downloaded into"):
            load("cifar10", directory=tmp_path)
    with serve(content) as (url, _):
        official(b"something else", url)
        with pytest.raises(InputError, match=r"not the official archive \(its SHA-256 differs\).*--data\.dir"):
            load("cifar10", directory=tmp_path)
        assert list(tmp_path.iterdir()) == []
        official(content, url)
        assert len(load("cifar10", directory=tmp_path).train) == 20


def test_offline_fails_at_once(tmp_path, official, monkeypatch):
    monkeypatch.setattr("pooch.core.time", None)  # so that a second attempt after a pause would fail
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening
        official(b"", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(InputError, match=r"Connection refused.*put cifar-10-binary\.tar\.gz from http"):
            load("cifar10", directory=tmp_path)


def test_archives_that_will_not_do(tmp_path, put):
    whole, said = make_archive("cifar10"), "cannot be read as a tar.gz archive"
    for content, message in (
        (make_archive("cifar10", leave_out=("data_batch_3.bin",)), "lacks cifar-10-batches-bin/data_batch_3.bin"),
        (make_archive("cifar10", cut=7), "test_batch.bin do not hold whole records"),
        (make_archive("cifar10", names=["a", "b"]), "names 2 classes instead of 10"),
        (whole[:100], said),
        (whole[:-100], said),
    ):
        path = put(content)
        with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
            load("cifar10", directory=tmp_path)


def test_folder_of_images_is_not_mistaken_for_a_place_to_download_to(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"--data\.name folder"):
        load("cifar10", directory=tmp_path)


@pytest.fixture(params=["array_record", "tfrecord"])
def prepared(tmp_path, request):
    """As tensorflow-datasets leaves it behind, in the format that it writes unless told otherwise, and in the other."""
    pytest.importorskip("tensorflow_datasets")
    splits = {}
    for split, images in PIXELS.items():
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            Image.fromarray(image).save(file, "PNG")
        splits[split] = [{"image": file.getvalue(), "label": i % 10} for i, file in enumerate(files)]
    classes = [f"class{i}" for i in range(10)]
    handmade.prepare(tmp_path / "cifar10" / "3.0.2", splits, file_format=request.param, classes=classes)
    return tmp_path


def test_reads_what_tfds_has_prepared(prepared):
    for below in ("", "cifar10", "cifar10/3.0.2"):
        dataset = load("cifar10", directory=prepared / below)
        np.testing.assert_array_equal(dataset.train.images, PIXELS["train"])
        np.testing.assert_array_equal(dataset.test.labels, np.arange(RECORDS))
        assert dataset.classes == tuple(f"class{i}" for i in range(10))
    with pytest.raises(InputError, match="holds cifar10, not cifar100"):
        load("cifar100", directory=prepared / "cifar10")
