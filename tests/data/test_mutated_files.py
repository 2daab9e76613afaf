"""Files of data that are damaged, or made to do damage: each gives images, or an `InputError` that names it."""

import contextlib
import io
import json
import os
import socket
import struct
import tarfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from lmjax import InputError
from lmjax.data import Loader, Stream, load, prepared
from lmjax.data.crops import random_box
from lmjax.data.decode import DECODERS, BrokenImage
from tests.data import handmade
from tests.data.test_cifar import make_archive, official, put  # noqa: F401 (fixtures)

pytestmark = pytest.mark.versions
check = settings(derandomize=True, deadline=None, max_examples=100)

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8))


def encode(kind, mode="RGB", **options):
    file = io.BytesIO()
    PICTURE.convert(mode).save(file, kind, **options)
    return file.getvalue()


SIXTEEN_BITS = io.BytesIO()
Image.fromarray(np.full((16, 12), 40_000, np.uint16)).save(SIXTEEN_BITS, "PNG")
SEVERAL = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
FILES = {
    "JPEG": encode("JPEG"),
    "progressive JPEG": encode("JPEG", progressive=True),
    "gray JPEG": encode("JPEG", "L"),
    "CMYK JPEG": encode("JPEG", "CMYK"),
    "PNG": encode("PNG"),
    "PNG with a palette": encode("PNG", "P"),
    "PNG with transparency": encode("PNG", "LA"),
    "PNG of 1 bit": encode("PNG", "1"),
    "PNG of 16 bits": SIXTEEN_BITS.getvalue(),
    "animated PNG": encode("PNG", **SEVERAL),
    "animated GIF": encode("GIF", **SEVERAL),
    "BMP": encode("BMP"),
    "WebP": encode("WEBP"),
}


def changes(data):
    """One way to damage bytes."""
    place = st.integers(0, len(data))
    part = st.tuples(place, place).map(sorted)
    return st.one_of(
        place.map(lambda i: data[:i]),
        part.map(lambda p: data[: p[0]] + data[p[1] :]),
        part.map(lambda p: data[: p[1]] + data[p[0] :]),  # a part of it twice
        st.tuples(place, st.binary(min_size=1, max_size=8)).map(lambda p: data[: p[0]] + p[1] + data[p[0] :]),
        st.tuples(place, st.binary(min_size=1, max_size=8)).map(
            lambda p: data[: p[0]] + p[1] + data[p[0] + len(p[1]) :]
        ),
        st.binary(max_size=64).map(lambda header: header + data[len(header) :]),
    )


def mutated(datas):
    return st.sampled_from(datas).flatmap(changes).flatmap(lambda data: st.just(data) | changes(data))


@pytest.fixture(params=DECODERS)
def decoder(request):
    if request.param == "turbo":
        pytest.importorskip("simplejpeg")
        pytest.importorskip("cv2")
    return request.param


def test_damaged_images_are_decoded_or_broken(decoder):
    rng = np.random.default_rng(0)

    @check
    @given(mutated(list(FILES.values())))
    @pytest.mark.filterwarnings("ignore")
    def holds(data):
        with contextlib.suppress(BrokenImage):
            image = DECODERS[decoder](data)
            crop = image.crop(random_box(rng, *image.size), 8)
            assert (crop.shape, crop.dtype) == ((8, 8, 3), np.uint8)

    holds()


