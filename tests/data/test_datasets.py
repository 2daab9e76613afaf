"""Data sets by name: what each loads, what it refuses, images held out for the test, and what cannot be decoded."""

import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

import train
from lmjax import InputError
from lmjax.config import DataConfig
from lmjax.data import Dataset, Files, Origin, Photographs, Split, datasets, load
from lmjax.data.resident import ResidentEvaluation
from lmjax.data.source import Absent, Subset, hold_out
from tests import tiny
from tests.data import handmade
from tests.data.photos import write_folder
from tests.devices import ONE
from tests.documentation import blocks, text

pytestmark = pytest.mark.versions

COUNTS = {"train": 20, "test": 6}


def png(shade, mode="RGB", size=(8, 8)):
    file = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def prepare(directory, *splits, mode="RGB", **options):
    pytest.importorskip("tensorflow_datasets")
    records = {name: [{"image": png(i, mode), "label": i % 2} for i in range(COUNTS[name])] for name in splits}
    handmade.prepare(directory, records, **options)


def broken(path):
    path.write_bytes(path.read_bytes()[:200])


def train_on(name, directory, workdir, *more):
    words = ["--config", "configs/digits.py", "--data.name", name, "--data.dir", directory, "--workdir", workdir]
    words += ["--data.augment", "flip", "--model.name", "tiny", "--model.stepper", "euler"]
    words += ["--train.epochs", "1", "--train.batch-size", "8", "--train.eval-batch-size", "8", *more]
    return train.main([*map(str, words)])


def read(path):
    return json.loads(path.read_text())


def test_digits():
    from sklearn.datasets import load_digits

    dataset, again = load("digits"), DataConfig("digits").load()
    assert (dataset.shape, dataset.classes) == ((8, 8, 1), tuple("0123456789"))
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert np.bincount(dataset.test.labels).min() >= 35  # a fifth of every class
    assert (dataset.test.images == again.test.images).all()
    assert dataset.describe() == again.describe()
    both = np.concatenate([dataset.train.images, dataset.test.images]).reshape(1797, -1)
    original = np.round(load_digits().images * (255 / 16)).astype(np.uint8).reshape(1797, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original)), "each is in one split"


def test_nothing_is_loaded_before_it_is_asked_for():
    for call in ("cifar10", "cifar100", "folder", "tfds(mnist)", "photographs", "photographs(tfds=mnist)"):
        assert DataConfig(call, dir="/nowhere").origin.streamed == call.startswith("photographs")
        with pytest.raises(InputError, match=r"data\.dir: there is no directory /nowhere"):
            DataConfig(call, dir="/nowhere").load()
    with pytest.raises(InputError, match="unknown data set 'cifar11': did you mean 'cifar10'"):
        load("cifar11")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tfds(tmp_path, monkeypatch, mode):
    prepare(tmp_path / "mine" / "1.0.0", "train", "test", mode=mode)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # it is not needed
    for below in ("", "mine", "mine/1.0.0"):
        found = load("tfds(mine)", directory=tmp_path / below)
        assert (found.name, found.classes, found.shape) == ("mine", ("a", "b"), (8, 8, 3))
        assert found.train.images[:, 0, 0, 0].tolist() == list(range(20))
        assert (found.train.images[7, 3, 3] == (7, 7, 7)).all() == (mode == "L")  # gray becomes RGB
        assert found.test.labels.tolist() == [0, 1] * 3
    assert load("tfds(mine, 4)", directory=tmp_path).shape == (4, 4, 3)


def test_variants_of_a_set(tmp_path):
    prepare(tmp_path / "resized" / "8x8" / "1.0.0", "train", "test")
    info = tmp_path / "resized" / "8x8" / "1.0.0" / "dataset_info.json"
    for file in info.parent.glob("8x8-*"):  # a file has the name of the set
        file.rename(file.with_name(file.name.replace("8x8", "resized", 1)))
    info.write_text(json.dumps(read(info) | {"name": "resized", "configName": "8x8"}))
    for call in ("tfds('resized/8x8')", "tfds(resized)"):
        for below in ("", "resized", "resized/8x8", "resized/8x8/1.0.0"):
            assert load(call, directory=tmp_path / below).name == "resized/8x8"
    with pytest.raises(InputError, match="holds resized/8x8, not resized/16x16"):
        load("tfds('resized/16x16')", directory=info.parent)
    prepare(tmp_path / "resized" / "16x16" / "1.0.0", "train")
    with pytest.raises(InputError, match=r"several prepared data sets \(16x16, 8x8\): name one"):
        load("tfds(resized)", directory=tmp_path)


