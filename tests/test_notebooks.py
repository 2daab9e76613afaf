"""The notebooks run from top to bottom, here on a CPU and at a small size, and are kept without what that leaves."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import UNOPTIMIZED
from tests.parameters import slow
from tests.tiny import ROOT, environment, git_environment

TPU = ("colab_tpu", "kaggle_tpu")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = "--model.name resnet14 --model.width 0.25 --optimizer.learning-rate 0.05 --train.epochs 1 --train.batch-size 64"


def cells(name):
    """The code of a notebook, by the ids of its cells."""
    found = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in found if cell["cell_type"] == "code"}


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook with settings in the environment: the outputs of its cells, by their ids."""
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")

    pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}  # a test installs nothing

    def execute(name, cwd, **settings):
        if name in TPU:
            pytest.importorskip("flatbuffers")
        for key, value in {**environment(XDG_CACHE_HOME=str(tmp_path), **pip), **settings}.items():
            monkeypatch.setenv(key, str(value))
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(cwd)}}).execute()
        return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return execute


def pictures(outputs):
    return sum("image/png" in output.get("data", {}) for cell in outputs.values() for output in cell)


def printed(outputs, cell):
    return "".join(output.text for output in outputs[cell] if output.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs_and_settings_are_documented(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    pytest.importorskip("nbformat").validate(notebook)
    for line in filter(None, cells(path.stem)["settings"].splitlines()[1:]):
        name = re.match(r"([A-Z_]+) = ", line)[1]
        assert f'os.environ.get("LMJAX_{name}", ' in line
        assert "  # " in line, "what it is"


@pytest.mark.slow
def test_quickstart(tmp_path, execute, repository):
    """Uploaded alone, beside a zip of the code."""
    (tmp_path / "content").mkdir()
    shutil.make_archive(str(tmp_path / "content" / "upload"), "zip", repository.parent, repository.name)
    settings = {"LMJAX_OPTIONS": SMALL, "LMJAX_RUNS": tmp_path / "runs"}
    outputs = execute("quickstart", tmp_path / "content", **settings)
    assert "lmjax is that of lmjax-code/repository" in printed(outputs, "code")
    assert "nothing, all is here" in printed(outputs, "install")
    assert pictures(outputs) == 6
    rows = printed(outputs, "table").splitlines()
    assert [row.split()[0] for row in rows] == ["scheme", "euler", "lm", "damped"]
    assert all((tmp_path / "runs" / scheme / "summary.json").exists() for scheme in ("euler", "lm", "damped"))


@pytest.fixture
def repository(tmp_path):
    """A git repository with what the notebook needs, as it is here."""
    folder = tmp_path / "repository"
    for name in ("lmjax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=folder, env=git_environment(), check=True, capture_output=True)
    return folder


@pytest.mark.versions
@pytest.mark.parametrize("again", [False, slow(True)])
def test_colab(tmp_path, execute, repository, again):
    """From nothing: the code is cloned. And once more, as after a disconnect: the run is there, and is finished."""
    content = tmp_path / "content"
    (content / "sample_data").mkdir(parents=True)
    settings = {
        "LMJAX_REPOSITORY": repository.as_uri(), "LMJAX_CODE": content / "lmjax", "LMJAX_WORKDIR": tmp_path / "drive",
        "LMJAX_OPTIONS": f"--data.name digits --data.augment crop(1) {SMALL}", "LMJAX_ANY_BACKEND": 1,
    }  # fmt: skip
    outputs = execute("colab_tpu", content / "sample_data", **settings)
    assert printed(outputs, "code").splitlines()[-1] == f"lmjax is that of {content / 'lmjax'}"
    assert "nothing, all is here" in printed(outputs, "install")
    assert pictures(outputs) == 4
    assert (tmp_path / "drive" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "drive" / "network.stablehlo").stat().st_size > 10_000
    if again:
        outputs = execute("colab_tpu", content / "sample_data", **settings)
        assert "is finished" in printed(outputs, "train")
        assert pictures(outputs) == 4


@pytest.mark.slow
def test_kaggle(tmp_path, execute, repository):
    """A seed on each device, and once more; in a zip beside the notebook is the code."""
    shutil.make_archive(str(tmp_path / "upload"), "zip", repository.parent, repository.name)
    settings = {
        "LMJAX_CODE": tmp_path / "code", "LMJAX_WORKDIR": tmp_path / "runs", "LMJAX_SEEDS": "0 1",
        "LMJAX_OPTIONS": f"--data.name digits --data.augment crop(1) {SMALL}", "LMJAX_ANY_BACKEND": 1,
        "XLA_FLAGS": f"{UNOPTIMIZED} --xla_force_host_platform_device_count=2",
    }  # fmt: skip
    for said in ("seed 0; seed 1:", "is finished"):
        outputs = execute("kaggle_tpu", tmp_path, **settings)
        assert "on 2 x cpu" in printed(outputs, "backend")
        assert said in printed(outputs, "train")
        assert pictures(outputs) == 4
    assert printed(outputs, "report").count("%") == 2
    assert (tmp_path / "runs" / "network.stablehlo").stat().st_size > 10_000


def test_colab_takes_a_seed_for_each_chip_where_there_are_several(monkeypatch):
    monkeypatch.setattr("lmjax.runtime.start", lambda: [])
    for chips, wanted, seeds in ((1, "", []), (8, "", ["0..7"]), (8, "0 1", ["0", "1"]), (1, "3 4", ["3", "4"])):
        monkeypatch.setattr("jax.device_count", lambda chips=chips: chips)
        found = {"ANY_BACKEND": True, "SEEDS": wanted}
        exec(cells("colab_tpu")["backend"], found)
        assert found["seeds"] == seeds


def test_kaggle_trains_eight_seeds():
    found = {}
    exec(cells("kaggle_tpu")["settings"], found)
    assert found["SEEDS"].split() == [str(seed) for seed in range(8)]


def test_what_colab_and_kaggle_have_in_common():
    own = {"settings", "backend", "folder"}
    colab, kaggle = ({id: code for id, code in cells(name).items() if id not in own} for name in TPU)
    assert colab == kaggle


def test_the_runtime_is_named():
    colab, kaggle = (json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["metadata"] for name in TPU)
    assert (colab["accelerator"], colab["colab"]["gpuType"]) == ("TPU", "V5E1")
    assert (kaggle["kaggle"]["accelerator"], kaggle["kaggle"]["isInternetEnabled"]) == ("tpuV5e8", True)


@pytest.mark.parametrize(
    ("name", "cure"), [("colab_tpu", "one in Runtime > Change runtime type"), ("kaggle_tpu", "TPU v5e-8 in Settings")]
)
def test_what_to_do_without_an_accelerator_is_said(monkeypatch, name, cure):
    monkeypatch.setattr("lmjax.runtime.start", lambda: [])
    with pytest.raises(AssertionError, match=f"only cpu: choose {cure}"):
        exec(cells(name)["backend"], {"ANY_BACKEND": False})


@pytest.fixture
def cell(monkeypatch, tmp_path):
    """Runs the cell that looks for the code, in an empty folder and without an lmjax that is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")

    def run(**settings):
        found = {"CODE": "lmjax-code", "REPOSITORY": "", **settings}
        exec(cells("quickstart")["code"], found)
        assert (Path.cwd() / "train.py").exists()
        assert sys.path[0] == str(Path.cwd())
        return Path.cwd()

    return run


def test_the_code_is_looked_for_alike():
    assert cells("quickstart")["code"] == cells("colab_tpu")["code"] == cells("kaggle_tpu")["code"]


def test_the_code_is_that_of_the_folder_above(cell, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert cell() == ROOT


def test_the_code_is_asked_for(cell, monkeypatch, repository):
    """With the address of a repository, or a zip uploaded meanwhile; a zip of something else is left alone."""
    asked = []

    def answer(question):
        asked.append(question)
        return f"{repository.as_uri()} "

    Path("broken.zip").write_bytes(b"PK")
    shutil.make_archive("other", "zip", repository, "configs")
    monkeypatch.setattr("builtins.input", answer)
    here = Path.cwd()
    assert cell() == here / "lmjax-code"
    assert "lmjax is not here. Upload a zip of it to" in asked[0]
    monkeypatch.chdir(here)
    assert cell() == here / "lmjax-code", "and not asked again"
    monkeypatch.chdir(here)
    shutil.rmtree("lmjax-code")

    def upload(question):
        shutil.make_archive("upload", "zip", repository)
        return ""

    monkeypatch.setattr("builtins.input", upload)
    assert cell() == here / "lmjax-code"
    assert len(asked) == 1


def test_without_the_code_the_notebook_says_so(cell, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "")
    with pytest.raises(AssertionError, match="there is no lmjax in lmjax-code, and no zip of it in"):
        cell()


@pytest.mark.parametrize(
    ("notebook", "more"),
    [("colab_tpu", {"pooch", "pandas", "jinja2", "flatbuffers"}), ("quickstart", {"scikit-learn"})],
)
def test_what_is_missing_is_installed_beside_jax_and_flax(notebook, more):
    code = cells(notebook)["install"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = {re.match(r"[\w-]+", requirement)[0] for requirement in needed} | more | {"matplotlib"}
    modules = eval(re.search(r"modules = (\{.*?\})", code, re.DOTALL)[1])
    assert set(modules.values()) == needed
    kept = re.search(r"for package in \((.*?)\)", code)[1]
    assert {"jax", "jaxlib", "flax", "numpy"} == set(re.findall(r"\w+", kept))
