"""A data set brings data: a module that lies beside it, and that its files name, never runs."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

import train
from lmjax import InputError, cli
from lmjax.data import load
from tests.data import handmade

pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.versions

PLACES = ("extra", "image", "label", "nested", "whole")
FORMS = ("pythonClassName", "python_class_name", "text of protobuf", "before protobuf")


def png(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


RECORDS = [{"image": png(i), "label": i % 2} for i in range(8)]


@pytest.fixture
def version(tmp_path, monkeypatch):
    """A whole data set, and beside it the module `planted`, which leaves a file behind when it runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    version = tmp_path / "cifar10" / "3.0.2"
    handmade.prepare(version, {"train": RECORDS, "test": RECORDS})
    (tmp_path / "planted.py").write_text("open('ran', 'w')\n")
    yield version
    ran = (tmp_path / "ran").exists()
    sys.modules.pop("planted", None)
    assert not ran


def older(feature):
    """A feature in the form that it had before protobuf."""
    if "featuresDict" in feature:
        content = {name: older(each) for name, each in feature["featuresDict"]["features"].items()}
    elif "image" in feature:
        content = {"shape": [None, None, 3], "dtype": "uint8", "encoding_format": "png"}
    else:
        content = {"num_classes": 2} if "classLabel" in feature else {}
    return {"type": feature["pythonClassName"], "content": content}


def plant(version, place="extra", form="pythonClassName"):
    """Names the module in what describes a data set, and in the other files that may lie there."""
    file = version / "features.json"
    whole = json.loads(file.read_text())
    features = whole["featuresDict"]["features"]
    planted = {"pythonClassName": "planted.Feature", "text": {}}
    if place == "whole":
        whole["pythonClassName"] = "planted.Feature"
    elif place == "nested":
        features["more"] = {"pythonClassName": whole["pythonClassName"], "featuresDict": {"features": {"x": planted}}}
    elif place == "extra":
        features["extra"] = planted
    else:
        features[place]["pythonClassName"] = "planted.Feature"
    if form == "before protobuf":
        whole = older(whole)
    elif form == "text of protobuf":
        content, proto = json.dumps(whole["featuresDict"]), "tensorflow_datasets.FeaturesDict"
        whole = {"type": whole["pythonClassName"], "content": content, "proto_cls": proto}
    else:
        whole = json.loads(json.dumps(whole).replace("pythonClassName", form))
    file.write_text(json.dumps(whole))
    info = version / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"moduleName": "planted"}))
    (version / "metadata.json").write_text('{"type": "planted.Feature"}')


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_loading(version, tmp_path, place, form):
    plant(version, place, form)
    refused = place in ("image", "label")
    for opened in (
        lambda: load("cifar10", directory=tmp_path),
        lambda: load("cifar10", directory=version),
        lambda: load("tfds(cifar10)", directory=tmp_path),
        lambda: load("photographs(32)", directory=tmp_path),
        lambda: load("photographs(32)", directory=version),
    ):
        with pytest.raises(InputError, match="no images with one label") if refused else contextlib.nullcontext():
            data = opened()
            assert (len(data.train), data.classes) == (8, ("a", "b"))


def test_commands(version, tmp_path, capsys):
    """Each opens the data set, or refuses it, and goes on as with any other."""
    (tmp_path / "config.py").write_text("from lmjax.config import Config\nconfig = Config()\n")
    run = f"--config config.py --data.name cifar10 --data.dir {tmp_path} --model.name tiny"
    run += " --train.epochs 1 --train.batch-size 8 --train.eval-batch-size 8"
    commands = [
        (train.main, f"{run} --workdir run"),
        (train.main, f"{run} --evaluate run"),
        (train.main, f"{run} --data.name tfds(cifar10) --workdir again"),
        (cli.main, "report run --out report.html"),
        (cli.main, "prepare resize --images cifar10 --to small"),
    ]
    plant(version)
    for main, words in commands:
        assert main(words.split()) == 0, capsys.readouterr()
    plant(version, "image")
    refused = [main(words.replace("--workdir ", "--workdir other-").split()) for main, words in commands]
    assert refused == [2, 2, 2, 0, 2]  # a report does without the images
