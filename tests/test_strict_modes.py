"""All of lmjax where JAX refuses to promote dtypes and ranks: most of it is only traced, which is when JAX refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lmjax
from lmjax import analysis, data, networks, optimizers, schedules, steppers
from lmjax.analysis.trajectory import measures
from lmjax.analysis.walk import walk
from lmjax.data.augment import Pipeline, augmentations, normalize
from lmjax.promotion import lenient
from lmjax.steppers import StepInfo
from lmjax.training import Trainer
from lmjax.training.optimizer import learning_rate
from tests import tiny
from tests.analysis import small
from tests.steppers.schemes import HAMILTONIAN, REVERSIBLE, SCHEMES, WRAPPERS, autonomous


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def field(u):
    return jax.tree.map(jnp.negative, u)


@pytest.mark.parametrize("scheme", [*SCHEMES, REVERSIBLE, HAMILTONIAN], ids=lambda scheme: scheme.id)
def test_odeint(scheme):
    coupled = scheme.stepper.parts > 1

    def solved(u, t1, coef):
        F = autonomous(field)
        fields, u = ((F, F), (u, u)) if coupled else (F, u)
        return lmjax.odeint(scheme.stepper, fields, u, t1=t1, steps=6, coef=coef)

    for dtype in (jnp.float32, jnp.bfloat16):
        found = jax.eval_shape(solved, jnp.zeros((3, 2), dtype), jnp.float32(1), scheme.coef)
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


BARE = [*steppers.names(), "dense(3)", "lm(per_channel=True)", "linear_multistep((0.5, 0.5), (1.0,), trainable=True)"]
WITH_OPTIONS = [
    "poly(2, drop=0.3, scale=0.7)", "backward_euler(9, 0.001)", "stochastic_depth(noise(lm), per_sample=True)",
    "stochastic_depth(lm, rescale=evaluation, rule=first_dropped)", "noise(leapfrog, distribution=uniform)",
    "shake_shake(lm, backward=keep, per_sample=False)",
]  # fmt: skip


@pytest.mark.parametrize("name", [*BARE, *WITH_OPTIONS, *[f"{wrapper}(momentum)" for wrapper in WRAPPERS]])
def test_steps_their_inverse_and_their_gradient(name, x64):
    _, stepper = steppers.over_stage(steppers.get(name), 3)
    fs = (field,) * stepper.evaluations

    def there_and_back(u, key, index):
        u = (u, u) if stepper.parts == 2 else u
        coef = None if stepper.coef is None else stepper.coef(key, 2)
        for which in (key, None):
            info = StepInfo(which, index, 5).of(1)
            u, history = stepper.step(fs, u, stepper.init(u), coef, info)
            u = u if stepper.inverse is None else stepper.inverse(fs, u, history, coef, info)[0]
        return sum(jnp.sum(jnp.square(x), dtype=jnp.float32) for x in jax.tree.leaves(u))

    for dtype in (jnp.float64, jnp.bfloat16):
        u = jnp.zeros((3, 2), dtype)
        assert jax.eval_shape(jax.grad(there_and_back), u, jax.random.key(0), jnp.int32(1)).dtype == dtype


def test_the_numbers_are_the_same():
    """Per channel, in half precision."""

    def solved():
        k = np.array([-0.3, 0.4], np.float32)
        u = jnp.linspace(-1, 1, 6, dtype=jnp.bfloat16).reshape(3, 2)
        return np.asarray(lmjax.odeint("lm(per_channel=True)", autonomous(jnp.sin), u, t1=1.0, steps=6, coef=k))

    found = solved()
    with lenient():
        np.testing.assert_array_equal(found, solved())


NETWORKS = {
    "LM": ("resnet14", {"stepper": "lm"}),
    "stochastic depth, in a loop": ("resnet14", {"stepper": "stochastic_depth(lm(per_channel=True))", "unroll": False}),
    "across the boundary": ("resnet14", {"stepper": "lm", "boundary": "step", "normalization": "group(4)"}),
    "rebuilt": ("resnet14", {"stepper": "noise(momentum)", "memory": "reversible"}),
    "shared convolutions": ("resnet14", {"stepper": "poly(2)", "sharing": "convolutions", "normalization": "rms"}),
    "dense": ("resnet14", {"stepper": "dense", "memory": "remat"}),
    "RevNet": ("revnet38", {}),
    "FractalNet": ("fractalnet(2, 3)", {}),
    "ConvNeXt": ("convnext((1, 2), (8, 12), patch=2)", {"zero_init": True}),
    "vision transformer": ("vit(width=12, depth=2, patch=8, image=16, splitting=strang)", {}),
    "bottlenecks, max-pooling": ("resnet50", {"unroll": False}),
}


@pytest.mark.parametrize(("kind", "dtype"), [("LM", jnp.float32), *[(kind, jnp.bfloat16) for kind in NETWORKS]])
def test_networks(kind, dtype):
    name, options = NETWORKS[kind]

    def gradient(images, key):
        model = networks.create(name, dtype=dtype, rngs=nnx.Rngs(0), **options)
        graph, params, others = nnx.split(model, nnx.Param, ...)
        others = nnx.to_pure_dict(others)
        model.eval()
        model(images), networks.coefficients(model)
        return jax.grad(lambda params: nnx.merge(graph, params, others)(images, key).sum())(nnx.to_pure_dict(params))

    found = jax.eval_shape(gradient, jnp.zeros((2, 16, 16, 3)), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


AUGMENTATIONS = [
    ("crop(4)", "flip"), ("crop(2, padding=reflect)", "erase(fill=mean)", "flip"), ("cutout(8)",), ("erase",),
    ("mixup(0.2)", "cutmix"), ("trivial",),
]  # fmt: skip


@pytest.mark.parametrize("texts", AUGMENTATIONS, ids=str)
def test_augmentations(texts):
    pipeline = Pipeline(texts, shape=(16, 16, 3), classes=5, mean=[1.0, 2.0, 3.0])
    batch = jnp.zeros((8, 16, 16, 3), jnp.uint8), jnp.zeros(8, jnp.int32)
    for index in (None, jnp.arange(4)):
        images, _ = jax.eval_shape(pipeline, jax.random.key(0), *batch, index)
        assert normalize(jnp.zeros(images.shape, images.dtype), np.ones(3), np.ones(3)).dtype == jnp.float32


def test_no_augmentation_is_left_out():
    tried = {text.partition("(")[0] for texts in AUGMENTATIONS for text in texts}
    assert tried >= {*augmentations.names()} - {"crop_area"}, "which is done by the host"


def program(functions, trainer):
    def made(state, seeds, train, test):
        state, metrics = functions.train(state, seeds, train, steps=1)
        return state, metrics, functions.evaluate(*state.evaluated(), test)

    return made, (trainer.state, trainer.random_seeds, trainer.feed.example, trainer.test_feed.example)


def test_a_step_of_training_and_an_evaluation_give_the_same_numbers():
    """Compiled, with and without the strict modes."""
    trainer = Trainer(tiny.config, data.load("digits"))
    made, shapes = program(trainer.compiled.functions, trainer)
    (train, *_), (test, *_) = trainer.feed.arrays(0, [1]), trainer.test_feed.arrays()
    found = jax.tree.leaves(jax.jit(made)(*shapes[:2], train, test))
    with lenient():
        expected = jax.tree.leaves(jax.jit(made)(*shapes[:2], train, test))
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


ALL_AT_ONCE = {"clip_norm": 1.0, "warmup_epochs": 1, "coefficient_rate": 0.5, "coefficient_bounds": (-0.9, 0.9)}


@pytest.mark.parametrize("rule", optimizers.registry.names())
def test_optimizers(rule):
    config = tiny.changed(
        tiny.config, optimizer={"name": rule, "accumulate_steps": 2, **ALL_AT_ONCE},
        train={"label_smoothing": 0.1, "average": 0.99, "on_nan": "skip"},
    )  # fmt: skip
    trainer = tiny.create_trainer(config, data.load("digits"))
    made, shapes = program(trainer.compiled.functions, trainer)
    assert jax.eval_shape(made, *shapes)[1]["loss"].shape == (1,)


@pytest.mark.parametrize("schedule", sorted({"steps(0.5)", *schedules.registry.names()} - {"steps"}))
def test_schedules(schedule):
    config = tiny.changed(tiny.config, optimizer={"schedule": schedule, "warmup_epochs": 1}).optimizer
    rate = learning_rate(config, steps_per_epoch=5, epochs=4, batch_size=64)
    assert 0 < rate(jnp.int32(7)) <= 0.2


def test_analysis():
    lm = steppers.lm()
    assert 0.9 < analysis.observed_order(lm, -0.5, steps=(20, 40, 80)).order < 1.1
    assert analysis.modified_rate(lm, -0.5)[0] == pytest.approx(1)
    assert analysis.linear_stability(lm, -0.5)

    def paths(images):
        return [measures(*each) for each in walk(small.network("lm"), images)[0]]

    first, _ = jax.eval_shape(paths, small.IMAGES)
    assert first["norm"].shape == (4, 3)


def test_a_normalization_in_a_loop():
    """Its derivative is traced when the loop is differentiated, outside of the layer's own call."""
    stage = networks.Stage(networks.Options("lm", branch=networks.basic()), 4, 4, 3, rngs=nnx.Rngs(0))
    nnx.jit(nnx.grad(lambda stage: jnp.square(stage(jnp.ones((2, 4, 4, 4)))[0]).mean()))(stage)
