"""What the tables compare is comparable: equal cost, equal recipe, paired seeds."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, networks, published
from lmjax.reproduce.tables import TABLES, table


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
            assert config == published.CIFAR10[row].config


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

    assert_same("lm", drawn("euler"))  # of one shape throughout
    assert_same("midpoint", [path for path in drawn("euler") if "steps" not in path])  # stem, first steps, head
