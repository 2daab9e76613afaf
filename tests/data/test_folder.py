"""A folder of images, in good order and in every kind of bad order."""

import re

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError
from lmjax.data import load

pytestmark = pytest.mark.versions


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


def test_reads_classes_in_alphabetical_order(folder):
    dataset = load("folder", directory=folder)
    assert dataset.classes == ("blue", "red")
    assert dataset.train.images.shape == (6, 8, 8, 3)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.images[0, 0, 0].tolist() == [10, 10, 250]
    np.testing.assert_allclose(dataset.mean, [130, 10, 130])
    np.testing.assert_allclose(dataset.std, [120, 1, 120])  # a constant channel is divided by 1, not by 0


def test_describe_tells_other_test_images(folder):
    before = load("folder", directory=folder).describe()
    assert (before["training_images"], before["test_images"]) == (6, 6)
    (folder / "test" / "red" / "0.png").unlink()
    after = load("folder", directory=folder).describe()
    assert [key for key in after if after[key] != before[key]] == ["test_images"]


def test_val_stands_in_for_test(folder):
    (folder / "test").rename(folder / "val")
    assert len(load("folder", directory=folder).test) == 6


def test_nothing_is_written(folder):
    before = sorted(folder.rglob("*"))
    load("folder", directory=folder)
    assert sorted(folder.rglob("*")) == before


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
    assert set(said.strip().partition("not used are ")[2].split(", ")) == {
        "2 .txt files",
        "1 .heic files",
        "1 unnamed files",
        "1 folders in class folders",
        "1 files beside class folders",
    }


def test_formats_that_pillow_decodes_by_itself_count(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    lossless = {"webp": {"lossless": True}, "bmp": {}, "tiff": {}, "ppm": {}, "tga": {}, "PNG": {}}
    for suffix, options in lossless.items():
        Image.fromarray(pixels).save(folder / "train" / "red" / f"z.{suffix}", **options)
    first, second = (Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255)))
    first.save(folder / "train" / "red" / "z.gif", save_all=True, append_images=[second])
    images = load("folder", directory=folder).train.images
    assert len(images) == 6 + len(lossless) + 1
    by_name = dict(zip(sorted([*map("z.{}".format, lossless), "z.gif"]), images[6:], strict=True))
    assert by_name.pop("z.gif")[0, 0].tolist() == [255, 0, 0], "the first picture of an animation"
    for name, image in by_name.items():
        np.testing.assert_array_equal(image, pixels, name)


def test_every_kind_of_image_becomes_rgb(folder):
    paint(folder / "train" / "red" / "gray.JPG", 128, mode="L")
    paint(folder / "train" / "red" / "cmyk.jpeg", (0, 255, 255, 0), mode="CMYK")
    paint(folder / "train" / "red" / "palette.png", 0, mode="P")
    paint(folder / "train" / "red" / "alpha.png", (1, 2, 3, 4), mode="RGBA")
    paint(folder / "train" / "red" / "misnamed.jpg", (9, 8, 7), format="PNG")
    images = load("folder", directory=folder).train.images
    assert images.shape == (11, 8, 8, 3)
    assert images[-1, 0, 0].tolist() == [0, 0, 0]
    by_name = dict(zip(["0", "1", "2", "alpha", "cmyk", "gray", "misnamed", "palette"], images[3:], strict=True))
    assert by_name["misnamed"][0, 0].tolist() == [9, 8, 7]
    assert by_name["gray"][0, 0].tolist() == [128, 128, 128]


def test_size_scales_the_shorter_side_and_cuts_the_middle(folder):
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(image).save(folder / "train" / "red" / "wide.png")
    dataset = load("folder(8)", directory=folder)
    assert dataset.train.images.shape == (7, 8, 8, 3)
    whole = np.asarray(Image.fromarray(image).resize((16, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(dataset.train.images[-1], whole[:, 4:12])


def test_images_of_several_sizes_need_a_size(folder):
    paint(folder / "train" / "red" / "9.png", (0, 0, 0), size=(9, 8))
    with pytest.raises(InputError, match=r"9\.png: is 9 x 8 pixels, but .*0\.png is 8 x 8 pixels: .*folder\(32\)"):
        load("folder", directory=folder)


def test_splits_of_different_sizes_need_a_size(folder):
    for path in (folder / "test").rglob("*.png"):
        paint(path, (0, 0, 0), size=(9, 9))
    with pytest.raises(InputError, match=r"training images are \(8, 8, 3\) and test images \(9, 9, 3\) .*folder\(32\)"):
        load("folder", directory=folder)


def test_truncated_image_is_named(folder):
    path = folder / "test" / "red" / "broken.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be decoded")):
        load("folder", directory=folder)


def test_sixteen_bit_image_is_named_rather_than_clipped(folder):
    path = folder / "train" / "red" / "deep.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"deep\.png: cannot be decoded \(it has more than 8 bits a channel"):
        load("folder", directory=folder)


def test_one_class_is_nothing_to_learn(tmp_path):
    for split in ("train", "test"):
        paint(tmp_path / split / "red" / "0.png", (0, 0, 0))
    with pytest.raises(InputError, match="nothing to tell apart with 1 class"):
        load("folder", directory=tmp_path)


def test_file_that_is_no_image_is_named(folder):
    path = folder / "train" / "blue" / "text.png"
    path.write_text("hello")
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be decoded")):
        load("folder", directory=folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("nowhere"), "it is a link to nothing"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.touch(), "it is empty"),
    ],
)
def test_what_only_looks_like_an_image_is_named(folder, make, message):
    make(path := folder / "train" / "blue" / "x.jpg")
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be decoded ({message})")):
        load("folder", directory=folder)


def test_what_is_missing_is_named(folder):
    cases = []

    def case(message):
        with pytest.raises(InputError, match=message):
            load("folder", directory=folder)
        cases.append(message)

    (folder / "train" / "green").mkdir()
    case(r"train/green: holds no images")
    paint(folder / "train" / "green" / "0.png", (0, 0, 0))
    case(r"test/green: this class is missing here")
    (folder / "train" / "green" / "0.png").unlink()
    (folder / "train" / "green").rmdir()
    (folder / "test" / "green").mkdir()
    case(r"test/green: a class that .*train does not have")
    (folder / "test").rename(folder / "validation")
    case(r"holds no folder 'test' or 'val'")
    (folder / "train").rename(folder / "training")
    case(r"holds no folder 'train'")
    assert len(cases) == 5


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        (None, "data.dir: folder needs it: give --data.dir"),
        ("/nowhere/at/all", "there is no directory /nowhere/at/all"),
    ],
)
def test_directory_must_be_there(directory, message):
    with pytest.raises(InputError, match=message):
        load("folder", directory=directory)
