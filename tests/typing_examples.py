"""The public API as a user's program has it: `pyrefly check` reads this file, and nothing runs it."""

import dataclasses
from collections.abc import Callable
from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lmjax import InputError, data, load, networks, odeint, optimizers, registry, schedules, steppers
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, from_dict
from lmjax.networks.options import Kind
from lmjax.reversible import reversible_scan
from lmjax.steppers import Properties, StepInfo, Stepper, combine


def field(u: jax.Array) -> jax.Array:
    return -u


def moved(t: jax.Array, u: jax.Array) -> jax.Array:
    return t * u


def integrates(u0: jax.Array) -> jax.Array:
    euler, lm = steppers.euler(), steppers.lm(-0.5, high=-0.5, per_channel=True)
    u, _ = lm.step((field,), u0, lm.init(u0), -0.1)
    u, _ = steppers.noise(euler, sigma=0.1).step((field,), u, (), None, StepInfo(jax.random.key(0), 0, 1))
    u = odeint("rk4", moved, {"x": u}, t1=1.0, steps=10, args=u, save_at=[0.5, 1.0], memory="remat")["x"]
    odeint(steppers.reversible(), (moved, moved), (u, u), t1=u[0], steps=10, start=None)
    state, _ = reversible_scan(steppers.leapfrog(), [lambda w, _, u: (w * u, None)], (u, u), jnp.ones((10, 3)))
    return combine((0.5, state[0]), (jnp.float32(0.5), u))


def uses(run: str) -> list[str]:
    with load(run, at="best") as model:
        probabilities, labels = model.predict(["a.jpg", np.zeros((32, 32, 3), np.uint8)])
        assert_type(probabilities, np.ndarray)
        return [model.classes[label] for label in labels]


def wrong_calls() -> None:
    steppers.lm("high")  # pyrefly: ignore[bad-argument-type]
    steppers.rk4(3)  # pyrefly: ignore[bad-argument-count]
    odeint(4, moved, 1.0, t1=1.0, steps=10)  # pyrefly: ignore[bad-argument-type]
    odeint("rk4", moved, 1.0, t1=1.0, steps=10, memory="none")  # pyrefly: ignore[bad-argument-type]
    load(3)  # pyrefly: ignore[bad-argument-type]
    networks.Options(stepper=3)  # pyrefly: ignore[bad-argument-type]
    print(steppers.get("lm").ste)  # pyrefly: ignore[missing-attribute]
    DataConfig(on_error="ignore")  # pyrefly: ignore[bad-argument-type]


@steppers.register
def paced(pace: float = 1.0) -> Stepper:
    def step(fs, u, previous, s):
        (f,) = fs
        return combine((1, previous), (s, f(u))), u

    known = Properties(order=2, damping=lambda s: 2 / s, steps_back=1)
    return Stepper("paced", step, init=lambda u: u, coef=lambda key, channels: jnp.full((), pace), known=known)


@steppers.register(name="twice")
def repeated(stepper: Stepper, *, count: int = 2) -> Stepper:
    return dataclasses.replace(stepper, name=f"{stepper.name}{count}")


@networks.branches.register
def doubled(channels: int = 2) -> Kind:
    return networks.basic()


class Model(nnx.Module):
    def __init__(self, options: networks.Options, rngs: nnx.Rngs):
        self.stepper = options.stepper or steppers.lm()
        self.block = networks.Block(options.replace(stepper=self.stepper, branch="basic"), 4, rngs=rngs)

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        u, _ = self.block(images, self.stepper.init(images))
        return u


@networks.register
def mine(depth: int = 3) -> Callable[[networks.Options, nnx.Rngs], Model]:
    return lambda options, rngs: Model(options, rngs)


@optimizers.register
def signs(scale: float = 1.0) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_sign(), optax.scale(scale))


@schedules.register
def halved() -> schedules.MakeSchedule:
    return lambda rate, updates: lambda step: rate / 2


def registers() -> None:
    assert_type(paced(2.0), Stepper)
    assert_type(repeated(paced(), count=3), Stepper)
    paced("fast")  # pyrefly: ignore[bad-argument-type]
    repeated(paced(), 3)  # pyrefly: ignore[bad-argument-count]
    assert_type(steppers.get("paced"), Stepper)
    assert_type(optimizers.get("signs"), optimizers.Rule)
    assert_type(networks.branches.get("doubled"), Kind)
    assert_type(registry.KINDS["steppers"].names(), tuple[str, ...])
    assert_type(mine(depth=2)(networks.Options(), nnx.Rngs(0)), Model)


def configures() -> Config:
    config = Config(
        data=DataConfig("digits", augment=("crop(1)",)),
        model=ModelConfig("resnet14", "paced", width=0.25, memory="reversible"),
        optimizer=OptimizerConfig(learning_rate=0.05, coefficient_bounds=(-1, 1)),
        train=TrainConfig(epochs=2, batch_size=64),
    )
    try:
        return from_dict({"seed": 3})
    except InputError:
        return dataclasses.replace(config, seed=1)


def builds(images: jax.Array) -> jax.Array:
    model = networks.create("resnet20", stepper="lm", branch=networks.basic(), rngs=nnx.Rngs(0))
    networks.parameter_count(model)
    found = data.load("digits")
    means: np.ndarray = found.mean
    return model(images - means)
