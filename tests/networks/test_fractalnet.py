"""FractalNet: its grid is the expansion rule, and drop-path is what was published."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from lmjax.networks.fractalnet import Block, DropPath, FractalNet, Unit, local_weights
from tests.networks.small import IMAGES, backward, forward, loss_and_gradient, parts, scrambled, silent
from tests.parameters import slow

PLAIN = {"dropout": (0.0, 0.0), "drop_path": 0.0, "global_paths": 0.0}


def small(columns=3, **options):
    """Two blocks; running statistics that no initializer makes, so that nothing hides behind a 0 or a 1."""
    model = FractalNet(columns, **({"channels": (4, 6), "dropout": (0.0, 0.2)} | options), rngs=nnx.Rngs(0))
    nnx.update(model, scrambled(parts(model)[2]))
    return model


# The network written from the paper, out of plain functions of the same parameters.


def reference_units(params, statistics):
    """By block and column: the units, each a function."""

    def unit(p, s):
        def f(z):
            z = lax.conv_general_dilated(
                z, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
            )
            return jnp.maximum((z - s["norm"]["mean"]) / jnp.sqrt(s["norm"]["var"] + 1e-5), 0)

        return f

    def values(tree):
        return [tree[i] for i in sorted(tree)]

    return [
        [
            [unit(*both) for both in zip(values(p), values(s), strict=True)]
            for p, s in zip(values(block["columns"]), values(statistics["blocks"][i]["columns"]), strict=True)
        ]
        for i, block in enumerate(values(params["blocks"]))
    ]


def pool(z):
    n, h, w, c = z.shape
    return z.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def mean(zs):
    return sum(zs) / len(zs)


def expanded(level, z, units):
    """The columns of f_level before their last join; `units` has an iterator for each level, the deepest column first.

    f_{C+1}(z) = f_C(f_C(z)) joined with unit(z), where the last join of the second f_C and this one are the same.
    """
    if level == 0:
        return [next(units[0])(z)]
    halfway = mean(expanded(level - 1, z, units))
    return [*expanded(level - 1, halfway, units), next(units[level])(z)]


def reference(params, statistics, block_of):
    z = IMAGES
    for block in reference_units(params, statistics):
        z = block_of(block, z)
    return z.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("columns", [1, pytest.param(3, marks=pytest.mark.versions), slow(4)])
def test_the_grid_is_the_expansion_rule(columns):
    model = small(columns)
    model.eval()
    _, params, statistics = parts(model)

    def block_of(block, z):
        return mean([pool(u) for u in expanded(columns - 1, z, [iter(column) for column in reversed(block)])])

    expected = jax.jit(lambda *state: reference(*state, block_of))(params, statistics)
    logits, _ = forward(model)(params, statistics, None)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("column", "units"), [(1, 2), (-1, 4)])
def test_one_column_alone_is_a_chain(column, units):
    model = small()
    model.eval()
    _, params, statistics = parts(model)

    def block_of(block, z):
        assert len(block[column]) == units
        for unit in block[column]:
            z = unit(z)
        return pool(z)

    expected = jax.jit(lambda *state: reference(*state, block_of))(params, statistics)
    logits, _ = forward(model, column=column)(params, statistics, None)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_those_of_caffe():
    for cin, cout in ((32, 64), (64, 64)):
        kernel = Unit(cin, cout, dropout=0.0, dtype=jnp.float32, rngs=nnx.Rngs(0)).conv.kernel[...]
        assert kernel.std() == pytest.approx(np.sqrt(1 / (9 * cin)), rel=0.02)
        assert jnp.abs(kernel).max() <= np.sqrt(3 / (9 * cin))


# Drop-path.


@pytest.mark.parametrize("drop", [0.0, 0.6])
@pytest.mark.parametrize("inputs", [2, 3])
def test_local_drop_path_of_one_join(inputs, drop):
    trials = 20_000
    keys = jax.random.split(jax.random.key(3), trials)
    weights = np.asarray(jax.vmap(lambda key: local_weights(key, inputs, drop))(keys), np.float64)
    kept = weights > 0
    survivors = kept.sum(1, keepdims=True)
    assert survivors.min() >= 1
    np.testing.assert_allclose(weights, kept / survivors, rtol=1e-6)  # the mean over the survivors
    # k survive with the binomial probability, but that 1 survives when all would have been dropped.
    probability = [math.comb(inputs, k) * (1 - drop) ** k * drop ** (inputs - k) for k in range(inputs + 1)]
    probability[1] += probability[0]

    def close(found, expected, deviation):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=4.5 * deviation / np.sqrt(trials))

    for k in range(1, inputs + 1):
        close((survivors == k).mean(), probability[k], np.sqrt(probability[k] * (1 - probability[k])))
    survival = 1 - drop + drop**inputs / inputs
    close(kept.mean(0), survival, np.sqrt(survival * (1 - survival)))
    second_moment = sum(probability[k] / (inputs * k) for k in range(1, inputs + 1))
    close(weights.mean(0), 1 / inputs, np.sqrt(max(second_moment - 1 / inputs**2, 0)))
    close((weights**2).mean(0), second_moment, weights.std() * 2)


@pytest.mark.parametrize("whole", [0.0, 0.5, 1.0])
def test_how_often_a_step_uses_one_column(whole):
    trials, columns = 8_000, 3
    keys = jax.random.split(jax.random.key(4), trials)
    drawn = jax.vmap(lambda key: DropPath.draw(key, columns=columns, drop=0.15, whole=whole))(keys)
    assert abs(np.mean(drawn.whole) - whole) <= 4.5 * np.sqrt(whole * (1 - whole) / trials)
    shares = np.bincount(np.asarray(drawn.column), minlength=columns) / trials
    np.testing.assert_allclose(shares, 1 / columns, atol=4.5 * np.sqrt(2 / 9 / trials))


def test_every_join_draws_for_itself():
    def kept(key):
        paths = DropPath.draw(key, columns=3, drop=0.5, whole=0.0)
        joins = [(0, 2, 2), (0, 4, 3), (1, 2, 2), (1, 4, 3)]
        return jnp.stack([paths.within(b).weights(row, inputs)[0] > 0 for b, row, inputs in joins])

    trials = 8_000
    kept = np.asarray(jax.vmap(kept)(jax.random.split(jax.random.key(5), trials)), np.float64)
    correlation = np.corrcoef(kept, rowvar=False)
    np.testing.assert_allclose(correlation, np.eye(4), atol=4.5 / np.sqrt(trials))


def test_a_join_is_the_weighted_mean_of_its_columns():
    block = Block(2, 3, 4, dropout=0.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    block.eval()
    shallow, deep = (block.alone(IMAGES, c) for c in (0, 1))
    seen = set()
    for seed in range(12):
        paths = DropPath.draw(jax.random.key(seed), columns=2, drop=0.5, whole=0.0)
        w = paths.weights(2, 2)
        seen.add(tuple(w.tolist()))
        np.testing.assert_allclose(block(IMAGES, paths), w[0] * shallow + w[1] * deep, rtol=1e-5, atol=1e-6)
    assert seen == {(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)}


@pytest.mark.slow
def test_globally_only_one_column_matters():
    model = small(global_paths=1.0)
    _, params, statistics = parts(model)
    both = backward(model)
    found = set()
    for seed in range(8):
        key = jax.random.key(seed)
        (_, (expected, _)), gradient = both(params, statistics, key)
        used = [
            {c for c, column in block["columns"].items() if any(jnp.any(x != 0) for x in jax.tree.leaves(column))}
            for block in gradient["blocks"].values()
        ]
        (column,) = used[0]  # exactly one, and the same one in every block
        assert used == [{column}] * 2
        if column not in found:
            found.add(column)
            alone, _ = forward(model, column=column)(params, statistics, key)  # dropout included
            np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5)
    assert found == {0, 1, 2}


# Training and evaluation.


def test_dropout_keeps_the_mean():
    unit = Unit(1, 1, dropout=0.4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    unit.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    unit.eval()  # the running statistics are mean 0 and variance 1: the unit is dropout alone
    x = jnp.ones((16, 32, 32, 1))
    found = np.asarray(unit(x, jax.random.key(0)), np.float64)
    kept = found > 0
    np.testing.assert_allclose(found[kept], 1 / 0.6, rtol=1e-4)
    tolerance = 4.5 / np.sqrt(found.size)
    assert kept.mean() == pytest.approx(0.6, abs=tolerance * np.sqrt(0.6 * 0.4))
    assert found.mean() == pytest.approx(1.0, abs=tolerance * np.sqrt(0.4 / 0.6) + 1e-4)
    np.testing.assert_allclose(unit(x), x, rtol=1e-4)


def test_every_unit_drops_for_itself(monkeypatch):
    keys = []

    def unit(self, x, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return jnp.zeros((*x.shape[:-1], self.norm.num_features))

    monkeypatch.setattr(Unit, "__call__", unit)
    small()(IMAGES, jax.random.key(0))
    assert len(set(keys)) == len(keys) == 2 * 7


@pytest.mark.parametrize("global_paths", [0.0, 1.0])
def test_a_step_updates_every_statistic_once(global_paths):
    model = small(global_paths=global_paths)
    _, params, first = parts(model)
    second = scrambled(first)
    run, key = forward(model), jax.random.key(0)
    (logits, updated), (same, other) = run(params, first, key), run(params, second, key)
    np.testing.assert_allclose(logits, same, rtol=1e-4, atol=1e-5)  # of the running ones, only the rounding depends
    assert len(jax.tree.leaves(updated)) == 2 * 2 * 7
    # 0.9 old + 0.1 new: the difference of two old ones shrinks by 0.9, and what is left over is the batch's.
    jax.tree.map(
        lambda a, b, x, y: np.testing.assert_allclose(y - x, 0.9 * (b - a), rtol=1e-3, atol=1e-5),
        first, second, updated, other,
    )  # fmt: skip
    jax.tree.map(lambda a, x: np.testing.assert_array_less(0, jnp.abs(x - 0.9 * a).max()), first, updated)


def test_without_drop_path_every_parameter_takes_part():
    _, gradient = loss_and_gradient(small(**PLAIN))  # and no key is needed
    assert not silent(gradient)
