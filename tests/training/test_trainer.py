"""The training loop: it learns, repeats itself exactly, and is the same program on any number of devices."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lmjax import InputError, networks
from lmjax.data import Split, normalize
from lmjax.training import Checkpoints, NonFiniteLoss, Trainer, data_mesh, evaluate, train_epoch
from tests.devices import ONE
from tests.parameters import slow
from tests.tiny import changed, create_trainer


def run(trainer, epochs):
    return [train_epoch(trainer) | evaluate(trainer) for _ in range(epochs)]


@pytest.mark.versions
def test_learns(config, digits):
    trainer = create_trainer(changed(config, optimizer={"learning_rate": 0.2}, train={"epochs": 40}), digits, ONE)
    before = evaluate(trainer)
    rows = run(trainer, 40)
    assert before["test_accuracy"] < 0.3
    assert rows[-1]["test_accuracy"] > 0.8
    assert rows[-1]["train_loss"] < 0.3 * rows[0]["train_loss"]
    assert trainer.step == 200
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.2] * 20 + [0.02] * 10 + [0.002] * 10)


def test_same_seed_same_numbers_other_seed_other_numbers(config, digits):
    a, b, c = (create_trainer(dataclasses.replace(config, seed=seed), digits, ONE) for seed in (0, 0, 1))
    rows = [run(trainer, 2) for trainer in (a, b, c)]
    chex.assert_trees_all_equal(a.state, b.state)
    for row in (row for each in rows for row in each):
        row.pop("images_per_second")
    assert rows[0] == rows[1]
    assert rows[0][0]["train_loss"] != rows[2][0]["train_loss"]


@pytest.mark.versions
@pytest.mark.parametrize("stepper", ["lm", slow("stochastic_depth(lm, 0.5, per_sample=True)")])
def test_eight_devices_compute_what_one_does(config, digits, stepper):
    # One step: after several, the rounding of the first has grown to whatever chaos makes of it.
    config = changed(config, train={"batch_size": 320}, model={"stepper": stepper})
    one, eight = create_trainer(config, digits, ONE), create_trainer(config, digits, data_mesh())
    assert eight.mesh.size == 8
    a, b = run(one, 1)[0], run(eight, 1)[0]
    assert one.step == eight.step == 1
    assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
    assert b["test_loss"] == pytest.approx(a["test_loss"], rel=1e-3)
    chex.assert_trees_all_close(jax.device_get(one.state), jax.device_get(eight.state), rtol=1e-2, atol=5e-4)
    assert len(eight.state.params["stem"]["conv"]["kernel"].sharding.device_set) == 8


def test_several_steps_a_dispatch_are_the_same_steps(config, digits):
    config = changed(config, train={"batch_size": 80}, optimizer={"learning_rate": 1e-3})  # four steps, and no chaos
    one, three = (create_trainer(changed(config, train={"steps_per_dispatch": n}), digits, ONE) for n in (1, 3))
    before = jax.device_get(one.state.params)
    a, b = run(one, 1)[0], run(three, 1)[0]
    assert one.step == three.step == 4
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    chex.assert_trees_all_close(one.state, three.state, rtol=1e-3, atol=2e-5)
    assert (
        max(jnp.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (before, one.state.params)), strict=True)) > 5e-4
    )


def test_how_an_epoch_is_portioned(config, digits):
    # Of five steps; where no divisor is near the limit, the last dispatch is a shorter one.
    for limit, portions in ((1, [1] * 5), (2, [1] * 5), (3, [3, 2]), (4, [4, 1]), (5, [5]), (100, [5])):
        trainer = create_trainer(changed(config, train={"steps_per_dispatch": limit}), digits, ONE)
        assert trainer.compiled.dispatches(trainer.steps_per_epoch) == portions


def test_one_step_against_numpy_sgd(config, digits):
    """The first two updates, from gradients taken outside the trainer, by the textbook's SGD with momentum."""
    batch = dataclasses.replace(digits, train=Split(digits.train.images[:64], digits.train.labels[:64]))
    config = changed(config, data={"augment": ()}, optimizer={"weight_decay": 0.01, "schedule": "constant"})
    trainer = Trainer(config, batch, ONE)
    params, statistics = jax.tree.map(jnp.copy, (trainer.state.params, trainer.state.statistics))
    graph = trainer.compiled.functions.graph
    images = normalize(jnp.asarray(batch.train.images), batch.mean, batch.std)

    def loss(params, statistics):
        model = nnx.merge(graph, params, statistics)
        value = optax.softmax_cross_entropy_with_integer_labels(model(images), batch.train.labels).mean()
        return value, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    gradients, velocity = jax.jit(jax.grad(loss, has_aux=True)), jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        gradient, statistics = gradients(params, statistics)
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        decay = jax.tree.unflatten(
            jax.tree.structure(params),
            [0.0 if "coefficients" in jax.tree_util.keystr(path) else 0.01 for path, _ in flat],
        )
        velocity = jax.tree.map(lambda v, g, d, p: 0.9 * v + g + d * p, velocity, gradient, decay, params)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        train_epoch(trainer)
    chex.assert_trees_all_close(jax.device_get(trainer.state.params), params, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(
        jax.device_get(trainer.state.statistics), jax.device_get(statistics), rtol=1e-3, atol=1e-5
    )


@pytest.mark.versions
@pytest.mark.parametrize("batch", [32, 500, slow(1), slow(70)])
def test_evaluation_counts_every_image_once(config, digits, batch):
    trainer = create_trainer(changed(config, train={"eval_batch_size": batch}), digits, ONE)
    train_epoch(trainer)
    model = trainer.model
    model.eval()
    logits = model(normalize(jnp.asarray(digits.test.images), digits.mean, digits.std))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, digits.test.labels)
    found = evaluate(trainer)
    assert found["test_accuracy"] == np.mean(np.asarray(logits).argmax(-1) == digits.test.labels)
    assert found["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_state_is_donated_and_programs_compile_once(config, digits):
    trainer = Trainer(config, digits, ONE)
    trainer.compiled.all()
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(trainer.state))
    assert trainer.compiled.train(1).memory_analysis().alias_size_in_bytes >= state_bytes
    seconds = trainer.compiled.seconds
    kernel = trainer.state.params["stem"]["conv"]["kernel"]
    run(trainer, 2)
    assert kernel.is_deleted()
    assert trainer.compiled.seconds == seconds > 0


