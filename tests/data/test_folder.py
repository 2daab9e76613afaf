"""A folder of images, in memory and as photographs, in good order and in every kind of bad order."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError
from lmjax.data import Files, Photographs, load

pytestmark = pytest.mark.versions
BOTH = pytest.mark.parametrize("name", ["folder", "photographs(32)"])


def paint(path, color, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for name, color in (("red", (250, 10, 10)), ("blue", (10, 10, 250))):
            for i in range(3):
                paint(tmp_path / split / name / f"{i}.png", color)
    return tmp_path


def test_images_in_memory(folder):
    before = sorted(folder.rglob("*"))
    dataset = load("folder", directory=folder)
    assert dataset.classes == ("blue", "red"), "in alphabetical order"
    assert dataset.train.images.shape == (6, 8, 8, 3)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.images[0, 0, 0].tolist() == [10, 10, 250]
    np.testing.assert_allclose(dataset.mean, [130, 10, 130])
    np.testing.assert_allclose(dataset.std, [120, 1, 120])  # a constant channel is divided by 1, not by 0
    assert sorted(folder.rglob("*")) == before, "nothing is written"


def test_photographs(folder):
    (folder / "train" / "red" / "1.png").rename(folder / "train" / "red" / "10.png")
    found = load("photographs(32)", directory=folder)
    assert isinstance(found, Photographs)
    assert (found.name, found.classes, found.shape) == (folder.name, ("blue", "red"), (32, 32, 3))
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    path = folder / "train" / "red" / "10.png"  # 0, 10, 2
    assert (found.train[4], found.train.place(4)) == ((path.read_bytes(), 1), str(path))
    np.testing.assert_allclose(found.mean, [123.675, 116.28, 103.53])
    path.unlink()
    with pytest.raises(InputError, match=r"red/10\.png: cannot be read \(No such file"):
        found.train[4]


@BOTH
def test_describe_tells_other_test_images_and_smaller_copies(folder, name):
    before = load(name, directory=folder).describe()
    assert (before["training_images"], before["test_images"]) == (6, 6)
    (folder / "test" / "red" / "0.png").unlink()
    (folder / "resized.json").write_text(json.dumps({"shorter_side": 256, "quality": 90, "complete": True}))
    after = load(name, directory=folder).describe()
    changed = {key: after[key] for key in after if after[key] != before[key]}
    assert changed == {"test_images": 5} | ({"resized": 256} if name != "folder" else {})


def test_either_of_test_and_val(folder):
    """ImageNet's test images have no labels: of photographs, val comes first."""
    shutil.copytree(folder / "test", folder / "val")
    (folder / "val" / "red" / "0.png").unlink()
    assert len(load("folder", directory=folder).test) == 6
    assert len(load("photographs(32)", directory=folder).test) == 5
    shutil.rmtree(folder / "test")
    assert len(load("folder", directory=folder).test) == 5


def test_files_that_are_not_used_are_counted_by_kind(folder, capsys):
    (folder / "train" / "red" / ".hidden.png").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    (folder / "README").write_text("")
    load("folder", directory=folder)
    assert not capsys.readouterr().err
    for name in ("a.txt", "b.TXT", "c.heic", "unnamed"):
        (folder / "train" / "red" / name).write_text("not an image")
    (folder / "test" / "red" / "deeper").mkdir()
    (folder / "test" / "list.csv").write_text("")
    assert len(load("folder", directory=folder).train) == 6
    said = capsys.readouterr().err
    assert said.startswith(f"note: {folder}: not used are 2 .txt files, ")
    assert said.count("\n") == 1
    assert {*said.strip().partition("not used are ")[2].split(", ")} == {
        "2 .txt files", "1 .heic files", "1 unnamed files", "1 folders in class folders",
        "1 files beside class folders",
    }  # fmt: skip


