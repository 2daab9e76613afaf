"""What the tables compare is comparable: equal cost, equal recipe, paired seeds."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, command_line, data, networks
from lmjax.results import published
from lmjax.results.reproduce import cost, runs
from lmjax.results.reproduce.tables import TABLES, table
from tests.tiny import ROOT, changed


@pytest.mark.parametrize("name", TABLES)
def test_pairs_are_rows_and_have_their_seeds(name):
    found = table(name)
    assert found.seeds.keys() == found.rows.keys()
    for row, baseline in found.pairs:
        assert {row, baseline} <= found.rows.keys()
    assert min(found.seeds.values()) >= 3


def test_unknown_table_is_named():
    with pytest.raises(InputError, match="did you mean 'depth'"):
        table("dept")


def parameters(model):
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}


def abstract(config):
    return nnx.eval_shape(lambda: config.model.build(classes=10, cin=3, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["schemes", "small"])
def test_schemes_are_compared_at_equal_cost(name):
    rows = {row: config for row, config in table(name).rows.items() if not row.endswith("9")}
    made = {row: abstract(config) for row, config in rows.items()}
    macs = {row: networks.forward_macs(model, (32, 32, 3)) for row, model in made.items()}
    counts = {row: networks.parameter_count(model) for row, model in made.items()}
    learned = {
        row: sum(x.size for path, x in parameters(model).items() if "coefficients" in path)
        for row, model in made.items()
    }
    for row in rows:
        assert macs[row] == pytest.approx(macs["euler"], rel=1e-3)  # RevNet's shortcuts are two small ones
        if row != "reversible":
            assert counts[row] - learned[row] == counts["euler"]
            assert networks.branch_evaluations(made[row]) == 15
    assert counts["reversible"] == pytest.approx(counts["euler"], rel=0.02)
    assert len({(config.optimizer, config.train, config.data) for config in rows.values()}) == 1


def test_published_rows_are_the_published_ones():
    for name in ("depth", "deep", "stochastic-depth"):
        for row, config in table(name).rows.items():
            same, comma, epochs = row.partition(", ")
            assert config.model == published.CIFAR10[same].config.model
            assert (config == published.CIFAR10[same].config) == (not comma)
            assert not comma or epochs == f"{config.train.epochs} epochs"


def test_tables_that_share_a_folder_share_their_rows():
    places = {}
    for name in TABLES:
        for row, config in table(name).rows.items():
            folder = table(name).folder, runs.folder_of(row)
            assert places.setdefault(folder, (row, config)) == (row, config)


@pytest.mark.slow
def test_the_same_seed_draws_the_same_branches():
    rows = table("small").rows

    @functools.cache
    def drawn(row):
        model = rows[row].model
        return jax.jit(lambda: parameters(model.build(classes=10, cin=3, rngs=nnx.Rngs(5))))()

    def assert_same(row, paths):
        assert len(paths) > 10
        for path in paths:
            np.testing.assert_array_equal(drawn("euler")[path], drawn(row)[path])

    for row in ("lm", "leapfrog"):  # of one shape throughout
        assert_same(row, drawn("euler"))
    # Of the others: stem, the plain steps at the beginnings of the stages, head.
    for row in ("midpoint", "poly(2)", "rk4", "reversible"):
        assert_same(row, [path for path in drawn("euler") if "steps" not in path])


def test_the_images_are_those_that_are_trained_on():
    assert table("digits").rows["lm"] == command_line.load(ROOT / "configs" / "digits.py")
    wanted, digits = table("digits").images, data.load("digits")
    assert (wanted.shape, wanted.classes, wanted.train) == (digits.shape, len(digits.classes), len(digits.train.labels))
    for name in ("depth", "deep", "stochastic-depth", "schemes"):
        assert (table(name).images.shape, table(name).images.classes) == published.SHAPES["cifar10"]
    small = table("small")
    assert {config.data.name for config in small.rows.values()} == {f"folder({small.images.shape[0]})"}


def test_cost_is_bound_by_what_it_says():
    images = table("depth").images
    stored = published.CIFAR10["resnet20"].config
    assert cost.steps(stored, images) == 160 * 390

    def seconds(config, **bounds):
        chip = cost.Accelerator("", **{"multiplications": 1e30, "bandwidth": 1e30, "launch": 0.0} | bounds)
        return cost.hours(config, images, chip) * 3600 / (160 * 390)

    again = changed(stored, model={"memory": "remat"})
    # 19 convolutions of 3 x 3 and 2 in shortcuts, each of 7 kernels, and of 3 more that are done again, a second apart.
    assert seconds(stored, launch=1.0) == pytest.approx(21 * 7)
    assert seconds(again, launch=1.0) == pytest.approx(21 * 10)
    # 40.8 million multiplications, three times; half of what the chip can do.
    assert seconds(stored, multiplications=128 * 40.8e6 * 2) == pytest.approx(3, rel=0.01)
    assert seconds(again, multiplications=128 * 40.8e6 * 2) == pytest.approx(4, rel=0.01)
    # 31 passes over the maps of 9 branches of 86,016 numbers in all, but for the stem and the shortcuts.
    assert seconds(stored, bandwidth=128 * 4 * 86_016 * 2) == pytest.approx(31, rel=0.2)