def damaged_folder(tmp_path, write, name="x.jpg"):
    """Two good images of each class, and what `write` makes."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(2):
                PICTURE.save(tmp_path / split / label / f"{i}.png")
    path = tmp_path / "train" / "a" / name
    write(path)
    return path


def test_damaged_images_of_a_folder_are_decoded_or_named(tmp_path):
    path = damaged_folder(tmp_path, lambda path: path.touch())

    @settings(check, max_examples=50)
    @given(mutated(list(FILES.values())))
    def holds(data):
        path.write_bytes(data)
        try:
            assert load("folder", directory=tmp_path).train.images.shape == (5, 16, 12, 3)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017

    holds()


def bomb(kind):
    """A small file that says it holds 60,000 x 60,000 pixels."""
    data = bytearray(FILES[kind])
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


NO_IMAGE = "it is no image that Pillow knows"
BROKEN = [
    ("it is empty", lambda path: path.touch()),
    (NO_IMAGE, lambda path: path.write_text("no image")),
    (NO_IMAGE, lambda path: path.write_bytes(np.random.default_rng(1).bytes(1000))),
    (NO_IMAGE, lambda path: path.write_bytes(make_archive("cifar10")[:3000])),
    ("decompression bomb", lambda path: path.write_bytes(bomb("PNG"))),
    ("decompression bomb", lambda path: path.write_bytes(bomb("JPEG"))),
    ("it has more than 8 bits a channel", lambda path: path.write_bytes(FILES["PNG of 16 bits"])),
    ("it is PostScript, a program", lambda path: path.write_bytes(encode("EPS"))),
    ("it is a folder", lambda path: path.mkdir()),
    ("it is a link to nothing", lambda path: path.symlink_to("nothing")),
    ("it is a link to nothing", lambda path: path.symlink_to(path.name)),
    ("it is a pipe or a device", lambda path: os.mkfifo(path)),
    ("it is a pipe or a device", lambda path: path.symlink_to("/dev/zero")),
]


@pytest.mark.parametrize(("message", "write"), BROKEN)
def test_what_is_no_image_is_named_or_skipped(tmp_path, message, write):
    path = damaged_folder(tmp_path, write)
    with pytest.raises(InputError) as error:
        load("folder", directory=tmp_path)
    said = str(error.value)
    assert said.startswith(f"{path}: cannot be decoded (")
    assert message in said
    assert said.endswith("): replace or delete it, or give --data.on-error skip")
    pytest.importorskip("grain")
    data = load("photographs(8)", directory=tmp_path)
    index = [data.train.place(i) for i in range(5)].index(str(path))
    for min_area, decoder in ((0.5, "pillow"), (0.5, "turbo"), (None, "pillow")):  # training, and evaluation
        stop, skip = (Loader(data.train, 8, decoder, min_area, skip=skip) for skip in (False, True))
        seed = None if min_area is None else 0
        with pytest.raises(InputError) as error:
            Stream(stop, 5, seed=seed)[0]
        assert str(error.value).startswith(f"{path}: cannot be decoded (")
        assert message in str(error.value)
        batch = Stream(skip, 5, seed=seed)[0]
        assert batch["image"].shape == (5, 8, 8, 3)
        assert batch["broken"][batch["broken"] >= 0].tolist() == [index]
        assert (batch["label"] == -1).sum() == (min_area is None)


def test_a_pipe_that_holds_an_image_and_a_socket_are_waited_for_no_longer(tmp_path, monkeypatch):
    path = damaged_folder(tmp_path, os.mkfifo)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, FILES["JPEG"])
    with pytest.raises(InputError, match="it is a pipe or a device"):
        load("folder", directory=tmp_path)
    os.close(writer)
    path.unlink()
    monkeypatch.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    with pytest.raises(InputError, match=rf"{path}: cannot be decoded \(it is a socket"):
        load("folder", directory=tmp_path)
    assert load("folder", directory=tmp_path, on_error="skip").broken == (str(path),)


def test_no_other_program_decodes_an_image(tmp_path, monkeypatch):
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    damaged_folder(tmp_path / "data", lambda path: path.write_bytes(encode("EPS")))
    with pytest.raises(InputError, match="PostScript"):
        load("folder", directory=tmp_path / "data")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"n" * 251 + b".jpg", "ж.jpg".encode()])
def test_unusual_names(tmp_path, name):
    path = damaged_folder(tmp_path, lambda path: path.write_bytes(FILES["JPEG"]), name=os.fsdecode(name))
    assert len(load("folder", directory=tmp_path).train) == 5
    path.write_text("no image")
    with pytest.raises(InputError) as error:
        load("folder", directory=tmp_path)
    assert str(error.value).startswith(f"{path}: cannot be decoded")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("place", ["", "train", "train/a", "train/a/x.jpg"])
def test_what_must_not_be_read_is_named(tmp_path, place):
    damaged_folder(tmp_path, lambda path: path.write_bytes(FILES["JPEG"]))
    (tmp_path / place).chmod(0)
    try:
        for name in ("folder", "photographs(8)"):
            with pytest.raises(InputError, match=str(tmp_path / place)):
                load(name, directory=tmp_path).train[4]
    finally:
        (tmp_path / place).chmod(0o755)


@pytest.mark.parametrize("name", ["folder", "photographs", "cifar10", "tfds(mnist)"])
def test_names_of_no_directory(name):
    for directory in ("a\0b", "\ud800", "x" * 5000, "~nobody-of-this-name/x", "/nowhere/at/all"):
        with pytest.raises(InputError, match=r"data\.dir: there is no directory"):
            load(name, directory=directory)


@pytest.mark.parametrize("size", [0, 2**16, 10**12])
def test_sizes_of_no_image(tmp_path, size):
    damaged_folder(tmp_path, lambda path: path.write_bytes(FILES["JPEG"]))
    with pytest.raises(InputError, match=r"size must be from 1 to 65535 pixels|size must be a whole number"):
        load(f"folder({size})", directory=tmp_path)


def test_more_images_than_memory(tmp_path, monkeypatch):
    damaged_folder(tmp_path, lambda path: path.write_bytes(FILES["JPEG"]))

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("lmjax.data.memory.np.empty", full)
    with pytest.raises(
        InputError, match=r"train/a/0.png: 5 images of 12 x 16 pixels do not fit into memory: .*folder\(32\)"
    ):
        load("folder", directory=tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "null", "{}", '{"shorter_side": 1e999, "complete": true}', "\ufeff{}", "9" * 5000, None],
)
def test_damaged_note_of_a_smaller_copy(tmp_path, text):
    damaged_folder(tmp_path, lambda path: path.write_bytes(FILES["JPEG"]))
    note = tmp_path / "resized.json"
    note.mkdir() if text is None else note.write_text(text)
    with pytest.raises(InputError, match=f"^{note}: "):
        load("photographs(8)", directory=tmp_path)


def test_damaged_archives_of_cifar(tmp_path, put):  # noqa: F811
    """Only the official one is read at all; this is what would be if it were another."""
    whole = make_archive("cifar10")

    @settings(check, max_examples=25)
    @given(changes(whole))
    def holds(data):
        path = put(data)
        try:
            assert load("cifar10", directory=tmp_path).shape == (32, 32, 3)
        except InputError as error:
            assert str(path) in str(error) or str(error).startswith("cifar10: the")  # noqa: PT017

    holds()


def test_an_archive_writes_nothing_anywhere(tmp_path, put):  # noqa: F811
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("../escaped", str(tmp_path / "absolute"), "cifar-10-batches-bin/batches.meta.txt"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    path = put(buffer.getvalue())
    with pytest.raises(InputError, match=r"lacks .*test_batch\.bin"):
        load("cifar10", directory=tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path.parent / "escaped").exists()


RECORDS = [{"image": encode("PNG"), "label": i % 2, "file_name": f"{i}.png"} for i in range(4)]


@pytest.fixture(params=["array_record", "tfrecord"])
def version(tmp_path, request):
    """A version's folder, as tensorflow-datasets leaves it behind."""
    pytest.importorskip("tensorflow_datasets")
    version = tmp_path / "mine" / "1.0.0"
    handmade.prepare(version, {"train": RECORDS, "test": RECORDS[:2]}, file_format=request.param, shards=2)
    return version


