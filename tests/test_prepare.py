"""`lmjax prepare`: what it refuses, what it leaves behind, and (slow, with TensorFlow) what it makes."""

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import types

import numpy as np
import pytest
from PIL import Image

from lmjax import cli
from lmjax.data import prepared
from lmjax.prepare import imagenet, validation
from tests.data import handmade
from tests.parameters import slow
from tests.tiny import ROOT

pytest.importorskip("tensorflow_datasets")

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CMYK, PNG = "n01739381_1309.JPEG", "n02105855_2933.JPEG"  # two that tensorflow-datasets converts
CLASSES = ("n01440764", "n01739381", "n02105855", "n03961711", "n15075141")


def picture(seed, mode="RGB", kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).resize((50, 40), Image.Resampling.BILINEAR).save(file, kind)
    return file.getvalue()


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


TRAINING_IMAGES = {f"{name}_{i}.JPEG": picture(10 * k + i) for k, name in enumerate(CLASSES) for i in range(3)}
TRAINING_IMAGES |= {CMYK: picture(1, "CMYK"), PNG: picture(2, kind="PNG")}
VALIDATION_IMAGES = {f"ILSVRC2012_val_{i:08}.JPEG": picture(1000 + i) for i in range(1, 8)}


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "the archives"
    folder.mkdir()
    classes = {
        f"{name}.tar": tar({image: data for image, data in TRAINING_IMAGES.items() if image.startswith(name)})
        for name in CLASSES
    }
    (folder / TRAIN).write_bytes(tar(classes))
    (folder / VALIDATION).write_bytes(tar(VALIDATION_IMAGES))
    return folder


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


MAKE = """
from pathlib import Path
from tests.data import handmade
records = [{"image": b"an image", "label": i % 2} for i in range(4)]
handmade.prepare(Path(sys.argv[2], "imagenet2012", "5.1.0"), {"train": records, "validation": records[:3]})
"""
HALF = """
from pathlib import Path
folder = Path(sys.argv[2], "imagenet2012", "incomplete.ABC123_5.1.0")
folder.mkdir(parents=True)
(folder / "bucket_000.tmp").write_text("much")
"""


@pytest.fixture
def run(archives, data, capsys, monkeypatch):
    """Runs the command: its exit status, and what it printed to stdout and to stderr.

    In place of tensorflow-datasets, a program is run, which needs no packages.
    """

    def run(*more, to=data, program=MAKE, packages=None):
        monkeypatch.setattr(imagenet, "_PACKAGES", packages or {})
        monkeypatch.setattr(imagenet, "_BUILD", f"import sys, os, signal\nsys.path.insert(0, {str(ROOT)!r})\n{program}")
        status = cli.main(["prepare", "imagenet2012", "--archives", str(archives), "--data-dir", str(to), *more])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def mistake(run):
    """The one clear line that ends it."""

    def mistake(**options):
        status, _, err = run(**options)
        assert (status, err.count("\n")) == (2, 1)
        return err

    return mistake


def test_check_only_looks(run, data):
    status, out, err = run("--check", program="raise Exception")
    assert (status, err) == (0, "")
    assert "ILSVRC2012_img_train.tar: 0.0 GiB, 5 of 1,000 classes" in out
    assert "ILSVRC2012_img_val.tar: 0.0 GiB, 7 of 50,000 images" in out
    assert re.search(r"disk: .* are needed .* are free", out)
    assert re.search(r"memory: about 3 GiB; time: about \d+ min", out)
    assert not data.exists()
    (data / "preparing-x").mkdir(parents=True)
    _, out, _ = run("--check")
    assert f"{data / 'preparing-x'}: is being prepared by another process, or left by one" in out


def test_prepares_and_says_how_to_train(run, data, mistake):
    status, out, err = run()
    assert (status, err) == (0, "")
    version = data / "imagenet2012" / "5.1.0"
    assert f"{version}: 4 training and 3 test images\n" in out
    assert out.endswith(f"--config imagenet:lm_resnet50 --data.dir {data}\n")
    assert os.listdir(data) == ["imagenet2012"]
    assert len(prepared.load(version).train) == 4
    status, out, _ = run(program="raise Exception")
    assert status == 0
    assert f"{version}: is prepared already, with 4 training and 3 test images" in out
    next(version.glob("*train.array_record*")).unlink()
    assert mistake().endswith(f"prepare the data set again; for that, delete {version} first\n")


