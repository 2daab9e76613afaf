"""Every published row builds, as large as it says, by the recipe of its paper."""

import dataclasses
import re

import pytest

from lmjax import InputError, cli, command_line, networks
from lmjax.config import ModelConfig
from lmjax.results import published
from lmjax.results.published import CIFAR10, CIFAR100, IMAGENET, TABLES
from tests.parameters import few
from tests.tiny import ROOT, changed

CONFIGS = ROOT / "configs"
ROWS = [(table, key) for table, rows in TABLES.items() for key in rows]
FIRST = {TABLES[table][key].config.model: (table, key) for table, key in reversed(ROWS)}


@pytest.mark.versions
@pytest.mark.parametrize(("table", "key"), few(ROWS, FIRST.values()))  # of equal networks, one
def test_the_row_builds_and_has_its_parameters(table, key):
    shape, classes = published.SHAPES[table]
    built = TABLES[table][key].config.model.outline(classes=classes, cin=shape[-1])
    assert networks.parameter_count(built) == TABLES[table][key].parameters


@pytest.mark.parametrize(("table", "key"), ROWS)
def test_the_config_and_its_runs_find_the_row_whatever_their_recipe(table, key):
    row = TABLES[table][key]
    assert command_line.load(f"{CONFIGS / table}.py:{key}") == row.config
    run = changed(row.config, model={"dtype": "bfloat16", "unroll": False}, seed=3, train={"epochs": 2})
    assert published.find(run) == (key, row)


def test_a_run_of_another_network_or_data_has_no_row():
    config = CIFAR10["resnet110"].config
    found = published.find(changed(config, model={"stepper": None}))
    assert found[0] == "resnet110"  # the scheme that it has where none is named
    for other in ({"model": {"width": 2.0}}, {"data": {"name": "digits"}}):
        assert published.find(changed(config, **other)) is None


def test_every_row_of_the_papers_tables_is_there():
    depths = (20, 32, 44, 56, 110, 164)
    assert {f"{prefix}resnet{n}" for n in depths for prefix in ("", "lm_")} <= set(CIFAR10)
    assert {"lm_resnet56_sd", "lm_resnet110_sd", "resnet56_sd", "resnet110_sd", "resnet1202_sd"} <= set(CIFAR10)
    assert {"lm_resnet110", "lm_resnet164", "lm_resnext29_8x64d", "lm_resnext29_16x64d"} <= set(CIFAR100)
    assert {"resnet50", "resnet101", "resnet152", "lm_resnet50", "lm_resnet101"} <= set(IMAGENET)


@pytest.mark.parametrize(
    ("table", "key", "epochs", "batch", "milestones", "decay"),
    [
        ("cifar10", "lm_resnet56", 160, 128, (80, 120), 1e-4),
        ("cifar10", "resnet20_post", 160, 128, (80, 120), 1e-4),
        ("cifar10", "lm_resnet110_sd", 500, 128, (250, 375), 1e-4),
        ("cifar100", "lm_resnet110", 300, 128, (150, 225), 1e-4),
        ("cifar100", "lm_resnext29_8x64d", 300, 128, (150, 225), 5e-4),
        ("cifar10", "revnet38", 160, 100, (80, 120), 2e-4),
        ("cifar100", "fractalnet40", 400, 100, (200, 300, 350, 375), 0),
        ("imagenet", "lm_resnet50", 90, 256, (30, 60), 1e-4),
    ],
)
def test_recipes(table, key, epochs, batch, milestones, decay):
    config = TABLES[table][key].config
    assert (config.train.epochs, config.train.batch_size) == (epochs, batch)
    fractions = ", ".join(repr(m / epochs) for m in milestones)
    assert config.optimizer.schedule == f"steps({fractions}, drop=0.1)"
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("sgd(momentum=0.9)", decay)
    assert config.optimizer.learning_rate == (0.02 if "fractalnet" in key else 0.1)
    if table != "imagenet":
        assert (config.data.name, config.data.augment) == (table, ("crop(4)", "flip"))


def test_what_is_known_of_the_code_of_lm_resnet():
    config, as_published = (CIFAR10[f"lm_resnet56{code}"].config for code in ("_released", ""))
    assert config.data.augment == ("crop(2, padding=reflect)", "flip")
    assert config.optimizer == dataclasses.replace(
        as_published.optimizer, decay_coefficients=True, coefficient_target=1.0
    )
    assert (config.model, config.train) == (as_published.model, as_published.train)
    again = {20: 8.00, 32: 7.96, 44: 7.21, 56: 6.85, 110: 6.43, 164: 5.61}
    assert {depth: CIFAR10[f"lm_resnet{depth}"].reproduced for depth in again} == again


@pytest.mark.parametrize(
    ("table", "key", "millions", "evaluations"),
    [
        ("cifar10", "resnet20", 40.8, 9),  # 40.55 of the blocks and the stem, and two projections
        ("cifar10", "lm_resnet110", 253.1, 54),
        ("cifar10", "revnet38", 77.2, 18),
        ("imagenet", "resnet50", 4089.2, 16),  # as counted for torchvision's ResNet-50
        ("imagenet", "resnext50_32x4d", 4230.5, 16),  # grouped convolutions cost a group's share
    ],
)
def test_cost(table, key, millions, evaluations):
    found = published.cost(table, TABLES[table][key])
    assert found["forward_macs"] / 1e6 == pytest.approx(millions, abs=0.06)
    assert found["branch_evaluations"] == evaluations


def test_the_table_is_printed(capsys, monkeypatch):
    monkeypatch.setitem(TABLES, "cifar10", {k: CIFAR10[k] for k in ("lm_resnet20", "fractalnet20")})
    assert cli.main(["published", "cifar10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"lm_resnet20 +20 +272,384 +40\.8 +9 +8\.33% +8\.00%  Lu et al\. 2018", lines[-5])
    assert re.match(r"fractalnet20 .* Larsson et al\. 2017 \[1\]", lines[-4])
    assert lines[-2].startswith("[1] with drop-path and dropout")
    assert lines[-1].startswith("by others: the last epoch of one seed")
    assert cli.main(["published", "cifar11"]) == 2
    assert "unknown table 'cifar11': did you mean 'cifar10'" in capsys.readouterr().err


def test_rows_are_listed_for_those_who_ask_for_none_or_for_another(tmp_path):
    with pytest.raises(InputError, match=r"cifar10\.py: has several rows; give one of\n") as error:
        command_line.load(CONFIGS / "cifar10.py")
    listed = "cifar10.py:lm_resnet20           resnet20, lm: 272,384 parameters, published error 8.33%, by others 8%"
    assert listed in str(error.value)
    with pytest.raises(InputError, match="has no row 'lm_resnet2': did you mean 'lm_resnet"):
        command_line.load(f"{CONFIGS}/cifar10.py:lm_resnet2")
    (tmp_path / "one.py").write_text("from lmjax.config import Config\nconfig = Config()\n")
    with pytest.raises(InputError, match="has no `rows`, so leave out :x"):
        command_line.load(f"{tmp_path}/one.py:x")


def test_every_family_is_a_row():
    rows = command_line.rows(CONFIGS / "families.py")
    assert len(rows) >= 20
    assert all(isinstance(config.model, ModelConfig) and config.train.epochs == 1 for config in rows.values())
    families = {"resnet", "resnext", "revnet", "fractalnet", "hamiltonian"}
    assert families | {"lm_resnet", "poly2", "stochastic_depth"} <= set(rows)
