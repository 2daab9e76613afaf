"""The rules and courses by name, and that the trainer follows them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax import InputError, optimizers, schedules
from lmjax.config import Config, OptimizerConfig
from lmjax.training import (
    Trainer,
    create_optimizer,
    data_mesh,
    evaluate,
    learning_rate,
    train_epoch,
)
from tests.devices import ONE
from tests.tiny import changed, create_trainer

pytestmark = pytest.mark.versions


def schedule(steps_per_epoch=10, epochs=4, batch_size=128, **options):
    config = OptimizerConfig(**{"learning_rate": 1.0} | options)
    return learning_rate(config, steps_per_epoch=steps_per_epoch, epochs=epochs, batch_size=batch_size)


def rates(steps_per_epoch=10, epochs=4, **options):
    rate = schedule(steps_per_epoch, epochs, **options)
    return np.array([float(rate(step)) for step in range(steps_per_epoch * epochs)])


def cosine(steps):
    return (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


def test_steps_fall_at_their_milestones():
    np.testing.assert_allclose(rates(), [1.0] * 20 + [0.1] * 10 + [0.01] * 10, rtol=1e-6)
    np.testing.assert_allclose(rates(1, 2, schedule="steps(0.5, 0.6)"), [1.0, 0.01], rtol=1e-6)  # they meet
    np.testing.assert_allclose(rates(1, 1), [1.0], rtol=0)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("constant", [2, 2, 2, 2, 2]),
        ("steps(0.25, 0.75, drop=0.5)", [2, 1, 1, 0.5, 0.5]),
        ("cosine", [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0]),
        ("cosine(final=0.5)", [2, 1.5 + 0.5**1.5, 1.5, 1.5 - 0.5**1.5, 1]),
        ("linear", [2, 1.5, 1, 0.5, 0]),
        ("linear(0.5)", [2, 1.75, 1.5, 1.25, 1]),
        ("wsd(decay=0.5)", [2, 2, 2, 1, 0]),
        ("wsd(1, final=0.5)", [2, 1.75, 1.5, 1.25, 1]),
        ("wsd(0)", [2, 2, 2, 2, 0]),
    ],
)
def test_courses_at_the_quarters_of_a_run(call, expected):
    course = schedules.get(call)(2.0, 400)
    np.testing.assert_allclose([course(n) for n in (0, 100, 200, 300, 400)], expected, atol=1e-6)


def test_warmup_is_a_ramp_that_multiplies_the_schedule():
    ramp = np.minimum(1, np.arange(1, 41) / 5)
    np.testing.assert_allclose(rates(warmup_epochs=0.5), ramp * rates(), rtol=1e-6)
    np.testing.assert_allclose(rates(warmup_epochs=0.5, schedule="cosine"), ramp * cosine(40), atol=1e-6)
    # A milestone within it takes effect, too.
    early = rates(warmup_epochs=2.0, schedule="steps(0.25)")
    np.testing.assert_allclose(early[[0, 9, 10, 19, 20]], [0.05, 0.5, 0.055, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rates(5, 2, warmup_epochs=2.0, schedule="constant"), np.arange(1, 11) / 10, rtol=1e-6)
    with pytest.raises(InputError, match=r"optimizer.warmup_epochs: 2.5 is more than the run has \(train.epochs 2\)"):
        schedule(5, 2, warmup_epochs=2.5)


def test_linear_scaling_with_the_batch():
    options = {"learning_rate": 0.1, "warmup_epochs": 0.2}
    expected = rates(**options)
    np.testing.assert_allclose(rates(batch_size=1024, reference_batch_size=256, **options), 4 * expected, rtol=1e-6)
    np.testing.assert_allclose(rates(batch_size=64, reference_batch_size=256, **options), expected / 4, rtol=1e-6)
    np.testing.assert_array_equal(rates(batch_size=1024, **options), expected)


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine"}, {"schedule": "cosine", "warmup_epochs": 1.0}], ids=str)
def test_the_step_may_be_traced(options):
    traced = jax.jit(jax.vmap(schedule(**options)))(jnp.arange(40, dtype=jnp.int32))
    np.testing.assert_allclose(traced, rates(**options), rtol=1e-5, atol=1e-7)


def test_the_optimizer_follows_the_schedule():
    options = {"schedule": "cosine", "warmup_epochs": 0.5, "batch_size": 64, "reference_batch_size": 32}
    config = OptimizerConfig("sgd(0)", 1.0, weight_decay=0.0)
    optimizer = create_optimizer(config, schedule(2, 4, **options))
    params = {"w": jnp.zeros(3)}
    state, gradient = optimizer.init(params), {"w": jnp.array([1.0, -2.0, 0.5])}
    for step, rate in enumerate(rates(2, 4, **options)):
        updates, state = jax.jit(optimizer.update)(gradient, state, params, step=step)
        np.testing.assert_allclose(updates["w"], -rate * gradient["w"], rtol=1e-5)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], -2 * cosine(8).sum() * gradient["w"], rtol=1e-5)


def test_the_trainer_says_how_long_an_epoch_is_and_how_large_a_batch(config, digits):
    """Five batches of 64 an epoch, three epochs."""
    options = {"schedule": "cosine", "warmup_epochs": 2.0, "reference_batch_size": 32}
    trainer = Trainer(changed(config, optimizer=options), digits, ONE)
    found = [float(trainer.learning_rate(step)) for step in range(15)]
    np.testing.assert_allclose(found, 0.1 * np.minimum(1, np.arange(1, 16) / 10) * cosine(15), rtol=1e-4, atol=1e-8)


W = np.float32([[3, 1, -2], [0.5, 2, 1]])
K = np.random.default_rng(0).normal(size=(2, 3, 3, 2, 4)).astype(np.float32)  # of two steps, each [18, 4] as a matrix
PARAMS = {
    "steps": {
        "item": {
            "conv": {"kernel": K, "bias": np.ones((2, 4), np.float32)},
            "coefficients": [np.float32([-0.1, 0.4])],
        },
    },
    "head": {"kernel": W, "bias": np.float32([1, 0, 2])},
}
GRADIENTS = [jax.tree.map(lambda x, n=n: np.cos(n + np.arange(x.size, dtype=np.float32)).reshape(x.shape), PARAMS)
             for n in (1, 2)]  # fmt: skip


def updated(optimizer, params=PARAMS, gradients=GRADIENTS, **step):
    """The parameters after some updates."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for n, gradient in enumerate(gradients):
        if step:
            step["step"] = n
        updates, state = update(gradient, state, params, **step)
        params = optax.apply_updates(params, updates)
    return params