def test_loss_that_only_the_evaluation_sees(config, digits):
    """The last update of an epoch may break the parameters without any training loss to show it."""
    config = changed(config, optimizer={"learning_rate": 1e30, "weight_decay": 1e30}, train={"batch_size": 320})
    trainer = create_trainer(config, digits, ONE)
    train_epoch(trainer)
    with pytest.raises(NonFiniteLoss, match=r"the test loss is (nan|inf) at step 1"):
        evaluate(trainer)


@pytest.mark.slow
def test_k_can_be_kept_within_bounds(config, digits):
    low, high = 0.2, 0.3
    trainer = create_trainer(changed(config, optimizer={"coefficient_bounds": (low, high)}), digits, ONE)
    train_epoch(trainer)
    k = np.concatenate(list(trainer.coefficients().values()))
    assert ((k >= low - 1e-7) & (k <= high + 1e-7)).all()
    free = create_trainer(config, digits, ONE)
    train_epoch(free)
    assert (np.abs(np.concatenate(list(free.coefficients().values())) - k) > 1e-3).any()
    np.testing.assert_allclose(
        trainer.zero_stability()["stage1"], 1 - np.abs(trainer.coefficients()["stage1"]), rtol=1e-5
    )


def test_options_for_coefficients_need_some(config, digits):
    for option in ({"coefficient_rate": 0.5}, {"coefficient_bounds": (-1, 1)}, {"decay_coefficients": True}):
        with pytest.raises(InputError, match=f"optimizer.{next(iter(option))}: euler has no coefficients"):
            Trainer(changed(config, model={"stepper": "euler"}, optimizer=option), digits, ONE)


def test_reflection_needs_something_to_reflect(config, digits):
    with pytest.raises(InputError, match=r"crop\(8, padding=reflect\) needs images of 9 pixels a side or more, got 8"):
        Trainer(changed(config, data={"augment": ("crop(8, padding=reflect)",)}), digits, ONE)


