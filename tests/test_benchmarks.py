"""python -m benchmarks runs every row and writes what it finds; numbers are tested only where they are exact."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import memory, ours
from benchmarks.row import Plan, Row, Target, at_least, at_most, exactly, figure
from benchmarks.rows import SUITES
from benchmarks.timing import Calls, interleaved

ROOT = Path(__file__).parent.parent
TORCH = importlib.util.find_spec("torch") is not None


def run(*arguments):
    arguments = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


def measured(tmp_path, suite, *rows):
    """The rows of the JSON by name, and the table, of a tiny run."""
    result = run("--suite", suite, "--tiny", "--out", tmp_path / "found.json", "--only", *rows)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in found["rows"]] == list(rows)
    return {row["name"]: row for row in found["rows"]}, result.stdout, found


def figures(row):
    return {f["label"]: f for f in row["figures"]}


def check(row, targets):
    """What every row must have: a figure, or a reason, for every target, and rounds behind every figure."""
    if row["status"] == "skipped":
        assert "pip install" in row["reason"]
        return
    assert row["status"] == "measured"
    assert targets.keys() <= figures(row).keys()
    for f in row["figures"]:
        if "skipped" in f:
            assert "pip install" in f["skipped"] or "refused" in f["skipped"]
        else:
            assert f["min"] <= f["median"] <= f["max"]
            assert f["rounds"]
            assert "met" not in f  # nothing that is shrunk is judged


def targets(suite, name):
    return next(row.targets for row in SUITES[suite] if row.name == name)


@pytest.mark.slow
def test_the_cpu_suite(tmp_path):
    rows, table, found = measured(tmp_path, "cpu", "C1", "C2")
    assert found["versions"].keys() >= {"python", "jax", "jaxlib", "flax", "torch"}
    assert {"date", "commit", "machine", "devices", "seconds"} <= found.keys()
    assert "python -m benchmarks --suite cpu --tiny" in found["command"]
    for name, row in rows.items():
        check(row, targets("cpu", name))
        assert f"\n{name} " in table
    exact = [f for f in rows["C1"]["figures"] if not f["label"].endswith("time")]
    assert len(exact) == 8
    assert all(f["rounds"] == [1.0] and f["counts"][0] > 0 for f in exact)


def test_the_gpu_suite_on_a_cpu(tmp_path, capsys):
    arguments = ["--suite", "gpu", "--tiny", "--only", "G1", "G2", "--out", str(tmp_path / "found.json")]
    assert command.main(arguments) == 0
    g1, g2 = json.loads((tmp_path / "found.json").read_text())["rows"]
    check(g1, targets("gpu", "G1"))
    check(g2, targets("gpu", "G2"))
    assert (g1["status"] == "skipped") == (not TORCH)
    assert g2["status"] == "measured"
    table = capsys.readouterr().out
    assert table.count("skipped: torch is not installed: pip install torch") == (0 if TORCH else 2)


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "name"), [(suite, row.name) for suite in SUITES for row in SUITES[suite]])
def test_every_row(tmp_path, suite, name):
    rows, _, _ = measured(tmp_path, suite, name)
    check(rows[name], targets(suite, name))


@pytest.mark.slow
def test_memory_against_depth(monkeypatch):
    """What is rebuilt does not grow with depth; what is recomputed grows by the states alone, which LM has two of."""
    monkeypatch.delitem(memory.MODES, "unrolled")  # which takes long to compile
    slopes = {f["label"].split(":")[0]: f["median"] for f in memory.slope(Plan(tiny=True))}
    assert abs(slopes["reversible"]) < 0.05
    assert 0.9 < slopes["remat"] < 2.5
    assert slopes["rolled"] > 3


def measure(tmp_path, monkeypatch, rows, *arguments):
    monkeypatch.setitem(command.SUITES, "cpu", tuple(rows))
    status = command.main(["--suite", "cpu", "--out", str(tmp_path / "found.json"), *arguments])
    return status, json.loads((tmp_path / "found.json").read_text())["rows"]


def succeeds(plan):
    return [figure("a", [1.0, 2.0, 3.0], "x")]


def fails(plan):
    yield figure("before", [1.0], "s")
    raise RuntimeError("in the middle")


def row(name, function, targets=None, **options):
    return Row(name, "this and that", f"tests.test_benchmarks:{function}", targets or {}, 10, **options)


def test_a_row_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    rows = [
        row("bad", "fails"),
        row("good", "succeeds", {"a": at_most(1.5)}),
        row("wrong", "succeeds", {"b": at_least(1)}),
    ]
    status, (bad, good, wrong) = measure(tmp_path, monkeypatch, rows)
    assert status == 1
    assert bad["status"] == "failed"
    assert bad["error"] == "RuntimeError: in the middle"
    assert [f["label"] for f in bad["figures"]] == ["before"]
    assert good["figures"][0]["met"] is False
    assert wrong["error"] == "KeyError: 'no figure for b'"
    assert "failed: RuntimeError: in the middle" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    rows = [row("alone", "succeeds"), row("peer", "succeeds", needs=("diffrax",))]
    status, (alone, peer) = measure(tmp_path, monkeypatch, rows)
    assert status == 0
    assert alone["status"] == "measured"
    assert peer["reason"] == "diffrax is not installed: pip install diffrax"
    _, (alone, _) = measure(tmp_path, monkeypatch, rows, "--budget", "9")
    assert alone["reason"].startswith("is estimated to take 10 s, and ")
    assert "of the budget are left" in capsys.readouterr().out


def test_without_a_gpu_its_rows_are_skipped(tmp_path, capsys):
    assert command.main(["--suite", "gpu", "--out", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["status"] for row in rows} == {"skipped"}
    assert len(rows) == len(SUITES["gpu"])
    assert capsys.readouterr().out.count("no GPU: jax sees cpu alone") == len(rows)


def test_an_unknown_row_is_one_line(capsys):
    assert command.main(["--suite", "cpu", "--only", "C9"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --only: unknown row 'C9'")
    assert message.count("\n") == 1


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
    assert all(len(times) == 3 and min(times) >= 0 for times in found.values())


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