def test_another_data_set_is_not_taken_for_imagenet(data, mistake):
    records = [{"image": b"image", "label": 0}]
    handmade.prepare(data.with_name("tiny") / "1.0.0", {"train": records, "validation": records})
    data.with_name("tiny").rename(data)
    assert mistake() == f"error: --data-dir {data}: holds another data set, {data}/1.0.0: name another folder\n"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "signal 9; is there"),
        ("", "exit status 0"),
    ],
)
def test_failing_leaves_nothing(data, mistake, end, reason):
    assert mistake(program=HALF + end).startswith(f"error: tensorflow-datasets failed ({reason}")
    assert os.listdir(data) == []


@pytest.mark.parametrize("how", [slow(signal.SIGINT), signal.SIGTERM, slow(signal.SIGHUP)])
def test_interrupted_leaves_nothing(archives, data, how):
    wait = f"{HALF}\nimport time; (folder / str(os.getpid())).touch(); time.sleep(100)"
    program = (
        "from lmjax import cli; from lmjax.prepare import imagenet; imagenet._PACKAGES = {}; "
        f"imagenet._BUILD = {'import sys, os' + wait!r}; cli.run()"
    )
    arguments = ["prepare", "imagenet2012", "--archives", str(archives), "--data-dir", str(data)]
    process = subprocess.Popen(
        # A shell in the background ignores the one, and nohup the other.
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)],
        args=[sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (marks := list(data.glob("preparing-*/imagenet2012/incomplete.*/[0-9]*"))):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, b"interrupted\n")
    assert os.listdir(data) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marks[0].name), 0)