@pytest.mark.versions
@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 400}, "400 is more than the 320 training images"),
        ({"batch_size": 60}, "60 cannot be split evenly over 8 devices"),
    ],
)
def test_batch_that_does_not_fit(config, digits, train, message):
    with pytest.raises(InputError, match=message):
        Trainer(changed(config, train=train), digits, data_mesh())


@pytest.mark.parametrize(("text", "smoothing"), [("flip", 0.1), ("mixup(1.0)", 0.0), ("cutmix(1.0)", 0.1)])
def test_loss_of_softened_or_mixed_targets_and_the_accuracy_by_the_larger_share(config, digits, text, smoothing):
    config = changed(config, data={"augment": (text,)}, train={"batch_size": 320, "label_smoothing": smoothing})
    trainer = create_trainer(config, digits, ONE)
    arrays = next(iter(trainer.feed.arrays(0, [1])))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    images, targets = map(np.asarray, trainer.feed.batch(key, jnp.int32(0), arrays))
    own = np.asarray(digits.train.labels)[np.asarray(arrays[0][0])]
    share, other = 1.0, np.roll(own, 1)
    if text != "flip":
        (share,) = {targets[i, own[i]].item() for i in np.flatnonzero(own != other)}
        assert 0.02 < share < 0.98
    logits = trainer.model(normalize(images, digits.mean, digits.std))
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    mixed = share * log_p[np.arange(320), own] + (1 - share) * log_p[np.arange(320), other]
    seen = []
    metrics = train_epoch(trainer, lambda *progress: seen.append(progress))
    expected = -((1 - smoothing) * mixed + smoothing * log_p.mean(-1)).mean()
    assert metrics["train_loss"] == pytest.approx(expected, rel=1e-5)
    right = np.asarray(logits.argmax(-1)) == (own if share > 0.5 else other)
    assert metrics["train_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert seen == [(320, pytest.approx(expected, rel=1e-5), pytest.approx(right.mean(), abs=1e-6))]


def test_the_average_is_evaluated_saved_and_gone_on_with(config, digits, tmp_path):
    config = changed(config, train={"average": 0.3})
    trainer = create_trainer(config, digits, ONE)
    plain = create_trainer(changed(config, train={"average": None}), digits, ONE)
    expected = jax.device_get({"params": trainer.state.params, "statistics": trainer.state.statistics})
    program = jax.jit(plain.compiled.functions.train, static_argnames="steps")
    state = plain.state
    for n, arrays in enumerate(plain.feed.arrays(0, [1] * 5)):
        state, _ = program(state, np.uint32(0), arrays, steps=1)
        decay = min(0.3, (1 + n) / (10 + n))
        new = {"params": state.params, "statistics": state.statistics}
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, new)
    train_epoch(trainer)
    chex.assert_trees_all_close(trainer.state.average, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(trainer.state.params, state.params, rtol=1e-4, atol=1e-5)

    averaged = evaluate(trainer)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(trainer.state, {})
        again = create_trainer(config, digits, ONE)
        again.state, _ = checkpoints.restore(again.state)
        assert evaluate(again) == averaged
        chex.assert_trees_all_equal(run(again, 1) and again.state, run(trainer, 1) and trainer.state)
        with pytest.raises(InputError, match="average"):
            checkpoints.restore(plain.state)
    last = trainer.state
    trainer.state = last._replace(average={"params": last.params, "statistics": last.statistics})
    assert evaluate(trainer)["test_loss"] != averaged["test_loss"]


def test_network_of_ones_own_with_other_variables_is_refused(config, digits):
    """Random numbers of a network follow from the key of its call, so that a resumed run draws the same."""

    class Dropping(nnx.Module):
        def __init__(self, options, rngs):
            self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(64, options.classes, rngs=rngs)

        def __call__(self, images, key=None):
            return self.head(self.drop(images.reshape(len(images), -1)))

    networks.register(lambda: Dropping, name="dropping")
    config = changed(config, model={"name": "dropping()", "stepper": None})
    with pytest.raises(
        InputError, match=r"model.name dropping\(\): has variables other than nnx.Param and nnx.BatchStat"
    ):
        Trainer(config, digits, ONE)