def test_where_tfds_prepares_by_default(tmp_path, monkeypatch):
    prepare(tmp_path / "mine" / "1.0.0", "train", "test")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load("tfds(mine)").train) == len(load("photographs(8, tfds=mine)").train) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"mine is not prepared in {tmp_path}/tensorflow_datasets: "):
        load("tfds(mine)")
    (tmp_path / "tensorflow_datasets").mkdir()
    (tmp_path / "mine").rename(tmp_path / "tensorflow_datasets" / "mine")
    assert len(load("tfds(mine)").train) == 20


@pytest.mark.parametrize("call", ["tfds(mnist)", "photographs(tfds=mnist)"])
def test_what_is_not_prepared_can_be_by_one_command(tmp_path, call):
    with pytest.raises(InputError) as error:
        load(call, directory=tmp_path)
    program = re.search(r"python -c '(.*)'$", str(error.value))[1]
    tfds, asked = type("tfds", (), {}), []
    tfds.builder = lambda name, data_dir: type("", (), {"download_and_prepare": lambda _, **how: asked.append(how)})()
    sys_modules = {**sys.modules, "tensorflow_datasets": tfds}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "modules", sys_modules)
        exec(program.replace("import tensorflow_datasets as tfds; ", ""), {"tfds": tfds})
    assert asked == [{"file_format": "array_record"}]
    assert f'tfds.builder("mnist", data_dir="{tmp_path}")' in program


def test_a_set_by_its_name_among_several(tmp_path):
    for name, splits in (("one", ("train", "test")), ("two", ("train", "test"))):
        prepare(tmp_path / name / "1.0.0", *splits)
    with pytest.raises(InputError, match=r"several prepared data sets \(one, two\)"):
        load("photographs(8)", directory=tmp_path)
    found = load("photographs(8, tfds=two)", directory=tmp_path)
    assert (found.name, found.train.place(0)) == ("two", f"{tmp_path}/two/1.0.0: image 0 of the split 'train'")
    with pytest.raises(InputError, match="holds one, not two"):
        load("tfds(two)", directory=tmp_path / "one")


def test_options_reach_the_images(tmp_path):
    root = write_folder(tmp_path, train=6, val=3)
    config = DataConfig("photographs(16, decoder=turbo)", dir=str(root), on_error="skip", workers=2, threads=3)
    found = config.load()
    assert (found.size, found.decoder, found.skip, found.workers, found.threads) == (16, "turbo", True, 2, 3)
    found = load("photographs", directory=root)
    assert (found.size, found.decoder, found.skip, found.workers, found.threads) == (224, "pillow", False, None, None)


@pytest.mark.parametrize("call", ["folder(8, val_split=0.25)", "photographs(8, val_split=0.25)"])
def test_held_out_of_a_folder_or_of_a_prepared_set(tmp_path, call):
    root = write_folder(tmp_path / "folder", train=24, val=0)
    data = load(call, directory=root)
    assert (len(data.train), len(data.test)) == (18, 6)
    files = Files(root / "train", ("n0", "n1", "n2"))
    train, test = hold_out(files, None, 0.25, root, "")
    places = [source.place(i) for source in (train, test) for i in range(len(source))]
    assert sorted(places) == [*map(files.place, range(24))]
    assert np.bincount([test[i][1] for i in range(6)]).tolist() == [2, 2, 2]
    if isinstance(data, Photographs):
        assert [data.test.place(i) for i in range(6)] == [test.place(i) for i in range(6)]
    else:
        assert data.test.labels.tolist() == [test[i][1] for i in range(6)]
    assert load(call, directory=root).describe() == data.describe()  # always the same ones
    prepare(tmp_path / "tfds" / "mine" / "1.0.0", "train")
    data = load(call.replace("folder(8", "tfds(mine"), directory=tmp_path / "tfds")
    assert (len(data.train), len(data.test)) == (15, 5)
    if isinstance(data, Dataset):
        assert sorted([*data.train.images[:, 0, 0, 0], *data.test.images[:, 0, 0, 0]]) == list(range(20))