def test_missing_archives_and_packages_are_told_in_one_line(mistake, run, archives, data):
    (archives / TRAIN).unlink()
    (archives / VALIDATION).unlink()
    packages = {"tensorflow_that_is_not_there": "tensorflow", "jax": "jax"}
    err, (_, out, _) = mistake(packages=packages), run()
    for name in (TRAIN, VALIDATION):
        assert f"there is no {archives / name}: name the folder that holds it by --archives" in err
        assert f"{name}: missing" in out
    assert "https://www.image-net.org/download-images" in err
    assert err.endswith("pip install tensorflow\n")
    assert not data.exists()


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_archives_cut_short(run, archives, name):
    path = archives / name
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1].offset
    for content in (*(data[:size] for size in (0, 300, len(data) // 2, last)), b"no tar" * 1000, bytes(10240)):
        path.write_bytes(content)
        status, out, err = run()
        assert status == 2
        assert err.startswith(f"error: {path}: is no tar archive, or cut short (")
        assert f"{name}: will not do" in out


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        (TRAIN, TRAINING_IMAGES, "holds nothing like 'n01440764_0.JPEG'"),
        (VALIDATION, {k: v for k, v in VALIDATION_IMAGES.items() if "3" not in k}, "_00000004.JPEG' where image 3 sho"),
        (VALIDATION, {f"val/{k}": v for k, v in VALIDATION_IMAGES.items()}, "holds 'val/ILSVRC2012_val_00000001.JPEG'"),
    ],
)
def test_archives_that_are_not_the_official_ones(mistake, archives, name, members, message):
    (archives / name).write_bytes(tar(members))
    assert message in mistake()


def test_places_that_will_not_do(mistake, tmp_path, data, monkeypatch):
    """A file, a disk that is too small, and what is behind a link."""
    (tmp_path / "file").write_text("")
    for to in (tmp_path / "file", tmp_path / "file" / "data"):
        assert mistake(to=to) == f"error: --data-dir {to}: cannot be written to\n"
    with monkeypatch.context() as patch:
        patch.setattr(imagenet.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
        assert re.search(r"only 0\.0 GiB of the .* GiB that are needed are free", mistake())
    (tmp_path / "victim").mkdir()
    data.mkdir(exist_ok=True)
    for to in ("victim", "nowhere"):
        (data / "imagenet2012").unlink(missing_ok=True)
        (data / "imagenet2012").symlink_to(tmp_path / to)
        assert f"{data / 'imagenet2012'}: is a link, and nothing is written through one" in mistake()
        assert os.listdir(data) == ["imagenet2012"]
    assert os.listdir(tmp_path / "victim") == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="preparing ImageNet needs TensorFlow")
@pytest.mark.skipif(importlib.util.find_spec("importlib_resources") is None, reason="and importlib_resources")
def test_imagenet_by_tensorflow_datasets_itself_trains(archives, data, tmp_path):
    command = [sys.executable, "-m", "lmjax", "prepare", "imagenet2012", "--archives", str(archives), "--data-dir"]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    ran = subprocess.run([*command, str(data)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Generating train examples" in ran.stderr  # its progress can be seen
    assert os.listdir(data) == ["imagenet2012"]
    found = prepared.load(prepared.find("imagenet2012", data))
    assert len(found.classes) == 1000

    def content(records):
        images = {re.search(r"\((.*)\)", records.place(i))[1]: records[i] for i in range(len(records))}
        return {name: (file, found.classes[label]) for name, (file, label) in images.items()}

    train, test = content(found.train), content(found.test)
    labels = validation._labels()
    assert test == {name: (file, labels[i]) for i, (name, file) in enumerate(VALIDATION_IMAGES.items())}
    assert {name: label for name, (_, label) in train.items()} == {name: name[:9] for name in TRAINING_IMAGES}
    for name, file in TRAINING_IMAGES.items():
        if name not in (CMYK, PNG):
            assert train[name][0] == file
            continue
        converted, original = Image.open(io.BytesIO(train[name][0])), Image.open(io.BytesIO(file))
        assert (converted.format, converted.mode, converted.size) == ("JPEG", "RGB", original.size)
        difference = np.asarray(converted, np.float32) - np.asarray(original.convert("RGB"), np.float32)
        assert abs(difference).mean() < 5

    pytest.importorskip("grain")
    options = "--config imagenet:lm_resnet50 --data.name photographs(32) --model.width 0.25 --train.epochs 2"
    options += " --train.batch-size 8 --train.eval-batch-size 8"
    places = ["--data.dir", str(data), "--workdir", str(tmp_path / "run")]
    assert cli.main(["train", *options.split(), *places]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 * (len(TRAINING_IMAGES) // 8)
    assert 0 <= summary["test_accuracy"] <= summary["test_top5_accuracy"] <= 1


OFFICIAL = {1: "n01751748", 2: "n09193705", 3: "n02105855", 49999: "n10148035", 50000: "n02437616"}


def image(number):
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "val"
    folder.mkdir()
    for number in OFFICIAL:
        (folder / image(number)).write_text(str(number))
    return folder


def sort(folder):
    return cli.main(["prepare", "sort-validation", "--images", str(folder)])


def test_validation_images_are_sorted_by_the_official_labels(flat, capsys):
    """Again, it goes on where it was interrupted; hidden files are ignored."""
    (flat / ".DS_Store").touch()
    assert sort(flat) == 0
    assert capsys.readouterr().out.endswith("5 images were sorted; now 5 of 50,000 are in the folders of 5 classes\n")
    for number, label in OFFICIAL.items():
        assert (flat / label / image(number)).read_text() == str(number)
    assert set(os.listdir(flat)) == {".DS_Store", *OFFICIAL.values()}
    (flat / OFFICIAL[1] / ".DS_Store").touch()
    for more in (0, 2):
        for number in range(4, 4 + more):
            (flat / image(number)).touch()
        assert sort(flat) == 0
        assert f"{more} images were sorted; now {5 + more} of 50,000" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stranger",
    [
        "notes.txt",
        image(0),
        image(50001),
        "ILSVRC2012_val_1.JPEG",
        f"n00000000/{image(4)}",
        f"{OFFICIAL[1]}/{image(2)}",
        f"{OFFICIAL[1]}/{image(1)}",
        f"{OFFICIAL[1]}/notes.txt",
        f"{image(4)}/x",
    ],
)
def test_what_is_not_understood_is_left_alone(flat, capsys, stranger):
    (flat / stranger).parent.mkdir(exist_ok=True)
    (flat / stranger).write_text("")
    before = sorted(flat.rglob("*"))
    assert sort(flat) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {flat}")
    assert "nothing was moved" in err
    assert sorted(flat.rglob("*")) == before


def test_images_are_not_moved_through_or_over_a_link(flat, tmp_path, capsys):
    (tmp_path / "victim").mkdir()
    (flat / OFFICIAL[2]).symlink_to(tmp_path / "victim")
    before = sorted(flat.rglob("*"))
    assert sort(flat) == 2
    assert f"error: {flat / OFFICIAL[2]}: is a link" in capsys.readouterr().err
    assert os.listdir(tmp_path / "victim") == []
    assert sorted(flat.rglob("*")) == before

    (flat / OFFICIAL[2]).unlink()
    (flat / OFFICIAL[2]).mkdir()
    (link := flat / OFFICIAL[2] / image(2)).symlink_to("nowhere")
    assert sort(flat) == 2
    assert f"is also {link}: delete one of them; nothing was moved" in capsys.readouterr().err
    assert os.readlink(link) == "nowhere"
