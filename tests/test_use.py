"""A trained network in use: predictions for images of every kind, and files that work without lmjax."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import lmjax
from lmjax import InputError, cli, export
from lmjax.data.given import Preparation
from lmjax.training import RunRecord, TrainedNetwork, data_mesh
from lmjax.training.state import initialize
from tests import tiny
from tests.data.photos import photograph, write_folder
from tests.documentation import blocks, text

FLOAT32 = 1e-6  # probabilities of the same network, compiled twice
PREDICT, PLAIN, ONNX = blocks(text("docs/use.md"))


def network(directory, *, shape=(16, 16, 3), classes=3, **changes):
    """A network that has not been trained, as if it were opened."""
    config = tiny.changed(tiny.config, **changes)
    model, state = initialize(config, classes, shape[-1], 0, None)
    channels = range(shape[-1])
    about = {
        "classes": [f"n{i}" for i in range(classes)], "shape": list(shape),
        "mean": [120.0 + i for i in channels], "std": [60.0 + i for i in channels],
    }  # fmt: skip
    return TrainedNetwork(RunRecord(directory), config, 0, data_mesh(), about, nnx.graphdef(model), state)


@pytest.mark.parametrize("name", ["folder(16)", "photographs(16)"])
def test_files_are_scaled_and_cut_as_in_an_evaluation(tmp_path, name):
    if name == "photographs(16)":
        pytest.importorskip("grain")
    root = write_folder(tmp_path, train=3, val=9)
    with network(tmp_path, data={"name": name, "dir": str(root), "augment": ()}) as trained:
        images, _ = map(np.concatenate, zip(*trained.test_batches(), strict=True))
        paths = sorted((root / "val").rglob("*.JPEG"))
        np.testing.assert_array_equal(np.stack(list(map(trained.prepare, paths))), images)
        found, labels = trained.predict(paths)
        np.testing.assert_array_equal(found, trained.predict(images).probabilities)
        np.testing.assert_array_equal(labels, found.argmax(-1))
        logits = trained.logits(trained.model(), images)
        np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=FLOAT32)
        assert found.dtype == np.float32
        assert np.abs(found - found[0]).max() > 1e-3


@pytest.fixture
def folder(tmp_path):
    """Photographs of mixed sizes and formats, one of them broken, and a file that is none."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    place = tmp_path / "photos"
    photograph(60, 45, 0).save(place / "a.jpg")
    photograph(45, 60, 1).save(place / "b.JPG", format="JPEG")
    photograph(50, 50, 2).save(place / "c.png")
    photograph(90, 40, 3).save(place / "d.webp")
    photograph(33, 34, 4).save(place / "e.bmp")
    photograph(40, 40, 5).convert("L").save(place / "more" / "f.png")
    Image.fromarray(np.dstack([photograph(40, 30, 6), np.full((30, 40), 9, np.uint8)])).save(place / "more" / "g.png")
    (place / "more" / "h.jpg").write_bytes((place / "a.jpg").read_bytes()[:300])
    (place / "notes.txt").write_text("no image")
    return place


@pytest.mark.versions
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_from_a_file_an_image_and_an_array(tmp_path, folder, channels):
    trained = network(tmp_path, shape=(16, 16, channels))
    paths = [path for path in sorted(folder.rglob("*.*")) if path.name not in ("h.jpg", "notes.txt")]
    assert len(paths) == 7
    found = trained.predict(paths).probabilities
    assert np.unique(found, axis=0).shape == (7, 3)
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    mixed = [str(paths[0]), images[1], *arrays[2:]]
    for given in (images, arrays, mixed):
        np.testing.assert_array_equal(trained.predict(given).probabilities, found)
    ready = np.stack(list(map(trained.prepare, paths)))
    for given in (ready, ready.astype(np.float32), ready.astype(np.int64), list(ready)):
        np.testing.assert_array_equal(trained.predict(given).probabilities, found)
    for count in (1, 2, 5):  # other batches, and one of several
        np.testing.assert_allclose(trained.predict(ready[:count]).probabilities, found[:count], atol=FLOAT32)
    np.testing.assert_allclose(trained.predict(np.tile(ready, (20, 1, 1, 1)))[0], np.tile(found, (20, 1)), atol=FLOAT32)
    for one in (paths[2], images[2], arrays[2], arrays[2][None]):
        np.testing.assert_allclose(trained.predict(one).probabilities, found[2:3], atol=FLOAT32)
    gray = arrays[5]
    np.testing.assert_array_equal(trained.prepare(gray[..., None]), trained.prepare(gray))


def test_floating_point_pixels_keep_their_values(tmp_path):
    trained = network(tmp_path)
    pixels = np.asarray(photograph(60, 45))
    eight, floating = trained.prepare(pixels), trained.prepare(pixels.astype(np.float64))
    assert (eight.dtype, floating.dtype) == (np.uint8, np.float32)
    assert 0 < np.abs(eight - floating).max() <= 1  # Pillow rounds 8 bits twice
    five = network(tmp_path, shape=(16, 16, 5)).prepare(np.dstack([pixels, pixels[..., :2]]))
    np.testing.assert_array_equal(five[..., :3], eight)


