"""benchmarks/input_pipeline.py runs, and leaves what it says it does; what the numbers are is no test."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.input_pipeline import exit_code, main

pytest.importorskip("grain")


def run(*arguments):
    return exit_code(lambda: main([*map(str, arguments)]))


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs, some of them further below, and one file that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for i in range(6):
        path = folder / ("deeper" if i % 2 else ".") / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
        coarse.resize((100 + 10 * i, 80), Image.Resampling.BICUBIC).save(path, quality=90)
    (folder / "notes.txt").write_text("no image")
    return folder


def positive(spread):
    return 0 < spread["min"] <= spread["median"] <= spread["max"]


@pytest.mark.slow
def test_it_measures_and_writes_every_section(photos, tmp_path):
    assert run("--images", photos, "--quick", "--json", tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 6
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert "benchmarks.input_pipeline --images" in found["command"]
    assert {"date", "commit", "missing", "plan", "seconds"} <= found.keys()

    installed = {package for package, version in found["versions"].items() if version}
    turbo, torch = {"simplejpeg", "opencv-python-headless"} <= installed, {"torch", "torchvision"} <= installed
    readers = ["lmjax pillow"] + ["lmjax turbo"] * turbo + ["torch float32", "torch uint8"] * torch
    assert [(row["kind"], row["reader"]) for row in found["decode"]] == [
        (kind, reader)
        for kind in ("random", "evaluation")
        for reader in readers
        if (kind, reader) != ("evaluation", "lmjax turbo")
    ]
    for row in found["decode"]:
        assert positive(row["cpu_images_per_second"])
        assert positive(row["images_per_second"])
        assert ("relative" in row) == torch

    assert any("pip install torch torchvision" in line for line in found["missing"]) == (not torch)

    pairs = [("lmjax turbo", "lmjax pillow")] * turbo + [("lmjax pillow", "torch float32")] * torch
    assert {(row["reader"], row["to"]) for row in found["pixels"]} == set(pairs)
    for row in found["pixels"]:
        assert 0 <= row["mean"] <= row["max"] <= row["one_pixel"] <= 255

    (row,) = found["feed"]
    assert positive(row["images_per_second"])
    assert positive(row["first_batch_seconds"])
    if sys.platform == "linux":
        assert positive(row["pss_bytes"])
    (row,) = found["memory"]
    assert row["images_per_second"] > 0
    assert row["steps"] == list(range(1, 21))
    assert isinstance(row["left_in_shared_memory"], list)
    if sys.platform == "linux":
        assert len(row["rss_bytes"]) == 20
        assert row["first"] > 0


def test_sections_can_be_left_out(photos, tmp_path):
    assert run("--images", photos, "--quick", "--skip", "decode", "feed", "memory", "--json", tmp_path / "a.json") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["seconds"].keys() == {"pixels"}
    assert not {"decode", "feed", "memory"} & found.keys()


def test_photographs_that_are_none_are_told_in_one_line(photos, capsys):
    (photos / "broken.jpg").write_bytes(b"no image")
    assert run("--images", photos, "--quick") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {photos / 'broken.jpg'}: cannot be decoded (")
    assert said.count("\n") == 1
    assert run("--images", photos / "none", "--quick") == 2
    assert capsys.readouterr().err == f"error: {photos / 'none'}: holds no photographs (.jpg, .jpeg, .png)\n"
