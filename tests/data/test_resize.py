"""Smaller copies of photographs."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
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
    assert found.resized == 44
    assert (len(found.train), len(found.test)) == (12, 6)


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


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_goes_on_where_it_was_interrupted(folder, begun):
    with pytest.raises(InputError, match="is not finished: run the same"):
        load("photographs(32)", directory=begun)
    assert 0 < len(files(begun)) < 18
    kept = {path: time for path, time in times(begun).items() if path.suffix == ".JPEG"}
    assert run(folder, begun) == 0
    assert times(begun).items() >= kept.items()
    assert files(begun).keys() == files(folder).keys()
    assert not list(begun.rglob("*.part"))


def test_goes_on_where_it_was_killed(folder, tmp_path):
    program = (
        "import os; from lmjax import cli; from lmjax.data import resize as module; "
        "original = module._smaller; images = iter(range(7)); "
        "module._smaller = lambda *a: original(*a) if next(images, None) is not None else os.kill(os.getpid(), 9); "
        "cli.run()"
    )
    options = ["prepare", "resize", "--images", str(folder), "--to", str(tmp_path / "small"), "--shorter-side", "44"]
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program, *options], cwd=root).returncode == -signal.SIGKILL
    assert not complete(tmp_path / "small")
    assert run(folder, tmp_path / "small") == 0
    assert run(folder, tmp_path / "fresh") == 0
    assert files(tmp_path / "small") == files(tmp_path / "fresh")


def test_what_a_power_cut_has_left_or_has_changed_since_is_written_anew(folder, tmp_path, begun):
    copies = begun / "train" / "n0"
    spoils = (lambda data: b""), (lambda data: bytes(len(data))), (lambda data: data[:-9])
    assert list(copies.glob("*.JPEG"))
    for copy, spoil in zip(sorted(copies.glob("*.JPEG")), spoils, strict=False):  # how many there are, threads decide
        copy.write_bytes(spoil(copy.read_bytes()))
    photograph(70, 70, seed=99).save(tmp_path / "another.JPEG")
    os.utime(tmp_path / "another.JPEG", (1, 1))
    os.replace(tmp_path / "another.JPEG", folder / "train" / "n0" / "9.JPEG")
    assert run(folder, begun) == 0
    assert run(folder, tmp_path / "fresh") == 0
    assert files(begun) == files(tmp_path / "fresh")


def test_all_is_on_the_disk_before_it_is_called_finished(folder, tmp_path, monkeypatch):
    target, states = tmp_path / "small", []
    monkeypatch.setattr(module.os, "sync", lambda: states.append((complete(target), len(files(target)))))
    assert run(folder, target) == 0
    assert states == [(False, 18)]
    assert complete(target)


def test_a_finished_copy_is_left_as_it_is(folder, tmp_path, capsys):
    target = tmp_path / "small"
    assert run(folder, target) == 0
    before = times(target)
    capsys.readouterr()
    assert run(folder, target) == 0
    assert f"{target}: was finished before, and is left as it is\n18 images are in" in capsys.readouterr().out
    photograph(70, 70).save(folder / "train" / "n1" / "new.JPEG")
    assert run(folder, target) == 2
    assert f"{folder} has changed since, to {{'train': 13, 'val': 6}}: name another" in capsys.readouterr().err
    assert times(target) == before


def test_what_is_gone_meanwhile_is_named_and_not_deleted(folder, begun, capsys):
    (folder / "train" / "n0" / "3.JPEG").unlink()
    for split in ("train", "val"):
        shutil.rmtree(folder / split / "n1")
    stranger = begun / "train" / "n0" / "3.JPEG"
    before = times(begun)
    assert run(folder, begun) == 2
    folders = f"{begun / 'train' / 'n1'}, {begun / 'val' / 'n1'}"
    assert f"error: {folders}: not in the photographs (any more): delete it" in capsys.readouterr().err
    assert times(begun).keys() == before.keys()
    for split in ("train", "val"):
        shutil.rmtree(begun / split / "n1")
    assert run(folder, begun) == 2
    assert f"error: {stranger}: not in the photographs (any more): delete it" in capsys.readouterr().err
    assert times(begun)[stranger] == before[stranger]
    assert not complete(begun)
    stranger.unlink()
    assert run(folder, begun) == 0
    assert load("photographs(32)", directory=begun).classes == ("n0", "n2")


@pytest.fixture
def victim(tmp_path):
    """What is the user's own."""
    for name in ("0.JPEG", "n0/0.JPEG", "mine/text", "mine/.originals.json"):
        path = tmp_path / "victim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path / "victim"