def test_a_network_of_no_squares_takes_its_own_size():
    prepare = Preparation((30, 40, 3), 30)
    image = photograph(40, 30)
    np.testing.assert_array_equal(prepare(image), np.asarray(image))
    np.testing.assert_array_equal(prepare(np.float32(image)), np.float32(image))
    for given in (photograph(30, 40), np.float32(photograph(30, 40))):
        with pytest.raises(InputError, match="is 30 x 40 pixels, and the network takes 40 x 30"):
            prepare(given)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: give at least one"),
        (np.zeros((0, 16, 16, 3), np.uint8), "images: give at least one"),
        ("/nowhere.png", r"/nowhere.png: cannot be read \(No such file"),
        (__file__, "test_use.py: cannot be decoded"),
        (
            [np.zeros((16, 16, 3)), np.zeros((16, 16, 5))],
            r"image 1: .* \[16, 16, 5\], and must be \[h, w, 3",
        ),
        (np.zeros((2, 3, 16, 16)), r"image 0: has the shape \[3, 16, 16\]"),
        (np.zeros((16, 0, 3)), "image 0: has no pixels"),
        (Image.new("RGB", (0, 9)), "image 0: has no pixels"),
        (np.full((16, 16, 3), 0.5), "got at most 0.5: multiply what runs from 0 to 1 by 255"),
        (np.full((16, 16, 3), -1.0), "not normalized, got -1 to -1"),
        (np.full((16, 16, 3), np.nan), "got nan to nan"),
        (np.full((16, 16, 3), 256), "got 256 to 256"),
        (np.array("text"), "must be a path, an image of Pillow, or an array of pixels, got <U4"),
        ([None], "image 0: must be a path"),
        ([[[1, 2], [3]]], "image 0: is no array of pixels"),
        ("a\0b.png", "is no path"),
        (Image.fromarray(np.zeros((16, 16), np.uint16)), "more than 8 bits a channel"),
    ],
)
def test_images_that_are_none(images, message):
    with pytest.raises(InputError, match=message):
        list(Preparation((16, 16, 3), 16).batches(images, 128))


