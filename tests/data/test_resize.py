"""Smaller copies of photographs."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmjax import InputError, cli
from lmjax.data import load
from lmjax.data import resize as module
from lmjax.data.resize import resize
from tests.data import handmade
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


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def complete(folder):
    return json.loads((folder / "resized.json").read_text())["complete"]


def note(target, **values):
    """Changes what is noted of a copy."""
    file = target / "resized.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def run(folder, target, *more):
    return cli.main(["prepare", "resize", "--images", str(folder), "--to", str(target), "--shorter-side", "44", *more])


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
    found = load("photographs(32)", directory=tmp_path / "small")
    assert (found.resized, len(found.train), len(found.test)) == (44, 12, 6)


@pytest.fixture
def begun(folder, tmp_path, monkeypatch):
    """A copy that was interrupted after some seven images, four of them those of train/n0."""
    written, original = [], module._smaller

    def interrupted(data, *options):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(data)
        return original(data, *options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_smaller", interrupted)
        assert run(folder, tmp_path / "small") == 130
    return tmp_path / "small"


def test_goes_on_after_an_interruption_and_writes_anew_what_a_power_cut_has_left_or_has_changed(
    folder, tmp_path, begun
):
    with pytest.raises(InputError, match="is not finished: run the same"):
        load("photographs(32)", directory=begun)
    assert 0 < len(files(begun)) < 18
    copies = begun / "train" / "n0"
    kept = {path: time for path, time in times(begun).items() if path.suffix == ".JPEG" and path.parent != copies}
    spoils = (lambda data: b""), (lambda data: bytes(len(data))), (lambda data: data[:-9])
    assert list(copies.glob("*.JPEG"))
    for copy, spoil in zip(sorted(copies.glob("*.JPEG")), spoils, strict=False):  # how many there are, threads decide
        copy.write_bytes(spoil(copy.read_bytes()))
    photograph(70, 70, seed=99).save(tmp_path / "another.JPEG")
    os.utime(tmp_path / "another.JPEG", (1, 1))
    os.replace(tmp_path / "another.JPEG", folder / "train" / "n0" / "9.JPEG")
    assert run(folder, begun) == 0
    assert times(begun).items() >= kept.items()
    assert not list(begun.rglob("*.part"))
    assert run(folder, tmp_path / "fresh") == 0
    assert files(begun) == files(tmp_path / "fresh")


def test_a_class_of_which_nothing_is_left(folder, tmp_path, capsys):
    for path in (folder / "val" / "n1").iterdir():
        path.write_bytes(b"broken")
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 2
    assert (
        f"{tmp_path}/small/val: has no image of n1, so that it cannot be used: mend those left out"
        in capsys.readouterr().err
    )
    assert not complete(tmp_path / "small")


def test_a_link_to_itself(folder, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert run(folder, tmp_path / "loop" / "small") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_all_is_on_the_disk_before_it_is_called_finished(folder, tmp_path, monkeypatch):
    target, states = tmp_path / "small", []
    monkeypatch.setattr(module.os, "sync", lambda: states.append((complete(target), len(files(target)))))
    assert run(folder, target) == 0
    assert states == [(False, 18)]
    assert complete(target)


def earlier(**values):
    """What an earlier version noted: not of what."""
    return lambda folder, target: (target / "resized.json").write_text(
        json.dumps({"shorter_side": 44, "quality": 90, "complete": True} | values)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, target: None, None),
        (
            lambda folder, target: photograph(70, 70).save(folder / "train" / "n1" / "new.JPEG"),
            "{folder} has changed since, to {{'train': 13, 'val': 6}}: name another",
        ),
        (lambda folder, target: note(target, source="x"), "{target}: holds a copy of x, not of {folder}: name another"),
        (lambda folder, target: note(target, source="x", complete=False), "{target}: holds a copy of x, not of"),
        (earlier(), "made by an earlier version, which did not note of what: train on it"),
        (earlier(source="x"), "made by an earlier version, which did not note of what: train on it"),
        (earlier(complete=False), "made by an earlier version, which did not note of what: train on it"),
        (lambda folder, target: note(target, shorter_side=9), "holds a copy made with {{'shorter_side': 9"),
    ],
)
def test_what_is_finished_or_a_copy_of_something_else_is_left_as_it_is(folder, tmp_path, capsys, change, message):
    target = tmp_path / "small"
    assert run(folder, target) == 0
    change(folder, target)
    before = times(target)
    capsys.readouterr()
    assert run(folder, target) == (2 if message else 0)
    out, err = capsys.readouterr()
    if message:
        assert message.format(folder=folder, target=target) in err
    else:
        assert f"{target}: was finished before, and is left as it is\n18 images are in" in out
    assert times(target) == before
    if complete(target):
        load("photographs(32)", directory=target)


def test_what_is_not_in_the_photographs_is_named_and_not_deleted(folder, begun, capsys):
    (folder / "train" / "n0" / "3.JPEG").unlink()
    shutil.rmtree(folder / "train" / "n1")
    shutil.rmtree(folder / "val" / "n1")
    (begun / "train" / "mine").mkdir()
    (begun / "train" / "mine" / "text").write_text("the user's own")
    for strangers in (
        [begun / "train" / "mine", begun / "train" / "n1", begun / "val" / "n1"],
        [begun / "train" / "n0" / "3.JPEG"],
    ):
        before = times(begun)
        assert run(folder, begun) == 2
        said = f"error: {', '.join(map(str, strangers))}: not in the photographs (any more): delete it"
        assert said in capsys.readouterr().err
        assert times(begun).keys() >= before.keys()
        for path in strangers:
            assert all(times(begun)[each] == time for each, time in before.items() if each.is_relative_to(path))
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert not complete(begun)
    assert run(folder, begun) == 0
    assert load("photographs(32)", directory=begun).classes == ("n0", "n2")


@pytest.mark.parametrize(
    ("name", "to", "refused"),
    [
        ("train", ".", True),
        ("train/n0", ".", True),
        ("val/n2", "mine", True),
        ("resized.json", "resized.json", True),
        ("train/n0/3.JPEG", "0.JPEG", False),
        ("train/n0/3.JPEG", "nowhere", False),
        ("train/n0/.3.JPEG.part", "0.JPEG", False),
        (".resized.json.part", "nowhere", False),
    ],
)
def test_links_are_not_followed(folder, begun, tmp_path, capsys, name, to, refused):
    def content():
        return {path: path.is_file() and path.read_bytes() for path in victim.rglob("*")}

    victim = tmp_path / "victim"
    for theirs in ("0.JPEG", "n0/0.JPEG", "mine/text"):
        (victim / theirs).parent.mkdir(parents=True, exist_ok=True)
        (victim / theirs).write_text("{}")
    shutil.copy(begun / "resized.json", victim)
    path = begun / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (begun / "train/n0/3.JPEG").unlink(missing_ok=True)
    path.symlink_to(victim / to)
    before, status = content(), run(folder, begun)
    assert content() == before
    assert status == (2 if refused else 0)
    if refused:
        assert f"{path}: is a link, and nothing is written through one" in capsys.readouterr().err
        assert path.is_symlink()
    else:
        assert files(begun).keys() == files(folder).keys()
        assert not [image for image in begun.rglob("*.JPEG") if image.is_symlink()]


class Numbered:
    """What is prepared, in a file."""

    def __init__(self, file):
        self.files = [str(file)]
        file.write_text("")

    def __len__(self):
        return 3

    def __getitem__(self, i):
        file = io.BytesIO()
        photograph(60, 50, seed=i).save(file, "JPEG")
        return file.getvalue(), i % 2

    def place(self, i):
        return f"image {i}"


@pytest.mark.parametrize(
    "name", ["../../../escaped", "{tmp_path}/escaped", "..", ".", "", ".hidden", "b/c", "b\\c", "b\0", "a"]
)
def test_names_of_classes_that_are_none_are_refused(tmp_path, name):
    source = Numbered(tmp_path / "records")
    photographs = module.Photographs("set", source, source, ("a", name.format(tmp_path=tmp_path)), 32)
    (tmp_path / "some").mkdir()
    with pytest.raises(InputError, match=r"cannot be the name|have the same name"):
        resize(photographs, tmp_path / "some" / "small", 44)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["records", "some"]


def test_a_prepared_set_writes_nothing_elsewhere(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    source = Numbered(tmp_path / "records")
    records = [{"image": source[i][0], "label": i % 2} for i in range(3)]
    splits = {"train": records, "validation": records}
    handmade.prepare(tmp_path / "set" / "1.0.0", splits, classes=("a", "../../../escaped"))
    assert run(tmp_path / "set", tmp_path / "some" / "small") == 2
    assert sorted(os.listdir(tmp_path)) == ["records", "set"]
    assert "error: '../../../escaped' cannot be the name of a file or a folder in" in capsys.readouterr().err


def test_a_file_system_that_takes_two_names_for_one(tmp_path, monkeypatch):
    source, mkdir = Numbered(tmp_path / "records"), Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **b: mkdir(path.with_name(path.name.lower()), *a, **b))
    with pytest.raises(InputError, match=r"train/A, .*/val/A: missing after it was written"):
        resize(module.Photographs("set", source, source, ("a", "A"), 32), tmp_path / "small", 44)


def test_every_image_has_a_name_of_its_own(folder, tmp_path):
    names = ("a.png", "a.png.JPEG", "a.png.JPEG.JPEG", "a.jpg", "a.jpg.jpeg", "a.PNG")
    for i, name in enumerate(names):
        photograph(30 + i, 40).save(folder / "train" / "n0" / name, "PNG")
    assert run(folder, tmp_path / "small") == 0
    copies = (tmp_path / "small" / "train" / "n0").glob("a.*")
    assert sorted(Image.open(path).size for path in copies) == [(30 + i, 40) for i in range(len(names))]


def test_a_smaller_copy_is_not_enlarged(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "small") == 0
    arguments = ["prepare", "resize", "--images", str(tmp_path / "small"), "--to", str(tmp_path / "again")]
    assert cli.main([*arguments, "--shorter-side", "45"]) == 2
    assert f"--shorter-side 45: {tmp_path / 'small'} is a smaller copy itself, of 44 pixels" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert cli.main([*arguments, "--shorter-side", "30"]) == 0
    assert load("photographs(32)", directory=tmp_path / "again").resized == 30


def test_held_out_images_are_copied_as_such(folder, tmp_path):
    shutil.rmtree(folder / "val")
    source, target = load("photographs(32, val_split=0.25)", directory=folder), tmp_path / "small"
    assert resize(source, target, 44) == []
    assert [len(list(target.glob(f"{split}/*/*.JPEG"))) for split in ("train", "val")] == [9, 3]
    assert resize(source, target, 44) is None


def test_a_set_prepared_by_tensorflow_datasets(tmp_path):
    """Its images have no file names that are sure to differ: they are numbered."""
    source, target = Numbered(tmp_path / "records"), tmp_path / "small"

    def write():
        resize(module.Photographs("set", source, source, ("a", "b"), 32), target, 44)
        numbers = ("a/00000000.JPEG", "a/00000002.JPEG", "b/00000001.JPEG")
        assert list(files(target)) == [f"{split}/{name}" for split in ("train", "val") for name in numbers]
        note(target, complete=False)
        return [path.stat().st_mtime_ns for path in target.rglob("*.JPEG")]

    first = write()
    assert write() == first
    (tmp_path / "records").write_text("others")
    assert not set(write()) & set(first)


def test_what_cannot_be_decoded_or_encoded_stops_it_or_is_left_out(folder, tmp_path, capsys):
    broken, long = folder / "train" / "n2" / "5.JPEG", folder / "train" / "n1" / "long.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    (folder / "train" / "n0" / "nothing.JPEG").symlink_to("nowhere")
    (folder / "train" / "n0" / "folder.jpg").mkdir()
    Image.new("RGB", (65501, 2)).save(long)
    assert run(folder, tmp_path / "small") == 2
    assert "replace or delete it, or give --on-error skip" in capsys.readouterr().err
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 0
    out, err = capsys.readouterr()
    assert f"left out: {broken}: cannot be decoded (image file is truncated" in err
    assert f"{long}: cannot be encoded (it would have 65501 x 2 pixels, and JPEG allows 65500 a side)" in err
    assert "17 images are in" in out
    assert Image.open(io.BytesIO(module._smaller(long.read_bytes(), 1, 90))).size == (32750, 1)  # smaller, it fits


@pytest.mark.parametrize(
    ("prepare", "more", "message"),
    [
        (lambda target: (target.mkdir(), (target / "x").touch()), [], "is not empty, and holds no copy"),
        (lambda target: target.touch(), [], "cannot be written"),
        (lambda target: None, ["--quality", "100"], "--quality: must be from 1 to 95"),
        (lambda target: None, ["--shorter-side", "0"], "--shorter-side: must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(folder, tmp_path, capsys, prepare, more, message):
    prepare(tmp_path / "small")
    assert run(folder, tmp_path / "small", *more) == 2
    assert message in capsys.readouterr().err


def test_where_it_cannot_write_is_named(folder, begun, capsys):
    (begun / "train" / "n0" / "0.JPEG").unlink()
    (begun / "train" / "n0" / "0.JPEG").mkdir()
    assert run(folder, begun) == 2
    assert re.search(r"n0/0\.JPEG: cannot be written \(Is a directory\); when", capsys.readouterr().err)
