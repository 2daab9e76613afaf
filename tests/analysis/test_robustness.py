"""What is measured of trained networks under attack, and the signs by which the attack is judged."""

import json

import numpy as np
import pytest

import lmjax
import train
from lmjax.analysis import robustness
from lmjax.analysis.robustness import checks
from tests.analysis import main
from tests.data.photos import write_folder


@pytest.mark.versions
def test_outcomes_of_a_trained_network(runs):
    with lmjax.load(runs["euler"]) as trained:
        images, labels = trained.test_sample(150)  # more than a batch
        found = robustness.attacked(trained, images, labels, radii=(8, 128), sigmas=(16,), seed=0)
        logits = trained.logits(trained.model(), images)
    assert set(found) == {
        "clean", "noise 16", "uniform 8", "fgsm 8", "pgd10 8", "pgd20 8", "uniform 128", "fgsm 128", "pgd10 128",
    }  # fmt: skip
    assert all(outcome["correct"].shape == outcome["loss"].shape == (150,) for outcome in found.values())
    np.testing.assert_array_equal(found["clean"]["correct"], logits.argmax(-1) == labels)
    accuracy, loss = ({name: x[key].mean() for name, x in found.items()} for key in ("correct", "loss"))
    assert accuracy["clean"] > 0.15
    assert accuracy["pgd10 128"] == 0
    assert accuracy["pgd10 8"] <= accuracy["uniform 8"]
    assert loss["clean"] < loss["pgd10 8"] <= loss["pgd20 8"] * (1 + 1e-3)
    assert loss["uniform 8"] < loss["pgd10 8"] < loss["pgd10 128"]


@pytest.mark.slow
def test_the_seed_decides_all_that_is_random(runs):
    with lmjax.load(runs["euler"]) as trained:
        images, labels = trained.test_sample(20)
        one, same, other = (
            robustness.attacked(trained, images, labels, radii=(8,), sigmas=(16,), seed=seed) for seed in (0, 0, 1)
        )
    for name in one:
        np.testing.assert_array_equal(same[name]["loss"], one[name]["loss"])
        drawn = (other[name]["loss"] != one[name]["loss"]).any()
        assert drawn == (name not in ("clean", "fgsm 8"))


def outcomes(**changes):
    """Of a network that is easily fooled, with nothing to complain of, but for the changes: accuracies or losses."""
    accuracy = {
        "clean": 0.9, "uniform 4": 0.88, "uniform 8": 0.85, "uniform 64": 0.5, "fgsm 4": 0.5, "fgsm 8": 0.3,
        "fgsm 64": 0.2, "pgd10 4": 0.4, "pgd10 8": 0.05, "pgd10 64": 0.0, "pgd20 8": 0.04,
    }  # fmt: skip
    accuracy |= {name: x for name, x in changes.items() if name in accuracy}
    found = {}
    for name, share in accuracy.items():
        correct = np.arange(1000) < 1000 * share
        found[name] = {"correct": correct, "loss": np.full(1000, changes.get(f"loss {name}", 3 - 2.5 * share))}
    return found | {"clean": found["clean"] | {"zero_gradient": np.arange(1000) < changes.get("zero", 0)}}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, set()),
        ({"zero": 10}, set()),
        ({"zero": 11}, {"gradient"}),
        ({"pgd10 64": 0.01}, set()),
        ({"pgd10 64": 0.03}, {"vanishes"}),
        ({"pgd10 8": 0.45, "fgsm 8": 0.6, "loss pgd10 8": 2.0}, {"monotone"}),
        ({"pgd10 8": 0.402, "fgsm 8": 0.6}, set()),  # two images of a thousand: chance
        ({"pgd10 4": 0.55}, {"iterated"}),
        ({"pgd20 8": 0.2, "loss pgd20 8": 2.9}, {"iterated"}),
        ({"uniform 8": 0.01}, {"chance"}),
        ({"loss pgd10 4": 0.1}, {"loss"}),
        ({"loss pgd20 8": 1.0}, {"loss"}),
    ],
)
def test_each_sign_of_a_masked_gradient(changes, failing):
    found = checks(outcomes(**changes))
    assert {name for name, check in found.items() if check["passed"] is False} == failing
    assert all(bool(check["says"]) == (check["passed"] is not True) for check in found.values())
    assert set(found) == {"gradient", "monotone", "vanishes", "iterated", "chance", "loss"}


def test_small_radii_cannot_tell_whether_the_accuracy_vanishes():
    found = {name: x for name, x in outcomes().items() if not name.endswith(" 64")}
    assert checks(found)["vanishes"]["passed"] is None


def test_command(runs, tmp_path, capsys):
    arguments = ["--images", "60", "--radii", "4", "128", "--sigmas", "8", "32", "--out", str(tmp_path)]
    assert main(["robustness", str(runs["lm"]), *arguments]) == 0
    said = capsys.readouterr().out
    assert "PGD-20" in said
    assert " ± " in next(line for line in said.splitlines() if line.startswith("tiny, lm "))
    assert (tmp_path / "robustness.png").stat().st_size > 0
    found = json.loads((tmp_path / "robustness.json").read_text())
    first, second = found["runs"]
    for run in (first, second):
        assert (run["images"], run["seed"], run["step"]) == (60, 0, first["step"])
        assert "jax" in run["versions"]
        assert run["accuracy"]["pgd10 128"] < run["accuracy"]["clean"]
        assert set(run["checks"]["gradient"]) == {"passed", "value", "says"}
    (together,) = found["together"].values()
    accuracies = [run["accuracy"]["pgd10 8"] for run in (first, second)]
    assert together["pgd10 8"]["mean"] == pytest.approx(np.mean(accuracies))
    assert together["pgd10 8"]["std"] == pytest.approx(np.std(accuracies, ddof=1))


@pytest.mark.slow
def test_photographs_are_attacked_as_the_network_sees_them(tmp_path):
    pytest.importorskip("grain")
    images = write_folder(tmp_path / "photos", train=33, val=10)
    arguments = [
        "--config", "configs/imagenet.py:lm_resnet50", "--data.dir", str(images), "--workdir", str(tmp_path / "run"),
        "--data.name", "photographs(32)", "--data.workers", "0", "--model.name", "resnet14", "--model.width", "0.125",
        "--train.batch-size", "16", "--train.eval-batch-size", "16", "--train.epochs", "1",
    ]  # fmt: skip
    assert train.main(arguments) == 0
    out = tmp_path / "found.json"
    assert main(["robustness", str(tmp_path / "run"), "--radii", "128", "--sigmas", "8", "--out", str(out)]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert run["images"] == 10
    assert run["loss"]["pgd10 128"] > run["loss"]["clean"]