def test_every_format_and_mode_becomes_rgb(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    reds = folder / "train" / "red"
    for suffix in ("webp", "bmp", "tiff", "ppm", "tga", "PNG"):
        Image.fromarray(pixels).save(reds / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    first, second = (Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255)))
    first.save(reds / "animation.gif", save_all=True, append_images=[second])
    paint(reds / "gray.JPG", 128, mode="L")
    paint(reds / "cmyk.jpeg", (0, 255, 255, 0), mode="CMYK")
    paint(reds / "palette.png", 0, mode="P")
    paint(reds / "alpha.png", (1, 2, 3, 4), mode="RGBA")
    paint(reds / "misnamed.jpg", (9, 8, 7), format="PNG")
    images = load("folder", directory=folder).train.images[3:]
    found = dict(zip(sorted(path.name for path in reds.iterdir()), images, strict=True))
    for name, image in found.items():
        if name.startswith("a."):
            np.testing.assert_array_equal(image, pixels, name)
    for name, color in {
        "animation.gif": [255, 0, 0], "gray.JPG": [128] * 3, "palette.png": [0] * 3, "misnamed.jpg": [9, 8, 7],
    }.items():  # fmt: skip
        assert found[name][0, 0].tolist() == color, name


def test_size_scales_the_shorter_side_and_cuts_the_middle(folder):
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(image).save(folder / "train" / "red" / "wide.png")
    dataset = load("folder(8)", directory=folder)
    assert dataset.train.images.shape == (7, 8, 8, 3)
    whole = np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(dataset.train.images[-1], whole[:, 4:12])


def test_files_are_cheap_to_send_to_other_processes(folder):
    for i in range(500):
        (folder / "train" / "red" / f"n00000000_{i:08}.JPEG").touch()
    files = Files(folder / "train", ("blue", "red"))
    assert len(pickle.dumps(files)) < 1000 + 512 * 30
    assert pickle.loads(pickle.dumps(files)).place(300) == files.place(300)


def repaint_tests(folder):
    for path in (folder / "test").rglob("*.png"):
        paint(path, (0, 0, 0), size=(9, 9))


def deeper(folder):
    """As in Tiny-ImageNet."""
    (folder / "train" / "red").rename(folder / "images")
    (folder / "train" / "red").mkdir()
    (folder / "images").rename(folder / "train" / "red" / "images")


def flat(folder):
    """As ImageNet's validation images come."""
    (folder / "test" / "red").rename(folder / "val")
    shutil.rmtree(folder / "test")


def one_class(folder):
    shutil.rmtree(folder / "train" / "red")
    shutil.rmtree(folder / "test" / "red")


def archives(folder):
    shutil.rmtree(folder / "train")
    (folder / "ILSVRC2012_img_train.tar").touch()


@BOTH
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train" / "green").mkdir(), "train/green: holds no images"),
        (lambda f: (f / "test" / "red").rename(f / "test" / ".red"), "test/red: this class is missing here"),
        (lambda f: (f / "test" / "green").mkdir(), "test/green: a class that {folder}/train does not have"),
        (lambda f: (f / "test").rename(f / "validation"), "holds no folder '"),
        (deeper, ".tga), but {folder}/train/red/images does: move them one folder"),
        (flat, "lmjax prepare sort-validation --images {folder}/val"),
        (one_class, "nothing to tell apart with 1 class"),
    ],
)
def test_what_is_wrong_is_named(folder, name, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=re.escape(message.format(folder=folder))):
        load(name, directory=folder)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("folder", lambda f: (f / "train").rename(f / "training"), r"holds no folder 'train'"),
        (
            "folder",
            lambda f: paint(f / "train" / "red" / "9.png", (0, 0, 0), size=(9, 8)),
            r"9\.png: is 9 x 8 pixels, but .*0\.png is 8 x 8 pixels: .*folder\(32\)",
        ),
        ("folder", repaint_tests, r"training images are \(8, 8, 3\) and test images \(9, 9, 3\) .*folder\(32\)"),
        ("photographs", lambda f: (f / "train").rename(f / "n0"), "seems to be a folder of classes itself: name the"),
        ("photographs", lambda f: shutil.rmtree(f / "train"), r"holds neither train/<class>/\*.JPEG nor a prepared"),
        ("photographs", archives, "lmjax prepare imagenet2012 --archives"),
    ],
)
def test_what_is_wrong_is_named_by_one_of_them(folder, name, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load(name, directory=folder)


@BOTH
def test_a_directory_is_needed(name):
    with pytest.raises(InputError, match=rf"data\.dir: {name.partition('(')[0]}.* needs it: give --data\.dir"):
        load(name)