def ours(gradients=GRADIENTS, **options):
    config = OptimizerConfig(**{"learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.0} | options)
    rate = learning_rate(config, steps_per_epoch=10, epochs=10, batch_size=8)
    return updated(create_optimizer(config, rate), gradients=gradients, step=0)


@pytest.mark.parametrize(
    ("call", "theirs"),
    [
        ("sgd", optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9))),
        ("sgd(0.5, nesterov=True)", optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.5, nesterov=True))),
        ("rmsprop(0.9)", optax.chain(optax.add_decayed_weights(0.01), optax.rmsprop(0.1, 0.9))),
        ("rmsprop(momentum=0.8)", optax.chain(optax.add_decayed_weights(0.01), optax.rmsprop(0.1, 0.99, momentum=0.8))),
        ("adam(0.8)", optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.1, 0.8))),
        ("adamw(b2=0.95)", optax.adamw(0.1, b2=0.95, weight_decay=0.01)),
        ("lion(b2=0.9)", optax.lion(0.1, b2=0.9, weight_decay=0.01)),
    ],
)
def test_rules_are_those_of_optax(call, theirs):
    found = ours(name=call, weight_decay=0.01, decay_coefficients=True)
    chex.assert_trees_all_close(found, updated(theirs), rtol=1e-5, atol=1e-6)


