"""What the tables compare is comparable: equal cost, equal recipe, paired seeds."""

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


def abstract(config):
    return nnx.eval_shape(lambda: config.model.build(classes=10, cin=3, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["schemes", "small"])
def test_schemes_are_compared_at_equal_cost(name):
    rows = {row: config for row, config in table(name).rows.items() if not row.endswith("9")}
    made = {row: abstract(config) for row, config in rows.items()}
    macs = {row: networks.forward_macs(model, (32, 32, 3)) for row, model in made.items()}
    counts = {row: networks.parameter_count(model) for row, model in made.items()}
    learned = {row: sum(k.size for k in networks.coefficients(model).values()) for row, model in made.items()}
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


def test_the_same_seed_draws_the_same_branches():
    rows = table("small").rows

    def drawn(row):
        state = nnx.state(rows[row].model.build(classes=10, cin=3, rngs=nnx.Rngs(5)), nnx.Param)
        return dict(jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state)))

    euler = drawn("euler")
    for row in ("lm", "leapfrog"):  # of one shape throughout
        others = drawn(row)
        assert euler.keys() <= others.keys()
        for path, value in euler.items():
            np.testing.assert_array_equal(value, others[path])
    for row in ("midpoint", "rk4"):  # where the shapes agree: stem, first steps, head
        others = drawn(row)
        same = [path for path in euler if "steps" not in jax.tree_util.keystr(path)]
        assert len(same) > 10
        for path in same:
            np.testing.assert_array_equal(euler[path], others[path])
