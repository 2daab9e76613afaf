"""python -m benchmarks runs every row and writes what it finds; numbers are tested only where they are exact."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import ours
from benchmarks.row import Row, Target, at_least, at_most, exactly, figure
from benchmarks.rows import SUITES
from benchmarks.timing import Calls, interleaved
from tests.parameters import few

TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs the command: its exit status, what it wrote, and what it printed."""
    monkeypatch.setattr("gc.collect", lambda: None)  # which takes seconds among all that other tests have left
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")  # puts back afterwards what the command sets
        monkeypatch.delenv(name)

    def run(suite, *words):
        status = command.main(["--suite", suite, *words, "--out", str(tmp_path / "found.json")])
        return status, json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out

    return run


def check(row, suite):
    """What every row must have: a figure, or a reason, for every target, and rounds behind every figure."""
    if row["status"] == "skipped":
        assert "pip install" in row["reason"]
        return
    assert row["status"] == "measured"
    (targets,) = (each.targets for each in SUITES[suite] if each.name == row["name"])
    assert targets.keys() <= {f["label"] for f in row["figures"]}
    for f in row["figures"]:
        if "skipped" in f:
            assert "pip install" in f["skipped"] or "refused" in f["skipped"]
        else:
            assert f["rounds"]
            assert "met" not in f  # nothing that is shrunk is judged


@pytest.mark.parametrize(
    ("suite", "name"), few([(suite, row.name) for suite in SUITES for row in SUITES[suite]], [("cpu", "C1")])
)
def test_every_row(run, suite, name):
    status, found, _ = run(suite, "--tiny", "--only", name)
    assert status == 0
    (row,) = found["rows"]
    check(row, suite)
    if name == "C1":  # counts are exact
        exact = [f for f in row["figures"] if not f["label"].endswith("time")]
        assert len(exact) == 8
        assert all(f["rounds"] == [1.0] and f["counts"][0] > 0 for f in exact)


def succeeds(plan):
    return [figure("a", [1.0, 2.0, 3.0], "x")]


def fails(plan):
    yield figure("before", [1.0], "s")
    raise RuntimeError("in the middle")


def row(name, function, targets=None, **options):
    return Row(name, "this and that", f"tests.test_benchmarks:{function}", targets or {}, 10, **options)


def test_a_row_that_fails_stops_no_other(run, monkeypatch):
    bad, good = row("bad", "fails"), row("good", "succeeds", {"a": at_most(1.5)})
    monkeypatch.setitem(command.SUITES, "cpu", (bad, good, row("wrong", "succeeds", {"b": at_least(1)})))
    status, found, table = run("cpu")
    bad, good, wrong = found["rows"]
    assert status == 1
    assert found["versions"].keys() >= {"python", "jax", "jaxlib", "flax", "torch"}
    assert {"date", "commit", "machine", "devices", "seconds"} <= found.keys()
    assert "python -m benchmarks --suite cpu" in found["command"]
    assert all(f"\n{each['name']} " in table for each in found["rows"])
    assert (bad["status"], bad["error"]) == ("failed", "RuntimeError: in the middle")
    assert [f["label"] for f in bad["figures"]] == ["before"]
    assert good["figures"][0]["met"] is False
    assert wrong["error"] == "KeyError: 'no figure for b'"
    assert "failed: RuntimeError: in the middle" in table


def test_what_cannot_be_measured_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    monkeypatch.setitem(command.SUITES, "cpu", (row("alone", "succeeds"), row("peer", "succeeds", needs=("diffrax",))))
    status, found, _ = run("cpu")
    assert status == 0
    assert [each["status"] for each in found["rows"]] == ["measured", "skipped"]
    assert found["rows"][1]["reason"] == "diffrax is not installed: pip install diffrax"
    _, found, table = run("cpu", "--budget", "9")
    assert found["rows"][0]["reason"].startswith("is estimated to take 10 s, and ")
    assert "of the budget are left" in table


def test_without_a_gpu_its_rows_are_skipped_and_unknown_rows_are_one_line(run, capsys):
    status, found, table = run("gpu")
    assert status == 0
    assert [row["status"] for row in found["rows"]] == ["skipped"] * len(SUITES["gpu"])
    assert table.count("no GPU: jax sees cpu alone") == len(SUITES["gpu"])
    assert command.main(["--suite", "cpu", "--only", "C9"]) == 2
    assert re.fullmatch("error: --only: unknown row 'C9'.*\n", capsys.readouterr().err)


def test_targets():
    values = figure("a", [1.0, 1.0, 2.0], "x")
    assert Target("<=", 1).met(values)
    assert at_least(1).met(values)
    assert not at_least(1.5).met(values)
    assert not exactly(1).met(values)
    assert exactly(1).met(figure("a", [1.0], "x"))


def test_sides_are_timed_in_turns():
    order = []
    sides = {name: Calls(lambda name=name: order.append(name), steps=2) for name in "ab"}
    found = interleaved(sides, rounds=3, seconds=0)
    assert order == [*"aabb", *"ab", *"ba", *"ab"]
    assert all(len(times) == 3 for times in found.values())


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
def test_the_peer_is_the_same_network():
    """The same parameters give the same logits; and as many of them as are published."""
    import torch

    from benchmarks import pytorch

    assert pytorch.parameters(pytorch.LMResNet(20)) == 272_384
    assert pytorch.parameters(pytorch.LMResNet(20, lm=False)) == 272_378
    case = ours.case(True, "resnet20", stepper="lm")
    trainer = ours.trainer(case)
    images, _ = case.images()
    expected = trainer.model(images)
    for authors in (False, True):
        peer = pytorch.LMResNet(14, width=case.width, authors=authors).train()
        load(peer, trainer.state.params)
        with torch.no_grad():
            logits = peer(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def load(peer, params):
    """Gives the PyTorch network our parameters."""
    import torch

    def put(parameter, value):
        assert parameter.shape == value.shape
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value)))

    def norm(module, ours):
        put(module.weight, ours["scale"])
        put(module.bias, ours["bias"])

    def conv(module, kernel):
        put(module.weight, np.transpose(kernel, (3, 2, 0, 1)))

    def branch(module, ours, step=...):
        for i in (1, 2):
            norm(getattr(module, f"bn{i}"), {k: v[step] for k, v in ours[f"act{i}"]["norm"].items()})
            conv(getattr(module, f"conv{i}"), np.asarray(ours[f"conv{i}"]["kernel"])[step])

    conv(peer.stem, params["stem"]["conv"]["kernel"])
    for i, stage in enumerate(peer.stages):
        mine = params["stages"][i]
        branch(stage.branches[0], mine["entry"]["branches"][0])
        if "shortcuts" in mine["entry"] and mine["entry"]["shortcuts"]:
            norm(stage.shortcut.bn, mine["entry"]["shortcuts"][0]["act"]["norm"])
            conv(stage.shortcut.conv, mine["entry"]["shortcuts"][0]["conv"]["kernel"])
        for n, module in enumerate(stage.branches[1:]):
            branch(module, mine["steps"]["item"]["branches"][0], n)
            put(stage.k[n], np.asarray(mine["steps"]["item"]["coefficients"][0])[n : n + 1])
    norm(peer.bn, params["activation"]["norm"])
    put(peer.head.weight, np.asarray(params["head"]["kernel"]).T)
    put(peer.head.bias, params["head"]["bias"])