class Numbers:
    """A source of so many images, without labels that are known beforehand."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return b"", i

    def place(self, i):
        return f"number {i}"


def test_how_many_are_held_out(tmp_path):
    for size, share, count in ((2, 0.1, 1), (100, 0.001, 1), (100, 0.1, 10), (10, 0.99, 9)):
        train, test = hold_out(Numbers(size), None, share, tmp_path, "")
        assert isinstance(test, Subset)
        assert len(test) == count
        numbers = [source[i][1] for source in (train, test) for i in range(len(source))]
        assert sorted(numbers) == list(range(size))
        assert train.place(0) == f"number {numbers[0]}"
    with pytest.raises(InputError, match=r"val_split=0\.5 needs at least 2 training images, and there are 1"):
        hold_out(Numbers(1), None, 0.5, tmp_path, "")


def test_the_test_images_are_theirs_or_held_out(tmp_path):
    """Both, or neither, is refused, with the cure."""
    write_folder(tmp_path / "folder", train=12, val=3)
    prepare(tmp_path / "tfds" / "mine" / "1.0.0", "train", "test")
    for name, place, part in (
        ("folder(8", "folder", "folder 'val'"),
        ("photographs(8", "folder", "folder 'val'"),
        ("tfds(mine", "tfds", "split 'test'"),
        ("photographs(8", "tfds", "split 'test'"),
    ):
        with pytest.raises(InputError, match=f"holds the {part} to test on: leave out val_split=0.1"):
            load(f"{name}, val_split=0.1)", directory=tmp_path / place)
    (tmp_path / "folder" / "val").rename(tmp_path / "val")
    prepare(tmp_path / "other" / "mine" / "1.0.0", "train")
    for call, place, part in (
        ("folder(8)", "folder", "folder 'test' or 'val'"),
        ("photographs(8)", "folder", "folder 'val' or 'test'"),
        ("tfds(mine)", "other", "split 'test' or 'validation'"),
        ("photographs(8)", "other", "split 'validation' or 'test'"),
    ):
        with pytest.raises(InputError, match=rf"holds no {part}: add it, or give the data set val_split=0\.1"):
            load(call, directory=tmp_path / place)


def test_all_that_is_broken_is_named_or_left_out(tmp_path):
    root = write_folder(tmp_path, train=36, val=3)
    paths = sorted((root / "train").rglob("*.JPEG"))[:12]
    for path in (*paths, root / "val" / "n0" / "0.JPEG"):
        broken(path)
    with pytest.raises(InputError) as error:
        load("folder(8)", directory=root)
    said = str(error.value)
    assert re.findall(r"(\S+): cannot be decoded", said) == [*map(str, paths[:10])]
    assert said.endswith(" and 3 more: replace or delete them, or give --data.on-error skip")
    data = load("folder(8)", directory=root, on_error="skip")
    assert (len(data.train), len(data.test)) == (24, 2)
    assert data.broken == (*map(str, paths), str(root / "val" / "n0" / "0.JPEG"))
    assert data.train.labels.tolist() == [1] * 12 + [2] * 12
    for path in (root / "val").rglob("*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="the test split is empty"):
        load("folder(8)", directory=root, on_error="skip")
    with pytest.raises(InputError, match=r"data\.on_error: must be one of stop, skip, got 'go on'"):
        load("folder(8)", directory=root, on_error="go on")


def test_what_was_left_out_is_told_in_every_epoch(tmp_path):
    root = write_folder(tmp_path, train=12, val=3)
    broken(root / "train" / "n0" / "0.JPEG")
    data = load("folder(8)", directory=root, on_error="skip")
    feed = ResidentEvaluation(data, ONE, 8)
    for _ in range(2):  # wherever a run is resumed
        assert feed.take_broken() == [str(root / "train" / "n0" / "0.JPEG")]


def test_what_is_broken_in_a_prepared_set(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    records = [{"image": png(i) if i != 3 else b"no image", "label": i % 2} for i in range(8)]
    handmade.prepare(tmp_path / "mine" / "1.0.0", {"train": records, "test": records[:2]})
    place = f"{tmp_path}/mine/1.0.0: image 3 of the split 'train'"
    with pytest.raises(InputError, match=re.escape(f"{place}: cannot be decoded (it is no image that Pillow knows)")):
        load("tfds(mine)", directory=tmp_path)
    assert load("tfds(mine)", directory=tmp_path, on_error="skip").broken == (place,)


def test_a_run_on_a_folder_says_what_it_has_left_out_and_goes_on(tmp_path, capsys):
    """Without test images, and with a broken one."""
    root = write_folder(tmp_path / "images", train=33, val=0)
    call, workdir = "folder(8, val_split=0.1)", tmp_path / "run"
    assert train_on(call, root, workdir) == 0
    assert "30 training and 3 test images" in capsys.readouterr().out
    (workdir / "summary.json").unlink()
    assert train_on(call, root, workdir, "--resume", "--data.on-error", "skip") == 0  # which may change
    assert "broken_images" not in (workdir / "metrics.jsonl").read_text()
    broken(root / "train" / "n1" / "4.JPEG")
    options = ("--data.on-error", "skip", "--train.epochs", 2)
    assert train_on(call, root, tmp_path / "skipped", *options) == 0
    assert capsys.readouterr().err.count("1 images could not be decoded, and were skipped: ") == 1
    assert [row["broken_images"] for row in tiny.logged(tmp_path / "skipped")] == [1, 1]


def test_a_run_on_a_prepared_set(tmp_path):
    pytest.importorskip("grain")
    call = "photographs(8, tfds=mine)"
    prepare(tmp_path / "mine" / "1.0.0", "train", "test", mode="L")
    assert train_on(call, tmp_path, tmp_path / "run") == 0
    assert read(tmp_path / "run" / "config.json")["data"]["name"] == datasets.normalize(call)
    assert read(tmp_path / "run" / "summary.json")["data"]["training_images"] == 20


def test_one_of_ones_own(tmp_path, capsys):
    """The config file of docs/api/datasets.md, as it stands."""
    (code,) = blocks(text("docs/api/datasets.md"))
    (tmp_path / "mine.py").write_text(code)
    arguments = ["--config", str(tmp_path / "mine.py"), "--workdir", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    assert "stripes: 700 training and 100 test images" in capsys.readouterr().out
    assert read(tmp_path / "run" / "summary.json")["test_accuracy"] > 0.9
    assert train.main([*arguments, "--data.dir", "here"]) == 2
    assert "data.dir: must be left out for stripes(800), got 'here'" in capsys.readouterr().err


def _of(labels=(0, 1, 0), classes=("a", "b"), **statistics):
    """The function of a data set of three colored images."""
    split = Split(np.zeros((3, 8, 8, 3), np.uint8), np.asarray(labels))
    return lambda: Origin(lambda: Dataset("odd", split, split, classes, **statistics))


def _photographs(**fields):
    """The function of a data set of photographs, none of which can be read."""
    fields = {"train": Absent(3), "test": Absent(3), "classes": ("a", "b"), "size": 8} | fields
    return lambda: Origin(lambda: Photographs("odd", **fields), streamed=True)


def test_statistics_and_labels_may_be_of_other_types():
    datasets.register(_of(np.array([0, 1, 0], np.uint64), mean=[1, 2, 3], std=[1, 1, 1]), name="odd")
    np.testing.assert_array_equal(load("odd").mean, np.array([1, 2, 3], np.float32))
    assert load("odd").train.labels.dtype == np.int32
    assert Split(np.zeros((1, 2, 2, 3), np.uint8), [0]).labels.shape == (1,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "data set 'odd': its function must return an lmjax.data.Origin, not int"),
        (lambda: Origin(lambda: 3), "data set 'odd': must load an lmjax.data.Dataset, not int"),
        (lambda: Origin(lambda: load("digits"), streamed=True), "must load an lmjax.data.Photographs, not Dataset"),
        (lambda: Origin(lambda path: 3), "its load may take directory, on_error, workers, threads, and not path"),
        (lambda: Origin(lambda workers: 3), "data.workers: odd needs it: give --data.workers"),
        (
            lambda: Origin(lambda: Dataset("odd", *[Split(np.zeros((3, 8, 8)), np.zeros(3, int))] * 2, ("a", "b"))),
            "odd: the training images must be uint8 [3, H, W, C], one a label, got float64 [3, 8, 8]",
        ),
        (_of(labels=np.zeros((3, 1), int)), "odd: the training labels must be whole numbers [N], got int64 [3, 1]"),
        (_of(labels=np.zeros(3)), "odd: the training labels must be whole numbers [N], got float64 [3]"),
        (
            _of(mean=[0.0], std=np.ones(3)),
            "odd: mean must be one number for each of the 3 channels, got the shape [1];",
        ),
        (_of(mean=np.ones(3)), "odd: std must be one number for each of the 3 channels, and is left out;"),
        (_of(mean=np.ones(3), std=[1, 0, 1]), "odd: std must be finite numbers above 0, got [1.0, 0.0, 1.0]"),
        (_of(mean=[1, 2, np.nan], std=np.ones(3)), "odd: mean must be finite numbers, got [1.0, 2.0, nan]"),
        (_of(classes=("a", 1)), "odd: classes must be names, got 1"),
        (_photographs(mean=[0.0]), "odd: mean must be one number for each of the 3 channels, got the shape [1];"),
        (_photographs(std=[1, 1, np.inf]), "odd: std must be finite numbers above 0, got [1.0, 1.0, inf]"),
        (_photographs(test=Absent(0)), "odd: the test split is empty"),
        (_photographs(classes=("a",)), "odd: there is nothing to tell apart with 1 class"),
        (_photographs(decoder="turbo2"), "unknown decoder 'turbo2': did you mean 'turbo'"),
    ],
)
def test_mistakes_of_ones_own(make, message):
    datasets.register(make, name="odd")
    with pytest.raises(InputError, match=re.escape(message)):
        load("odd")
