"""Smaller copies of photographs."""

import io
import json
import re

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
    assert not list(target.rglob(".*"))


def test_a_set_prepared_by_tensorflow_datasets(tmp_path):
    """Its images have no file names that are sure to differ: they are numbered."""

    class Records:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            file = io.BytesIO()
            photograph(60, 50, seed=i).save(file, "JPEG")
            return file.getvalue(), i % 2

        def place(self, i):
            return f"image {i}"

    resize(module.Photographs("set", Records(), Records(), ("a", "b"), 32), tmp_path / "small", 44)
    assert list(files(tmp_path / "small")) == [
        f"{split}/{name}"
        for split in ("train", "val")
        for name in ("a/00000000.JPEG", "a/00000002.JPEG", "b/00000001.JPEG")
    ]


def test_broken_images_stop_it_or_are_left_out(folder, tmp_path, capsys):
    broken = folder / "train" / "n2" / "5.JPEG"
    broken.write_bytes(broken.read_bytes()[:-100])
    assert run(folder, tmp_path / "small") == 2
    assert f"{broken}: cannot be decoded (image file is truncated" in capsys.readouterr().err
    assert run(folder, tmp_path / "small", "--on-error", "skip") == 0
    assert f"left out, since it cannot be decoded: {broken}" in capsys.readouterr().err
    assert len(files(tmp_path / "small")) == 17


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
