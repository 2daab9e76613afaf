"""Smaller copies of photographs."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError
from lmjax.data import load
from lmjax.data import resize as module
from lmjax.data.resize import resize
from lmjax.prepare import main
from tests.data.photos import photograph, write_folder

pytestmark = pytest.mark.versions


@pytest.fixture
def folder(tmp_path):
    """Shorter sides of 40, 45 and 50 pixels, and one PNG of 90 that is called a JPEG."""
    folder = write_folder(tmp_path / "photos", train=12, val=6)
    photograph(90, 120).save(folder / "train" / "n0" / "0.JPEG", "PNG")
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.JPEG"))}


def run(folder, target, *more):
    return main(["resize", "--images", str(folder), "--to", str(target), "--shorter-side", "44", *more])


def test_only_what_is_larger_becomes_smaller(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "small") == 0
    assert "18 images are in" in capsys.readouterr().out
    before, after = files(folder), files(tmp_path / "small")
    assert before.keys() == after.keys()
    for name, data in after.items():
        old, new = Image.open(io.BytesIO(before[name])), Image.open(io.BytesIO(data))
        assert new.format == "JPEG"
        if min(old.size) <= 44:
            assert data == before[name]  # untouched
        else:
            assert min(new.size) == 44
            assert max(new.size) == round(44 * max(old.size) / min(old.size))
            small = old.convert("RGB").resize(new.size, Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(small, int) - np.asarray(new)).mean() < 6  # JPEG
    found = load("imagenet", directory=tmp_path / "small", size=32)
    assert found.resized == 44
    assert (len(found.train), len(found.test)) == (12, 6)


def test_goes_on_where_it_was_interrupted(folder, tmp_path, monkeypatch, capsys):
    target = tmp_path / "small"
    written = []
    original = module._smaller

    def interrupted(data, *options):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(data)
        return original(data, *options)

    monkeypatch.setattr(module, "_smaller", interrupted)
    assert run(folder, target) == 130
    with pytest.raises(InputError, match="is not finished: run the same"):
        load("imagenet", directory=target, size=32)
    assert 0 < len(files(target)) < 18
    monkeypatch.setattr(module, "_smaller", original)
    kept = {path: path.stat().st_mtime_ns for path in target.rglob("*.JPEG")}
    assert run(folder, target) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(files(target)) == 18
    assert not list(target.rglob("*.part"))


def complete(folder):
    return json.loads((folder / "resized.json").read_text())["complete"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_copy_of_other_photographs_is_refused(folder, tmp_path, capsys, finished):
    target, other = tmp_path / "small", write_folder(tmp_path / "others", train=6, val=3)
    assert run(folder, target) == 0
    if not finished:
        note = json.loads((target / "resized.json").read_text()) | {"complete": False}
        (target / "resized.json").write_text(json.dumps(note))
        (target / "train" / "n0" / "3.JPEG").unlink()
    before = files(target)
    assert run(other, target) == 2
    out, err = capsys.readouterr()
    assert f"{target}: holds a copy of {folder}, not of {other}: name another folder" in err
    assert "6 images are in" not in out
    assert files(target) == before
    assert complete(target) == finished


def test_a_copy_of_an_earlier_version_trains_but_cannot_be_gone_on_with(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "small") == 0
    (tmp_path / "small" / "resized.json").write_text('{"shorter_side": 44, "quality": 90, "complete": true}')
    assert load("imagenet", directory=tmp_path / "small", size=32).resized == 44
    assert run(folder, tmp_path / "small") == 2
    assert "made by an earlier version, which did not note of what: train on it" in capsys.readouterr().err


def test_a_copy_follows_its_originals(folder, tmp_path, monkeypatch, capsys):
    target, train = tmp_path / "small", folder / "train"
    assert run(folder, target) == 0
    kept = {path: path.stat().st_mtime_ns for path in target.rglob("*.JPEG")}
    photograph(70, 70, seed=99).save(train / "n0" / "3.JPEG")  # another one
    photograph(70, 70, seed=98).save(train / "n1" / "new.JPEG")
    (train / "n2" / "2.JPEG").unlink()
    (train / "n2" / "5.JPEG").unlink()
    (train / "n2" / "5.JPEG").symlink_to("8.JPEG")
    changed = ["train/n0/3.JPEG", "train/n2/2.JPEG", "train/n2/5.JPEG"]
    original, states = module._smaller, []
    monkeypatch.setattr(module, "_smaller", lambda *args: (states.append(complete(target)), original(*args))[1])
    capsys.readouterr()
    assert run(folder, target) == 0
    assert "18 images are in" in capsys.readouterr().out
    assert states == [False] * 3
    assert complete(target)
    assert files(target).keys() == files(folder).keys()
    assert files(target)["train/n2/5.JPEG"] == files(target)["train/n2/8.JPEG"]
    for path, time in kept.items():
        assert (str(path.relative_to(target)) in changed) == (not path.exists() or path.stat().st_mtime_ns != time)
    for split in ("train", "val"):
        shutil.rmtree(folder / split / "n1")
    assert run(folder, target) == 0
    assert f"{len(files(folder))} images are in" in capsys.readouterr().out
    assert load("imagenet", directory=target, size=32).classes == ("n0", "n2")


def test_a_copy_whose_notes_are_lost_is_made_again(folder, tmp_path):
    assert run(folder, tmp_path / "small") == 0
    (tmp_path / "small" / "train" / "n0" / ".originals.json").write_text("{")
    (tmp_path / "small" / "train" / "n0" / "stranger.JPEG").touch()
    assert run(folder, tmp_path / "small") == 0
    assert files(tmp_path / "small").keys() == files(folder).keys()


def test_a_smaller_copy_is_not_enlarged(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "small") == 0
    arguments = ["resize", "--images", str(tmp_path / "small"), "--to", str(tmp_path / "again"), "--shorter-side"]
    assert main([*arguments, "45"]) == 2
    assert f"--shorter-side 45: {tmp_path / 'small'} is a smaller copy itself, of 44 pixels" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main([*arguments, "30"]) == 0
    assert load("imagenet", directory=tmp_path / "again", size=32).resized == 30


def test_a_set_prepared_by_tensorflow_datasets(tmp_path):
    """Its images have no file names that are sure to differ: they are numbered."""

    class Records:
        files = (str(tmp_path / "records"),)

        def __len__(self):
            return 3

        def __getitem__(self, i):
            file = io.BytesIO()
            photograph(60, 50, seed=i).save(file, "JPEG")
            return file.getvalue(), i % 2

        def place(self, i):
            return f"image {i}"

    def write():
        resize(module.Photographs("set", Records(), Records(), ("a", "b"), 32), tmp_path / "small", 44)
        assert list(files(tmp_path / "small")) == [
            f"{split}/{name}"
            for split in ("train", "val")
            for name in ("a/00000000.JPEG", "a/00000002.JPEG", "b/00000001.JPEG")
        ]
        return [path.stat().st_mtime_ns for path in (tmp_path / "small").rglob("*.JPEG")]

    (tmp_path / "records").write_text("")
    first = write()
    assert write() == first
    (tmp_path / "records").write_text("others")
    assert not set(write()) & set(first)


def test_broken_images_stop_it_or_are_left_out(folder, tmp_path, capsys):
    broken = folder / "train" / "n2" / "5.JPEG"
    broken.write_bytes(broken.read_bytes()[:-100])
    assert run(folder, tmp_path / "small") == 2
    assert f"{broken}: cannot be decoded (image file is truncated" in capsys.readouterr().err
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 0
    out, err = capsys.readouterr()
    assert f"left out: {broken}: cannot be decoded (image file is truncated" in err
    assert "17 images are in" in out
    assert len(files(tmp_path / "small")) == 17
    broken.unlink()  # the other cure
    broken.with_name("8.JPEG").unlink()
    broken.with_name("8.JPEG").symlink_to("nowhere")
    (broken.parent / "folder.jpg").mkdir()
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 0
    assert "16 images are in" in capsys.readouterr().out


def test_an_image_that_jpeg_cannot_hold_is_named(folder, tmp_path, capsys):
    long = folder / "train" / "n1" / "long.png"
    Image.new("RGB", (65501, 2)).save(long)
    assert run(folder, tmp_path / "small") == 2
    expected = f"{long}: cannot be encoded (it would have 65501 x 2 pixels, and JPEG allows 65500 a side)"
    assert f"error: {expected}: replace or delete it, or give --on-error skip" in capsys.readouterr().err
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 0
    assert f"left out: {expected}" in capsys.readouterr().err
    assert Image.open(io.BytesIO(module._smaller(long.read_bytes(), 1, 90))).size == (32750, 1)  # smaller, it fits


def test_where_it_cannot_write_is_named(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "small") == 0
    (copy := tmp_path / "small" / "train" / "n0" / "0.JPEG").unlink()
    copy.with_name(".0.JPEG.part").mkdir()
    assert run(folder, tmp_path / "small") == 2
    assert re.search(r"n0/\.0\.JPEG\.part: cannot be written \(Is a directory\); when", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("prepare", "more", "message"),
    [
        (lambda target: (target.mkdir(), (target / "x").touch()), [], "is not empty, and holds no copy"),
        (lambda target: target.touch(), [], "cannot be written"),
        (lambda target: None, ["--quality", "100"], "--quality: must be from 1 to 95"),
        (lambda target: None, ["--shorter-side", "0"], "--shorter-side: must be at least 1"),
        (
            lambda target: (
                target.mkdir(),
                (target / "resized.json").write_text(json.dumps({"shorter_side": 9, "quality": 90})),
            ),
            [],
            "holds a copy made with {'shorter_side': 9",
        ),
    ],
)
def test_what_is_wrong_is_named(folder, tmp_path, capsys, prepare, more, message):
    prepare(tmp_path / "small")
    assert run(folder, tmp_path / "small", *more) == 2
    assert re.search(re.escape(message), capsys.readouterr().err)