def of_step(tree, n):
    return jax.tree.map(lambda x: x[n], tree["steps"]["item"])


@pytest.mark.parametrize("n", [0, 1])
def test_lamb_and_muon_treat_each_step_as_a_layer_of_its_own(n):
    """What is stacked, against optax on the kernels and the rest of one step alone."""
    params, gradients = of_step(PARAMS, n), [of_step(g, n) for g in GRADIENTS]
    kernel, gradient = params["conv"]["kernel"], [g["conv"]["kernel"] for g in gradients]
    adam = updated(optax.adamw(0.1, weight_decay=0.01), params, gradients)

    found = of_step(ours(name="lamb(eps=1e-8)", weight_decay=0.01, decay_coefficients=True), n)
    lamb = updated(optax.lamb(0.1, eps=1e-8, weight_decay=0.01), kernel, gradient)
    np.testing.assert_allclose(found["conv"]["kernel"], lamb, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["conv"]["bias"], adam["conv"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(found["coefficients"], adam["coefficients"], rtol=1e-5)

    found = of_step(ours(name="muon", weight_decay=0.01, decay_coefficients=True), n)
    rule = optax.contrib.muon(0.1, weight_decay=0.01, consistent_rms=0.2)
    muon = updated(rule, kernel.reshape(18, 4), [g.reshape(18, 4) for g in gradient])
    np.testing.assert_allclose(found["conv"]["kernel"].reshape(18, 4), muon, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["conv"]["bias"], adam["conv"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(found["coefficients"], adam["coefficients"], rtol=1e-5)


def test_updates_of_muon_are_orthogonal():
    draws = np.random.default_rng(1)
    gradient = jax.tree.map(lambda x: draws.normal(size=x.shape).astype(np.float32), PARAMS)
    found = ours([gradient], name="muon(rms=1)", learning_rate=1.0)
    moved = jax.tree.map(lambda a, b: a - b, found, PARAMS)
    for matrix in (*moved["steps"]["item"]["conv"]["kernel"].reshape(2, 18, 4), moved["head"]["kernel"]):
        values = np.linalg.svd(matrix / np.sqrt(max(matrix.shape)), compute_uv=False)
        assert ((values > 0.6) & (values < 1.3)).all(), values  # as near to 1 as five iterations come


@pytest.mark.parametrize(("name", "shape"), [("query", (12, 3, 4)), ("out", (3, 4, 12)), ("key", (12, 12))])
def test_muon_takes_queries_for_a_matrix_of_all_heads(name, shape):
    """[inputs, heads outputs], and what maps them back [heads inputs, outputs]."""
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rule = optimizers.get("muon(rms=1)").before
    found, _ = rule.update(params := {name: {"kernel": kernel}}, rule.init(params), params)
    values = np.linalg.svd(found[name]["kernel"].reshape(12, 12) / np.sqrt(12), compute_uv=False)
    assert ((values > 0.6) & (values < 1.3)).all(), values
    both, _ = rule.update(params := {"item": {name: {"kernel": np.stack([kernel] * 2)}}}, rule.init(params), params)
    np.testing.assert_allclose(both["item"][name]["kernel"], np.stack([found[name]["kernel"]] * 2), rtol=1e-5)


def test_what_decays():
    """Without gradients, whatever decays shrinks to 0.9 of itself."""
    nothing = [jax.tree.map(np.zeros_like, PARAMS)]

    def decayed(**options):
        found = ours(nothing, name="adamw", weight_decay=1.0, **options)
        ratios = jax.tree.map(lambda a, b: float((np.sum(a) / np.sum(b)).round(4)), found, PARAMS)
        item, head = ratios["steps"]["item"], ratios["head"]
        assert head["kernel"] == item["conv"]["kernel"] == pytest.approx(0.9)
        assert head["bias"] == item["conv"]["bias"]
        return head["bias"] < 1, item["coefficients"][0] < 1

    assert decayed() == (True, False)
    assert decayed(decay="kernels") == (False, False)
    assert decayed(decay_coefficients=True) == (True, True)
    assert decayed(decay="kernels", decay_coefficients=True) == (False, True)


def test_the_decay_of_the_authors_code():
    """Their k is 1 - ours: what theirs becomes by a decay towards 0, ours becomes by one towards 1."""

    def each(change, tree):
        return jax.tree.map(lambda chosen, x: change(x) if chosen else x, optimizers.coefficients(tree), tree)

    rule = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9))
    gradients = [each(lambda g: -g, gradient) for gradient in GRADIENTS]
    expected = each(lambda k: 1 - k, updated(rule, each(lambda k: 1 - k, PARAMS), gradients))
    found = ours(name="sgd", weight_decay=0.01, decay_coefficients=True, coefficient_target=1.0)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_every_parameter_of_a_network_is_what_it_is_called(config, digits):
    params = create_trainer(config, digits, ONE).state.params
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    kinds = zip(
        flat, jax.tree.leaves(optimizers.kernels(params)), jax.tree.leaves(optimizers.coefficients(params)), strict=True
    )
    for (path, _), kernel, coefficient in kinds:
        name = jax.tree_util.keystr(path)
        assert kernel == name.endswith("['kernel']"), name
        assert coefficient == ("coefficients" in name), name
        assert kernel or coefficient or name.endswith(("['bias']", "['scale']")), name


def test_gradients_are_clipped_by_the_norm_of_all():
    norm = float(optax.tree.norm(GRADIENTS[0]))
    options = {"name": "sgd(0)", "weight_decay": 0.01}
    half = [jax.tree.map(lambda g: g / 2, GRADIENTS[0])]
    chex.assert_trees_all_close(ours(GRADIENTS[:1], clip_norm=norm / 2, **options), ours(half, **options), rtol=1e-5)
    chex.assert_trees_all_equal(ours(clip_norm=10 * norm, **options), ours(**options))


def test_coefficients_that_are_not_trained_count_for_no_norm():
    gradients = jax.tree.map(np.copy, GRADIENTS[:1])
    gradients[0]["steps"]["item"]["coefficients"][0][...] = 100
    options = {"name": "sgd(0)", "clip_norm": 1.0, "coefficient_rate": 0}
    chex.assert_trees_all_equal(ours(gradients, **options), ours(GRADIENTS[:1], **options))
    fixed, clipped, plain = (
        create_optimizer(OptimizerConfig("sgd", **more), optax.constant_schedule(1.0)).init(PARAMS)
        for more in ({"coefficient_rate": 0}, {"coefficient_rate": 0, "clip_norm": 1.0}, {"coefficient_rate": 2})
    )
    chex.assert_trees_all_equal_structs(fixed, clipped, plain)  # a checkpoint of one is of the same places


@pytest.mark.parametrize("call", ["sgd", "adamw", "muon"])
def test_the_rate_of_the_coefficients(call):
    fast, plain, fixed = (ours(name=call, coefficient_rate=rate) for rate in (3, 1, 0))
    k = PARAMS["steps"]["item"]["coefficients"][0]
    moved = [tree["steps"]["item"].pop("coefficients")[0] - k for tree in (fast, plain, fixed)]
    np.testing.assert_allclose(moved[0], 3 * moved[1], rtol=1e-5)
    assert (np.abs(moved[1]) > 1e-3).all()
    assert (moved[2] == 0).all()
    chex.assert_trees_all_equal(fast, plain, fixed)


@pytest.mark.parametrize("call", ["sgd", "adamw"])
def test_accumulated_gradients_are_those_of_a_larger_batch(call):
    mean = [jax.tree.map(lambda a, b: (a + b) / 2, *GRADIENTS)] * 2
    options = {"name": call, "weight_decay": 0.01, "clip_norm": 1.0, "schedule": "linear"}
    found = ours(GRADIENTS * 2 + GRADIENTS[:1], accumulate_steps=2, **options)  # the last one makes no update
    # Half as many updates in the run, of which each has the rate of the larger batch.
    config = OptimizerConfig(learning_rate=0.1, **options)
    rate = learning_rate(config, steps_per_epoch=5, epochs=10, batch_size=16)
    chex.assert_trees_all_close(found, updated(create_optimizer(config, rate), gradients=mean, step=0), rtol=1e-5)


def test_rates_of_accumulated_updates():
    options = {"schedule": "linear", "warmup_epochs": 1.0, "reference_batch_size": 512}
    np.testing.assert_allclose(
        rates(accumulate_steps=4, batch_size=128, **options),
        np.repeat(rates(5, 2, **options | {"warmup_epochs": 0.5, "reference_batch_size": None}), 4),
        rtol=1e-6,
    )
    with pytest.raises(InputError, match="accumulate_steps: must be at most the 40 steps of the run, got 41"):
        rates(accumulate_steps=41)


@pytest.mark.parametrize("call", ["adamw", "lamb", "muon"])
@pytest.mark.slow
def test_divided_over_devices(call, config, digits):
    wide = changed(
        config, model={"width": 1.0}, optimizer={"name": call, "learning_rate": 0.002}, train={"batch_size": 320}
    )
    whole, divided = (
        Trainer(changed(wide, train={"shard_parameters": split}), digits, data_mesh()) for split in (False, True)
    )
    layouts = jax.tree.map(lambda x: x.sharding, divided.state)
    losses = [(train_epoch(trainer)["train_loss"], evaluate(trainer)["test_loss"]) for trainer in (whole, divided)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert jax.tree.map(lambda x: x.sharding, divided.state) == layouts


def test_an_update_left_out_leaves_no_trace(config, digits):
    """An infinite weight makes every gradient one that is left out, of whichever optimizer, accumulated or not."""
    options = {"name": "adamw", "accumulate_steps": 2}
    trainer = Trainer(changed(config, optimizer=options, train={"on_nan": "skip"}), digits, ONE)
    state = trainer.state
    params = state.params | {"head": jax.tree.map(lambda x: x * np.inf, state.params["head"])}
    trainer.place([jax.device_get(state._replace(params=params))])
    before = jax.device_get(trainer.state)
    train_epoch(trainer)
    assert trainer.sums[0].skipped == 5
    chex.assert_trees_all_equal(jax.device_get(trainer.state), before._replace(step=np.int32(5)))


def test_an_optimizer_and_a_schedule_of_ones_own():
    @optimizers.register
    def half(share: float = 0.5) -> optax.GradientTransformation:
        return optax.scale(share)

    @schedules.register
    def parabola() -> schedules.MakeSchedule:
        return lambda rate, updates: lambda n: rate * (1 - n / updates) ** 2

    chex.assert_trees_all_equal(ours(name="half(0.25)"), ours(name="sgd(0)", learning_rate=0.025))
    np.testing.assert_allclose(rates(schedule="parabola"), (1 - np.arange(40) / 40) ** 2, rtol=1e-6)
    assert Config(optimizer=OptimizerConfig("half( 1 )", schedule="parabola")).optimizer.name == "half(1)"


def test_ones_own_that_gives_something_else():
    optimizers.register(lambda: optax.constant_schedule(1.0), name="wrong")
    schedules.register(lambda: 3, name="wrong")
    with pytest.raises(
        InputError, match="optimizer 'wrong': its function must return an optax\\.GradientTransformation or an lmjax"
    ):
        OptimizerConfig("wrong")
    with pytest.raises(
        InputError,
        match="schedule 'wrong': its function must return a function of the rate and the number of updates, not int",
    ):
        OptimizerConfig(schedule="wrong")