def content(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["../../../victim/0.JPEG", "{victim}/0.JPEG"])
def test_names_in_a_copy_from_elsewhere_delete_nothing(folder, begun, victim, name):
    before = content(victim)
    note = {name.format(victim=victim): [1, 2]}
    (begun / "train" / "n0" / ".originals.json").write_text(json.dumps(note))
    status = run(folder, begun)
    assert content(victim) == before
    assert status == 0
    assert files(begun).keys() == files(folder).keys()


def test_a_folder_in_the_copy_is_not_deleted(folder, begun, victim, capsys):
    shutil.move(victim / "mine", begun / "train" / "mine")
    before = content(begun / "train" / "mine")
    status = run(folder, begun)
    assert content(begun / "train" / "mine") == before
    assert status == 2
    assert f"{begun / 'train' / 'mine'}: not in the photographs" in capsys.readouterr().err


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
def test_links_are_not_followed(folder, begun, victim, capsys, name, to, refused):
    shutil.copy(begun / "resized.json", victim)
    path = begun / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (begun / "train/n0/3.JPEG").unlink(missing_ok=True)
    path.symlink_to(victim / to)
    before = content(victim)
    status = run(folder, begun)
    assert content(victim) == before
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
    status = run(tmp_path / "set", tmp_path / "some" / "small")
    assert sorted(os.listdir(tmp_path)) == ["records", "set"]
    assert status == 2
    assert "error: '../../../escaped' cannot be the name of a file or a folder in" in capsys.readouterr().err


def test_a_file_system_that_takes_two_names_for_one(tmp_path, monkeypatch):
    source, mkdir = Numbered(tmp_path / "records"), Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **b: mkdir(path.with_name(path.name.lower()), *a, **b))
    with pytest.raises(InputError, match=r"train/A, .*/val/A: missing after it was written"):
        resize(module.Photographs("set", source, source, ("a", "A"), 32), tmp_path / "small", 44)


def test_every_image_has_a_name_of_its_own(folder, tmp_path):
    sizes = {}
    for i, name in enumerate(("a.png", "a.png.JPEG", "a.png.JPEG.JPEG", "a.jpg", "a.jpg.jpeg", "a.PNG")):
        photograph(30 + i, 40).save(folder / "train" / "n0" / name, "PNG")
        sizes[30 + i] = name
    assert run(folder, tmp_path / "small") == 0
    assert len(files(folder / "train" / "n0")) == 6
    copies = [path for path in (tmp_path / "small" / "train" / "n0").iterdir() if path.name.startswith("a.")]
    assert {Image.open(path).size for path in copies} == {(size, 40) for size in sizes}


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


@pytest.mark.parametrize("more", [{}, {"source": "{folder}"}, {"source": "{folder}", "complete": False}])
def test_a_copy_of_an_earlier_version_trains_but_cannot_be_gone_on_with(folder, tmp_path, capsys, more):
    assert run(folder, tmp_path / "small") == 0
    note = json.dumps({"shorter_side": 44, "quality": 90, "complete": True} | more)
    (tmp_path / "small" / "resized.json").write_text(note.replace("{folder}", str(folder)))
    if complete(tmp_path / "small"):
        assert load("photographs(32)", directory=tmp_path / "small").resized == 44
    before = times(tmp_path / "small")
    assert run(folder, tmp_path / "small") == 2
    assert "made by an earlier version, which did not note of what: train on it" in capsys.readouterr().err
    assert times(tmp_path / "small") == before


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
        assert list(files(target)) == [
            f"{split}/{name}"
            for split in ("train", "val")
            for name in ("a/00000000.JPEG", "a/00000002.JPEG", "b/00000001.JPEG")
        ]
        note = json.loads((target / "resized.json").read_text())
        (target / "resized.json").write_text(json.dumps(note | {"complete": False}))
        return [path.stat().st_mtime_ns for path in target.rglob("*.JPEG")]

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
    assert run(folder, tmp_path / "another", "--on-error", "skip") == 0
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


def test_where_it_cannot_write_is_named(folder, begun, capsys):
    (begun / "train" / "n0" / "0.JPEG").unlink()
    (begun / "train" / "n0" / "0.JPEG").mkdir()
    assert run(folder, begun) == 2
    assert re.search(r"n0/0\.JPEG: cannot be written \(Is a directory\); when", capsys.readouterr().err)


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
