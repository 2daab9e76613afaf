"""Finding photographs, and everything that can be wrong with where they should be."""

import json
import pickle
import re

import numpy as np
import pytest

from lmjax import InputError
from lmjax.data import Files, Photographs, load
from tests.data.photos import write_folder

pytestmark = pytest.mark.versions


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos", train=12, val=5)


def find(folder):
    return load("photographs(32)", directory=folder)


def test_a_folder(folder):
    found = find(folder)
    assert isinstance(found, Photographs)
    assert found.name == "photos"
    assert found.classes == ("n0", "n1", "n2")
    assert (len(found.train), len(found.test)) == (12, 5)
    assert found.shape == (32, 32, 3)
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    data, label = found.train[5]
    assert (data, label) == ((folder / "train" / "n1" / "10.JPEG").read_bytes(), 1)  # in alphabetical order: 1, 10, 4
    assert found.train.place(5) == str(folder / "train" / "n1" / "10.JPEG")
    np.testing.assert_allclose(found.mean, [123.675, 116.28, 103.53])


def test_val_comes_before_test(folder):
    (folder / "test").mkdir()  # ImageNet's has no labels
    assert len(find(folder).test) == 5
    (folder / "test").rmdir()
    (folder / "val").rename(folder / "test")
    assert len(find(folder).test) == 5


def test_files_are_cheap_to_send_to_other_processes(folder):
    for i in range(500):
        (folder / "train" / "n0" / f"n00000000_{i:08}.JPEG").touch()
    files = Files(folder / "train", ("n0", "n1", "n2"))
    assert len(pickle.dumps(files)) < 1000 + 512 * 30
    assert pickle.loads(pickle.dumps(files)).place(300) == files.place(300)


def test_names_that_are_not_ascii(folder):
    (folder / "train" / "n0" / "0.JPEG").rename(folder / "train" / "n0" / "ü猫.JPEG")
    files = find(folder).train
    assert files.place(3).endswith("ü猫.JPEG")
    assert files[3][1] == 0


def deeper(folder):
    """As in Tiny-ImageNet."""
    (folder / "train" / "n1").rename(folder / "images")
    (folder / "train" / "n1").mkdir()
    (folder / "images").rename(folder / "train" / "n1" / "images")


def resized(folder, text):
    (folder / "resized.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train").rename(f / "n00000001"), "seems to be a folder of classes itself: name the folder"),
        (lambda f: (f / "train").rename(f / "elsewhere"), "holds neither train/<class>/*.JPEG nor a prepared data set"),
        (lambda f: (f / "val").rename(f / "elsewhere"), "holds no folder 'val' or 'test'"),
        (lambda f: (f / "val" / "n3").mkdir(), "val/n3: a class that"),
        (lambda f: (f / "train" / "n3").mkdir(), "train/n3: holds no images"),
        (
            deeper,
            ".tga), but {folder}/train/n1/images does: move them one folder",
        ),
        (lambda f: (f / "val" / "n2").rename(f / "val" / ".n2"), "val/n2: this class is missing here"),
        (lambda f: resized(f, "{}"), "resized.json: is not what lmjax prepare resize writes"),
        (lambda f: resized(f, '{"shorter_side": 256, "complete": false}'), "this smaller copy is not finished"),
    ],
)
def test_what_is_wrong_is_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=re.escape(message.replace("{folder}", str(folder)))):
        find(folder)


def test_a_flat_validation_folder_is_refused_with_the_cure(folder):
    for path in sorted((folder / "val").rglob("*.JPEG")):
        path.rename(folder / "val" / f"ILSVRC2012_val_{path.stem:0>8}.JPEG")
    for path in (folder / "val").iterdir():
        if path.is_dir():
            path.rmdir()
    with pytest.raises(InputError, match=f"lmjax prepare sort-validation --images {folder}/val"):
        find(folder)


def test_archives_are_no_data_set_yet(tmp_path):
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(InputError, match=f"lmjax prepare imagenet2012 --archives {tmp_path}"):
        find(tmp_path)


def test_no_directory(tmp_path):
    with pytest.raises(InputError, match=r"data\.dir: photographs needs it: give --data\.dir"):
        load("photographs")
    with pytest.raises(InputError, match="there is no directory"):
        find(tmp_path / "nowhere")


def test_a_file_that_vanishes_is_named(folder):
    files = find(folder).train
    (folder / "train" / "n1" / "10.JPEG").unlink()
    with pytest.raises(InputError, match=r"n1/10\.JPEG: cannot be read \(No such file"):
        files[5]


def test_describe_tells_other_test_images(folder):
    before = find(folder).describe()
    assert (before["training_images"], before["test_images"]) == (12, 5)
    (folder / "val" / "n0" / "0.JPEG").unlink()
    after = find(folder).describe()
    assert [key for key in after if after[key] != before[key]] == ["test_images"]


def test_describe_tells_originals_from_smaller_copies(folder):
    assert find(folder).describe()["resized"] is None
    resized(folder, json.dumps({"shorter_side": 256, "quality": 90, "complete": True}))
    assert find(folder).describe()["resized"] == 256