def test_the_command(runs, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    run = str(runs["euler"])
    assert cli.main(["predict", run, "photos", "photos/*.webp", "gone.png", "--top", "2", "--format", "json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    inside = [f"photos/{name}" for name in ("a.jpg", "b.JPG", "c.png", "d.webp", "e.bmp", "more/f.png", "more/g.png")]
    assert [row["file"] for row in found] == [*inside, "photos/d.webp"]
    assert [line.partition(" (")[0] for line in err.splitlines()] == [
        "error: photos/more/h.jpg: cannot be decoded", "error: gone.png: cannot be read",
    ]  # fmt: skip
    with lmjax.load(run) as trained:
        shares, labels = trained.predict(inside)
    for row, share, label in zip(found, shares, labels, strict=False):
        assert [each["probability"] for each in row["classes"]] == pytest.approx(np.sort(share)[:-3:-1], abs=FLOAT32)
        assert row["classes"][0]["class"] == trained.classes[label]
    assert cli.main(["predict", run, "photos/c.png", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["file"], row["rank"]) for row in rows] == [("photos/c.png", str(n)) for n in range(1, 6)]
    assert rows[0]["class"] == found[2]["classes"][0]["class"]
    assert cli.main(["predict", run, "photos/c.png", "--top", "1"]) == 0
    share = found[2]["classes"][0]["probability"]
    assert capsys.readouterr().out == f"photos/c.png  {rows[0]['class']} {share:.2%}\n"
    (folder / "empty").mkdir()
    assert cli.main(["predict", run, "photos/empty"]) == 1
    assert "photos/empty: has no images in it" in capsys.readouterr().err
    for words, message in (
        (["--top", "0"], "--top: must be at least 1"),
        (["--at", "last"], "no checkpoint last: choose from"),
    ):
        assert cli.main(["predict", run, "photos", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_example(runs, folder, monkeypatch, capsys):
    shutil.copytree(runs["euler"], folder / "runs" / "a")
    for name in ("photo.jpg", "photos/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        photograph(30, 20).save(folder / name)
    monkeypatch.chdir(folder)
    exec(compile(PREDICT, "docs/use.md", "exec"), {})
    assert re.fullmatch(r"\['\d', '\d'\]\n", capsys.readouterr().out)


def elsewhere(code, folder):
    """Run a program where lmjax cannot be imported."""
    (folder / "lmjax.py").write_text("raise ImportError('lmjax is not here')")
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def exported(runs, tmp_path, monkeypatch, capsys):
    """A folder with what the examples of docs/use.md find, and the probabilities that they are to give."""
    shutil.copytree(runs["lm"] / "seed1", tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    with lmjax.load("runs/a") as trained:
        images, _ = trained.test_sample(5)
        np.save("images.npy", images)
        wanted = trained.predict(images)

    def of(format):
        assert cli.main(["export", "runs/a", "--format", format]) == 0
        assert capsys.readouterr().out.startswith(f"wrote a.{format} (")
        return tmp_path, trained, wanted

    return of


@pytest.mark.versions
def test_stablehlo_without_lmjax(exported):
    pytest.importorskip("flatbuffers")
    folder, trained, wanted = exported("stablehlo")
    said = elsewhere(f"{PLAIN}\nnp.save('found.npy', probabilities)\nprint(network.platforms)", folder)
    np.testing.assert_allclose(np.load("found.npy"), wanted.probabilities, atol=FLOAT32)
    assert said == f"{[trained.classes[label] for label in wanted.labels]}\n('cpu', 'cuda', 'tpu')\n"
    about = json.loads((folder / "a.stablehlo.json").read_text())
    assert about["images"] == {"dtype": "uint8", "shape": [None, 8, 8, 1], "shorter_side": 8}
    assert (about["step"], about["network"]) == (trained.step, "tiny, lm")


@pytest.mark.slow
def test_onnx_without_lmjax(exported):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    folder, _, wanted = exported("onnx")
    elsewhere(f"{ONNX}\nnp.save('found.npy', probabilities)", folder)
    np.testing.assert_allclose(np.load("found.npy"), wanted.probabilities, atol=FLOAT32)


def test_weights_are_used_like_a_run(exported, capsys):
    pytest.importorskip("safetensors")
    _, trained, wanted = exported("safetensors")
    with lmjax.load("a.safetensors") as loaded:
        np.testing.assert_array_equal(loaded.predict(np.load("images.npy")).probabilities, wanted.probabilities)
        assert (loaded.classes, loaded.config.model) == (trained.classes, trained.config.model)
        with pytest.raises(InputError, match=r"a\.safetensors: has weights, and no images"):
            loaded.evaluate()
    with lmjax.load("a.safetensors", config=trained.config) as loaded:
        assert loaded.evaluate() == trained.evaluate()
    with pytest.raises(InputError, match="is of another network than the config"):
        lmjax.load("a.safetensors", config=tiny.changed(trained.config, model={"stepper": "euler"}))
    with pytest.raises(InputError, match="has weights, and no checkpoints: leave out at='best'"):
        lmjax.load("a.safetensors", at="best")
    photograph(30, 20).save("a.png")
    outputs = []
    for place in ("runs/a", "a.safetensors"):
        assert cli.main(["predict", place, "a.png", "--format", "csv"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_weights_keep_how_photographs_are_scaled(tmp_path):
    pytest.importorskip("safetensors")
    trained = network(tmp_path, data={"name": "photographs(16)", "dir": str(tmp_path), "augment": ()})
    lmjax.weights.save(tmp_path / "a.safetensors", trained.weights())
    assert lmjax.load(tmp_path / "a.safetensors").prepare == trained.prepare == Preparation((16, 16, 3), 18)


@pytest.mark.slow
@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize(
    ("model", "fails"),
    [
        ({"name": "resnet20", "stepper": "rk4", "dtype": "bfloat16"}, ""),
        ({"name": "resnet20", "stepper": "backward_euler(20, 1e-3)"}, ""),
        ({"name": "resnet20", "stepper": "stochastic_depth(lm, 0.8)", "unroll": False}, ""),
        ({"name": "convnext((1, 2), (8, 16), patch=1)", "stepper": None}, ""),
        ({"name": "revnet38", "stepper": None}, "onnx"),
    ],
)
def test_other_networks(tmp_path, format, model, fails):
    """`save` itself compares the file with the network."""
    pytest.importorskip("flatbuffers" if format == "stablehlo" else "jax2onnx")
    trained, path = network(tmp_path, model=model), tmp_path / f"a.{format}"
    if fails == format:
        with pytest.raises(InputError, match=r"cannot be written as ONNX .*: take stablehlo"):
            export.save(trained, path, format)
    else:
        assert path in export.save(trained, path, format)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    trained = network(tmp_path)
    monkeypatch.setattr(export, "_function", lambda trained: lambda images: jax.numpy.ones((images.shape[0], 3)))
    with pytest.raises(InputError, match="as StableHLO gives other probabilities, by 0"):
        export.save(trained, tmp_path / "a.stablehlo", "stablehlo")
    assert not (tmp_path / "a.stablehlo").exists()


@pytest.mark.parametrize(("format", "package"), [("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")])
def test_a_network_for_one_number_of_images(tmp_path, monkeypatch, format, package):
    pytest.importorskip(package)
    monkeypatch.setattr(export, "_function", lambda trained: lambda images: images.reshape(len(images), -1))
    with pytest.raises(InputError, match=r"cannot be traced for any number of images \(.*\): let it take the number"):
        export.save(network(tmp_path), tmp_path / "a", format)


@pytest.mark.parametrize(("format", "package"), [("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs {package}, which is not installed: pip install {package}"):
        export.save(network(tmp_path), tmp_path / "a", format)