def read_all(version):
    """Reads every image, or raises an InputError that names a place in the folder."""
    try:
        data = prepared.load(version)
        for records in (data.train, data.test):
            for i in range(len(records)):
                image, label = records[i]
                assert isinstance(image, bytes)
                assert 0 <= label < len(data.classes)
                assert str(version) in records.place(i)
    except InputError as error:
        assert str(version) in str(error)  # noqa: PT017
        assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_damaged_files_of_prepared_images(version):
    paths = sorted(version.iterdir())
    whole = {path: path.read_bytes() for path in paths}

    @settings(check, max_examples=30)
    @given(st.sampled_from(paths).flatmap(lambda path: st.tuples(st.just(path), changes(whole[path]))))
    def holds(change):
        path, data = change
        path.write_bytes(data)
        read_all(version)
        path.write_bytes(whole[path])

    holds()


def places(values, path=()):
    """Every place in JSON values."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_other_values_in_what_describes_prepared_images(version, name):
    text = (version / name).read_text()
    values = st.sampled_from([None, True, -1, 0, 7, 10**30, 1.5, "", "x", "{X}", "9999999999", [], {}, ["a"]])

    @settings(check, max_examples=30)
    @given(st.sampled_from(list(places(json.loads(text)))), values)
    def holds(place, value):
        table = json.loads(text)
        inner = table
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        (version / name).write_text(json.dumps(table))
        read_all(version)

    holds()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "record 3 of the split 'train' has the label 2, and there are 2 classes"),
        ({"label": -1}, "record 3 of the split 'train' has the label -1, and there are 2 classes"),
        ({"label": None}, "record 3 of the split 'train' has the label None"),
        ({"image": None}, "record 3 of the split 'train' holds no image"),
        ({"image": 3}, "record 3 of the split 'train' holds no image"),
        ({"file_name": None}, None),
        ({"file_name": 3}, None),
        ({"file_name": b"\xff"}, None),
    ],
)
def test_records_with_other_values(tmp_path, change, message):
    pytest.importorskip("tensorflow_datasets")
    record = {key: value for key, value in (RECORDS[3] | change).items() if value is not None}
    handmade.prepare(tmp_path / "mine" / "1.0.0", {"train": [*RECORDS[:3], record], "test": RECORDS})
    records = prepared.load(tmp_path / "mine" / "1.0.0").train
    assert "image 3" in records.place(3)
    if message is None:
        assert records[3] == (RECORDS[3]["image"], 1)
    else:
        with pytest.raises(InputError, match=message):
            records[3]


def test_prepared_images_of_another_size_are_no_cifar(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    splits = {"train": RECORDS, "test": RECORDS}
    handmade.prepare(tmp_path / "cifar10" / "3.0.2", splits, classes=[f"class{i}" for i in range(10)])
    with pytest.raises(
        InputError, match=r"cifar10/3\.0\.2: its images are 12 x 16 pixels, not 32 x 32: prepare cifar10 again"
    ):
        load("cifar10", directory=tmp_path)
