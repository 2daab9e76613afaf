"""Reading what tensorflow-datasets has prepared, in both formats, whole and broken, from threads and processes."""

import concurrent.futures
import json
import multiprocessing
import pickle
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from lmjax import InputError
from lmjax.data import prepared
from tests.data import handmade

tfds = pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.versions

FORMATS = ("array_record", "tfrecord")
rng = np.random.default_rng(0)
RECORDS = [{"image": rng.bytes(rng.integers(1, 3000)), "label": i % 2, "file_name": f"n0_{i}.JPEG"} for i in range(20)]
SPLITS = {"train": RECORDS[:15], "validation": RECORDS[15:], "test": [r | {"label": -1} for r in RECORDS[:2]]}


@pytest.fixture(params=FORMATS)
def directory(tmp_path, request):
    directory = tmp_path / "imagenet2012" / "5.1.0"
    handmade.prepare(directory, SPLITS, file_format=request.param, shards=2)
    return directory


def content(records):
    return [(record["image"], record["label"]) for record in records]


def test_images_are_as_they_were_written(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # it is not needed
    found = prepared.load(directory)
    assert (found.name, found.classes) == ("imagenet2012", ("a", "b"))
    assert [found.train[i] for i in range(len(found.train))] == content(SPLITS["train"])
    assert [found.test[i] for i in range(len(found.test))] == content(SPLITS["validation"])
    assert found.train[np.int64(3)] == (RECORDS[3]["image"], 1)
    assert found.train.place(9) == f"{directory}: image 9 (n0_9.JPEG) of the split 'train'"
    assert found.test.place(0) == f"{directory}: image 0 (n0_15.JPEG) of the split 'validation'"
    for beyond in (15, -1):
        with pytest.raises(IndexError):
            found.train[beyond]


def test_without_names_and_without_a_validation_split(tmp_path):
    records = [{"image": b"x", "label": 0}]
    handmade.prepare(tmp_path / "mine" / "1.0.0", {"train": records, "test": records})
    found = prepared.load(tmp_path / "mine" / "1.0.0")
    assert found.test.split == "test"
    assert found.train.place(0) == f"{tmp_path / 'mine' / '1.0.0'}: image 0 of the split 'train'"


def test_threads_and_processes_share_it(directory):
    records = prepared.load(directory).train
    everything = content(SPLITS["train"])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.__getitem__, list(range(15)) * 20)) == everything * 20
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:  # files are open here, but not there
        assert list(pool.map(records.__getitem__, range(15))) == everything


def test_pickling_takes_no_data_along(directory):
    cloudpickle = pytest.importorskip("cloudpickle")
    records = prepared.load(directory).train
    for pickler in (pickle, cloudpickle):
        pickled = pickler.dumps(records)
        assert not any(record["image"] in pickled for record in RECORDS if len(record["image"]) > 50)
        assert pickle.loads(pickled)[7] == records[7]


