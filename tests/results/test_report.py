"""The page about runs: its table, its notes, what a network takes images for; and that no text in it is HTML."""

import base64
import dataclasses
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

import lmjax
from lmjax import InputError, cli, recipes
from lmjax.config import DataConfig, ModelConfig
from lmjax.results import report
from lmjax.results.predictions import Mistake, Predictions, predict
from lmjax.results.published import CIFAR10
from tests.results.handmade import CONFIG, make_run
from tests.tiny import changed


class Page(html.parser.HTMLParser):
    """The elements of a page, and the cells of its first table, {head: (what it is sorted by, what it says)}."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.lines, self.heads, self._cell = [], [], [], None
        self.feed(text)
        self.cells = [dict(zip(self.heads, line, strict=True)) for line in self.lines]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if "data-kind" in attributes:
            self.heads.append("")
        elif "data-value" in attributes:
            if tag == "th":
                self.lines.append([])
            self._cell = [attributes["data-value"], ""]
            self.lines[-1].append(self._cell)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, text):
        if self._cell is not None:
            self._cell[1] += text
        elif self.heads and not self.lines and not self.heads[-1]:
            self.heads[-1] = text


def written(directories, tmp_path, **options):
    return report.write(directories, tmp_path / "report.html", **options).read_text(encoding="utf-8")


def test_names_cannot_be_html(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    run = make_run(tmp_path / name, CONFIG, device="</script><script>1", versions={"<b>": "&"})
    text = written([run], tmp_path)
    assert not {tag for tag, _ in Page(text).elements} & {"img", "b"}
    assert text.count("<script>") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;/script&gt;&lt;script&gt;1" in text


def test_page_is_self_contained(tmp_path):
    text = written([make_run(tmp_path / "run", CONFIG, coefficients={"stage1": [-0.1]})], tmp_path)
    page = Page(text)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    places = [a[key] for _, a in page.elements for key in ("src", "href", "xlink:href", "action") if key in a]
    assert places
    assert all(place.startswith(("data:", "#")) for place in places)
    assert not re.search(r"url\((?!#)", text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {place[1:] for place in places if place.startswith("#")} <= set(ids)
    # Collapsed borders belong to the table: they would scroll away from a column that stays.
    assert re.search(r"\.runs tbody th\{position:sticky", text)
    assert re.search(r"table\.runs\{[^}]*border-collapse:separate", text)


def test_a_network_for_one_size_of_images_whose_data_is_not_known(tmp_path):
    """As of photographs without a checkpoint."""
    model = {"name": "vit(width=16, depth=2, heads=2, patch=4, image=16)"}
    config = changed(CONFIG, data={"name": "folder(16)", "augment": ()}, model=model)
    (row,) = report.read_rows([make_run(tmp_path / "run", config)])
    assert (row.scheme, row.macs) == ("lm", None)


def test_columns_are_sorted_by_numbers(tmp_path):
    runs = [("lm", 9.5), ("euler", 10.25)]
    made = [make_run(tmp_path / name, changed(CONFIG, model={"stepper": name}), error=error) for name, error in runs]
    a, b = Page(written(made, tmp_path)).cells
    assert float(a["test error, %"][0]) < float(b["test error, %"][0])
    assert a["test error, %"][1] == "9.50"
    # Nothing there tells the shape of the digits or their classes, so that neither is claimed.
    assert a["MACs"] == a["parameters"] == ["", "–"]
    assert a["time"] == ["180.0", "3 min"]
    assert "published, %" not in a


def test_published_values_warn_of_other_recipes(tmp_path):
    short = changed(CIFAR10["lm_resnet20"].config, train={"epochs": 8})
    other = recipes.lm("cifar10", ModelConfig("resnet14", "lm"))
    rows = {"short": short, "same": CIFAR10["resnet110"].config, "other": other}
    text = written([make_run(tmp_path / name, config) for name, config in rows.items()], tmp_path, images=False)
    short, same, other = Page(text).cells
    published = [row["published, %"] for row in (short, same, other)]
    assert published == [["8.33", "8.331another recipe"], ["6.37", "6.372"], ["", "–"]]
    assert "lm_resnet20: 8.33% (Lu et al. 2018); trained there with train.epochs 160 (here 8)." in text
    assert "resnet110: 6.37% (He et al. 2016b); the recipe is the same." in text
    assert short["MACs"] == ["40813184", "40.8 M"]
    assert short["parameters"] == ["272384", "272,384"]
    # Other photographs are not compared with ImageNet.
    config = recipes.imagenet(ModelConfig("resnet50", "lm"))
    assert [report._known(config, classes) for classes in (0, 10)] == [None, None]
    assert report._known(config, 1000)[0] == "lm_resnet50"


def test_unfinished_runs_are_shown_as_such(tmp_path):
    make_run(tmp_path / "begun", CONFIG, epochs=2)
    make_run(tmp_path / "new", changed(CONFIG, seed=1, model={"stepper": "euler"}), epochs=0)
    for seed in range(2):
        config = changed(CONFIG, seed=seed, model={"name": "resnet20"})
        make_run(tmp_path / "both" / f"seed{seed}", config, epochs=1 if seed else None)
    text = written([tmp_path / name for name in ("begun", "new", "both")], tmp_path)
    begun, new, both = Page(text).cells
    assert begun["run"][1] == " begununfinished"
    assert begun["test error, %"][1] == "16.00best so far, epoch 2"
    assert begun["epochs"][1] == "2 of 3"
    assert new["test error, %"] == ["", "–no epoch yet"]
    assert both["run"][1] == " both1 of 2 seeds unfinished"
    assert both["test error, %"][1] == "8.00"  # of the finished one
    assert both["seeds"] == ["2", "2"]
    assert "No images of begun, both: there is no checkpoint." in text
    assert "No images of new: there is no epoch yet." in text


def test_images_are_of_the_best_rows_or_of_those_named(tmp_path):
    for i in range(8):
        config = changed(CONFIG, train={"batch_size": 8 + i})
        make_run(tmp_path / f"run{i}", config, error=8.0 - i, epochs=1 if i == 7 else None)
    rows = report.read_rows([tmp_path / f"run{i}" for i in range(8)])
    chosen, said = report._with_images(rows, True, None)
    assert [row.name for row in chosen] == [f"run{i}" for i in range(1, 7)]
    assert said.startswith("Of the 6 runs with the lowest error")
    assert said.endswith(" lmjax report --images-of NAME chooses others.")
    assert report._with_images(rows[:6], True, None) == (rows[:6], "")
    assert report._with_images(rows, True, ["run7", "run0", "run7"]) == ([rows[7], rows[0]], "")
    with pytest.raises(InputError, match="unknown run in --images-of 'run70': did you mean 'run7'"):
        report._with_images(rows, True, ["run70"])
    assert "Left out, by lmjax report --no-images." in written([tmp_path / "run0"], tmp_path, images=False)
    for seed in range(2):  # of equal errors, which have a standard deviation, and one that has not
        make_run(tmp_path / "both" / f"seed{seed}", changed(CONFIG, seed=seed, train={"batch_size": 20}), error=2.0)
    rows = report.read_rows([tmp_path / "both", *(tmp_path / f"run{i}" for i in range(7))])
    assert "both" in [row.name for row in report._with_images(rows, True, None)[0]]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("no/x.html", "there is no folder {}/no: make it first"),
        ("x.html/y.html", "there is no folder {}/x.html: make it first"),
        (".", "is a folder: name a file in it"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("run/metrics.jsonl", "would take the place of what the run in {}/run has recorded: rename it"),
        ("x.html", None),
    ],
)
def test_the_place_is_checked_before_the_work(out, said, tmp_path, monkeypatch, capsys):
    if said is not None:
        monkeypatch.setattr(report, "page", lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "x.html").write_text("another report")
    run = make_run(tmp_path / "run", CONFIG)
    code = cli.main(["report", str(run), "--out", str(tmp_path / out), "--no-images"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "x.html"}
    if said is None:
        assert code == 0
        assert capsys.readouterr().out.startswith(f"wrote {tmp_path / out} (")
    else:
        assert code == 2
        assert capsys.readouterr().err == f"error: --out {tmp_path / out}: {said.format(tmp_path)}\n"
        assert (tmp_path / "x.html").read_text() == "another report"


def test_schemes_of_a_file_of_ones_own(tmp_path, capsys):
    run, out, file = make_run(tmp_path / "run", CONFIG), tmp_path / "x.html", tmp_path / "paced.py"
    file.write_text("from lmjax import steppers\n\nsteppers.register(lambda: steppers.get('lm'), name='paced')\n")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"stepper": "lm"', '"stepper": "paced"'))
    command = ["report", str(run), "--out", str(out), "--no-images"]

    def mistake(*more):
        assert cli.main([*command, *more]) == 2
        return capsys.readouterr().err

    said = mistake()
    assert said.startswith(f"error: {run / 'config.json'}: is not a config (unknown stepper 'paced': ")
    assert said.endswith("); if a config of yours registers it, give that by --config FILE, or import it\n")
    said = mistake("--config", str(tmp_path / "none.py"))
    assert said.startswith(f"error: --config: there is no file {tmp_path / 'none.py'}")
    for row in ("", ":paced"):
        assert cli.main([*command, "--config", f"{file}{row}"]) == 0
        assert Page(out.read_text()).cells[0]["scheme"][0] == "paced"


@pytest.mark.versions
def test_confusion_is_the_accuracy_of_the_run(runs):
    (row,) = report.read_rows([runs["lm"]])
    run = row.best_run()
    part = predict(run, data_dir=None, limit=100, keep=0)
    assert (part.confusion.sum(), part.total, part.mistakes) == (100, 360, [])
    found = predict(run, data_dir=None, limit=10_000, keep=5)
    assert found.confusion.sum() == found.total == 360
    assert np.trace(found.confusion) / 360 == pytest.approx(run.summary["test_accuracy"])
    with lmjax.load(run.record.directory) as trained:
        logits = np.concatenate([trained.logits(trained.model(), x) for x, _ in trained.test_batches()])
        labels = trained.dataset.test.labels
        images = trained.dataset.test.images
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    order = wrong[np.argsort(-shares.max(-1)[wrong])][:5]
    assert [mistake.confidence for mistake in found.mistakes] == pytest.approx(shares.max(-1)[order], rel=1e-4)
    for i, mistake in zip(order, found.mistakes, strict=True):
        np.testing.assert_array_equal(mistake.pixels, images[i])
        assert (mistake.truth, mistake.guess) == (labels[i], logits[i].argmax())


def test_report_of_real_runs(runs, tmp_path):
    text = report.write([runs["lm"], runs["euler"]], tmp_path / "report.html").read_text()
    assert text.count('class="confusion"') == 2
    assert text.count("<img ") == 2 * report._KEEP
    assert "digits: 1,437 training and 360 test images of 8 × 8 × 1, 10 classes" in text
    assert len(text) < 1_000_000


def test_nothing_is_downloaded(runs, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (row,) = report.read_rows([runs["euler"]])
    run = row.runs[0]
    for directory in (None, str(tmp_path)):
        moved = dataclasses.replace(run, config=changed(run.config, data=DataConfig("cifar10", dir=directory)))
        with pytest.raises(InputError, match=r"the data is not there \(cifar10 is not in "):
            predict(moved, data_dir=None, limit=1, keep=1)


def test_data_that_is_gone(runs, monkeypatch):
    def load(data):
        raise InputError("data.dir: there is no directory gone")

    monkeypatch.setattr(DataConfig, "load", load)
    found = report._mistakes(report.read_rows([runs["euler"]]), None)
    assert not found["shown"]
    assert [reason.partition(": ")[2] for reason in found["reasons"]] == ["data.dir: there is no directory gone."]


def made(classes, side=8):
    pixels = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
    confusion = np.diag(np.full(classes, 10))
    confusion[3, 5], confusion[0, 1] = 7, 2
    return Predictions(tuple(f"<{i}>" for i in range(classes)), confusion, [Mistake(0.75, 3, 5, pixels)], 9, 100)


def test_many_classes_are_shown_as_pairs():
    few, many = (report.confusion(made(classes)) for classes in (39, 40))
    assert np.shape(few["matrix"]) == (39, 39)
    assert (few["shares"][0][1], few["shares"][3][5]) == (2 / 7, 1.0)  # of the largest count off the diagonal
    assert few["shares"][3][3] == 10 / 17  # of the images of the class
    assert many["pairs"][1] == [["<3>", "<5>", 7, "41.2%"], ["<0>", "<1>", 2, "16.7%"]]


def test_images_are_embedded_as_they_are():
    found = made(10)
    data = base64.b64decode(report.png(found.mistakes[0].pixels).partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), found.mistakes[0].pixels)
    large = base64.b64decode(report.png(made(10, side=224).mistakes[0].pixels).partition(",")[2])
    assert max(Image.open(io.BytesIO(large)).size) == report._SIDE