def test_more_files_than_may_be_open_at_first(directory):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        prepared.load(directory)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 4 + 512
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda _: (64, 100))
            with pytest.raises(InputError, match=r"4 files must be open at once, but at most 100.*ulimit"):
                prepared.load(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("name", ["imagenet2012", None])
def test_the_newest_that_is_finished_is_found_from_every_level(tmp_path, name):
    for version in ("5.1.0", "5.1.10", "5.1.9", "incomplete.1A2B3C_5.2.0", "6.0.0"):
        (tmp_path / "imagenet2012" / version).mkdir(parents=True)
        if version != "6.0.0":  # without this file a directory is not finished
            (tmp_path / "imagenet2012" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "downloads").mkdir()
    for below in ("", "imagenet2012", "imagenet2012/5.1.10"):
        assert prepared.find(name, tmp_path / below) == tmp_path / "imagenet2012" / "5.1.10"


def test_nothing_and_several_found(tmp_path):
    assert prepared.find("cifar10", tmp_path) is None
    assert prepared.find(None, tmp_path) is None
    assert prepared.find(None, tmp_path / "nowhere") is None
    for name in ("b", "a"):
        (tmp_path / name / "1.0.0").mkdir(parents=True)
        (tmp_path / name / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match=re.escape(f"several prepared data sets (a, b): name one of their folders, as "
                                                   f"in --data.dir {tmp_path / 'a'}")):  # fmt: skip
        prepared.find(None, tmp_path)
    assert prepared.find("b", tmp_path) == tmp_path / "b" / "1.0.0"


def test_path_is_taken_as_it_is(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "imagenet2012"
    for below in ("lr=[0.1] (a)", "a[0:1]", "a@2", "gs:", "~", "*{SPLIT}%20"):
        place = place.rename(tmp_path / below)
        found = prepared.load(Path(below, "5.1.0"))
        assert [found.train[i] for i in range(15)] == content(SPLITS["train"])


def rewrite(file, place, value):
    """Puts another value into a JSON file, at a place of several keys."""
    table = inner = json.loads(file.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file.write_text(json.dumps(table))


def test_names_of_files_may_follow_another_template(directory):
    for file in directory.glob("*-train.*"):
        shard = int(file.name[-14:-9])
        file.rename(directory / f"train_{shard:05}_of_00002_imagenet2012.data")
    template = "{SPLIT}_{SHARD_INDEX}_of_{NUM_SHARDS}_{DATASET}.data"
    rewrite(directory / "dataset_info.json", ("splits", 0, "filepathTemplate"), template)
    assert prepared.load(directory).train[9] == content(RECORDS)[9]


@pytest.mark.parametrize("template", ["../{SPLIT}-{SHARD_X_OF_Y}", "/{SPLIT}", "x/{SPLIT}", "{SPLIT}\0", "{SPLIT}\n"])
def test_files_elsewhere_are_refused(directory, template):
    rewrite(directory / "dataset_info.json", ("splits", 0, "filepathTemplate"), template)
    with pytest.raises(InputError, match=r"damaged \(ValueError: .*train.* is no file directly in it"):
        prepared.load(directory)
    rewrite(directory / "dataset_info.json", ("splits", 0, "filepathTemplate"), "{DATASET}-{SPLIT}")
    rewrite(directory / "dataset_info.json", ("name",), "../x")
    with pytest.raises(InputError, match="is no file directly in it"):
        prepared.load(directory)


def test_names_of_classes(directory):
    names = directory / "label.labels.txt"
    names.write_bytes("\u00e9t\u00e9\r\n\nhiver\n".encode())
    assert prepared.load(directory).classes == ("\u00e9t\u00e9", "hiver")
    names.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="damaged"):
        prepared.load(directory)
    names.write_text("one\n")
    with pytest.raises(InputError, match="has names for 1 of its 2 classes"):
        prepared.load(directory)
    names.unlink()
    assert prepared.load(directory).classes == ("0", "1")
    count = ("featuresDict", "features", "label", "classLabel", "numClasses")
    rewrite(directory / "features.json", count, "9999999999")
    with pytest.raises(InputError, match="9999999999 classes without names"):
        prepared.load(directory)


def second_file(directory):
    (file,) = directory.glob("*-train.*-00001-of-00002")
    return file


def test_files_cut_short_missing_or_of_another_length(directory):
    file = second_file(directory)
    data = file.read_bytes()
    for keep in (0, 5, len(data) // 2, -1):
        file.write_bytes(data[:keep])
        with pytest.raises(InputError, match=re.escape(f"{file}: cannot be read (")):
            prepared.load(directory)
    (other,) = directory.glob("*-validation.*-00001-of-00002")
    file.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="records"):
        prepared.load(directory)
    file.unlink()
    with pytest.raises(InputError, match=re.escape(f"{file}: cannot be read (") + ".*No such file.*prepare"):
        prepared.load(directory)


def test_damaged_record(directory):
    records = prepared.load(directory).train
    file = second_file(directory)
    data = file.read_bytes()
    place = data.index(RECORDS[9]["image"]) - 40  # what says where the image is
    file.write_bytes(data[:place] + bytes(b ^ 255 for b in data[place : place + 60]) + data[place + 60 :])
    with pytest.raises(InputError, match=re.escape(f"{file}: cannot be read (")):
        records[9]
    assert records.place(9) == f"{directory}: image 9 of the split 'train'"
    assert records[3] == (RECORDS[3]["image"], 1)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_half_prepared_in_another_format_or_without_tensorflow_datasets(directory, monkeypatch, name):
    info = directory / "dataset_info.json"
    whole = info.read_text()
    info.write_text(re.sub("array_record|tfrecord", "riegeli", whole))
    with pytest.raises(InputError, match=r"the format riegeli cannot be read here: prepare imagenet2012 again"):
        prepared.load(directory)
    info.write_text(whole)
    said = re.escape(str(directory)) + r".*half prepared, or damaged.*another data\.dir"
    (directory / name).write_text('{"name')
    with pytest.raises(InputError, match=said):
        prepared.load(directory)
    (directory / name).unlink()
    with pytest.raises(InputError, match=said):
        prepared.load(directory)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        prepared.load(directory)


@pytest.mark.parametrize(
    ("kept", "message"), [("train", "holds no split 'validation' or 'test'"), ("test", "no split 'train', only test")]
)
def test_split_that_is_missing(tmp_path, kept, message):
    handmade.prepare(tmp_path / "mine" / "1.0.0", {kept: RECORDS})
    with pytest.raises(InputError, match=message):
        prepared.load(tmp_path / "mine" / "1.0.0")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image()}, "no images with one label each; mine has image"),
        ({"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)}, "no images with one label each"),
        (
            {"image": tfds.features.Image(dtype=np.uint16), "label": tfds.features.ClassLabel(num_classes=2)},
            "'uint16', not of 8 bits",
        ),
    ],
)
def test_something_else_than_images_with_a_label(tmp_path, features, message):
    records = [{key: RECORDS[0][key] for key in features}]
    handmade.prepare(tmp_path / "mine" / "1.0.0", {"train": records, "test": records}, features=features)
    with pytest.raises(InputError, match=message):
        prepared.load(tmp_path / "mine" / "1.0.0")
