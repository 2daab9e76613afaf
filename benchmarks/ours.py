"""lmjax's side of the comparisons: the update that train.py compiles. Nothing else here knows how a trainer is made."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.batch import random_batch
from lmjax import runtime
from lmjax.config import Config, DataConfig, ModelConfig, TrainConfig
from lmjax.data import Dataset, Split
from lmjax.devices import spread, stack
from lmjax.training import Trainer, data_mesh, seed_mesh


def keep_memory() -> None:
    """What train.py does with its process, but for the compilation cache: compiling is timed here."""
    if runtime.cpu_only():
        runtime.keep_memory()


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained: on a batch of random images, by SGD with momentum 0.9, weight decay 1e-4 and rate 0.1.

    Attributes:
        name, stepper, dtype, width, memory, unroll, placement: see `ModelConfig`.
        batch: images a step.
        size: their height and width.
        classes: their labels.
    """

    name: str
    stepper: str | None = None
    batch: int = 128
    dtype: str = "float32"
    size: int = 32
    classes: int = 10
    width: float = 1.0
    memory: str = "stored"
    unroll: bool | None = None
    placement: str | None = None

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """The batch that all peers are given."""
        return random_batch(self.batch, self.size, self.classes)

    def config(self) -> Config:
        fields = ("name", "stepper", "dtype", "width", "memory", "unroll", "placement")
        model = ModelConfig(**{field: getattr(self, field) for field in fields})
        return Config(DataConfig("cifar10"), model, train=TrainConfig(batch_size=self.batch))


def case(tiny: bool, name: str, **options) -> Case:
    """The case; or a small one of its kind, which a CPU compiles and makes in seconds."""
    full = Case(name, **options)
    if not tiny:
        return full
    kind = re.sub(r"^resnet(20|56|110)$", "resnet14", name).replace("revnet110", "revnet38")
    return dataclasses.replace(full, name=kind, batch=8, width=0.25, size=32 if full.size > 32 else 8)


def dataset(images: int, test: int, size: int, classes: int) -> Dataset:
    """Random images and labels, of which nothing can be learned: that costs the same."""
    rng = np.random.default_rng(0)

    def split(count):
        pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8)
        return Split(pixels, rng.integers(0, classes, count, np.int32))

    names, half = tuple(map(str, range(classes))), np.full(3, 127.5, np.float32)
    return Dataset("random images", split(images), split(test), names, mean=half, std=half / 2)


@functools.cache
def trainer(case: Case, images: int | None = None, test: int = 1) -> Trainer:
    """What train.py makes of the case, with so many images (a batch, if not given), on one device."""
    data = dataset(images or case.batch, test, case.size, case.classes)
    return Trainer(case.config(), data, data_mesh(jax.devices()[:1]))


class Steps:
    """Compiled steps of training and the state that they are at."""

    def __init__(self, compiled: jax.stages.Compiled, state: Any, given: Any, steps: int):
        # A copy: the state is donated, and the trainer that it is from may be asked for it again.
        self.compiled, self.state, self.given, self.steps = compiled, jax.tree.map(jnp.copy, state), given, steps

    def __call__(self) -> None:
        self.state, _ = self.compiled(self.state, self.given)

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    @property
    def temporary_bytes(self) -> int:
        """What the program needs besides its arguments and results: mostly activations."""
        return self.compiled.memory_analysis().temp_size_in_bytes


class Fixed:
    """A feed whose batch is what it is given: there is no gather, crop or flip in the program."""

    def batch(self, key, step, arrays):
        return arrays


def steps_per_dispatch(tiny: bool) -> int:
    """How many steps one program makes, as in train.py: one on a CPU, else what divides CIFAR's 390 steps an epoch."""
    if tiny:
        return 2
    return 1 if jax.default_backend() == "cpu" else 39


def _jitted(programs, steps):
    """(state, given) -> (state, metrics): so many steps of training, as the trainer compiles them."""
    return jax.jit(lambda state, given: programs.train(state, *given, steps=steps), donate_argnums=0)


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """With the options of train.py."""
    return lowered.compile(runtime.compiler_options(jax.default_backend()))


SEED = np.uint32(0)  # of what is random in a step


def real_program(case: Case) -> jax.stages.Lowered:
    """One step as train.py makes it: order, crop, flip, loss, metrics, update, with the state donated."""
    made = trainer(case)
    return _jitted(made.compiled.functions, 1).lower(made.state, (SEED, made.feed.example))


def real_step(case: Case) -> Steps:
    """The steps of train.py, one a call."""
    made = trainer(case)
    return Steps(compiled(real_program(case)), made.state, (SEED, next(iter(made.feed.arrays(0, [1])))), 1)


def _bare(case):
    """The programs on a batch that they are given, the state before, and the batch."""
    made = trainer(case)
    programs = dataclasses.replace(made.compiled.functions, feed=Fixed(), mean=np.float32(0), std=np.float32(1))
    images, labels = case.images()
    return programs, made.state, (SEED, (jnp.asarray(images, case.dtype), jnp.asarray(labels)))


@functools.cache
def bare_step(case: Case, steps: int = 1) -> Steps:
    """Steps on one batch that lies on the device in the dtype of the computation.

    What a peer does that is given a batch: forward, loss, backward, SGD with momentum 0.9 and weight decay 1e-4 (not
    on k). On top of that ours counts the correct answers and looks the learning rate up.
    """
    programs, state, given = _bare(case)
    return Steps(compiled(_jitted(programs, steps).lower(state, given)), state, given, steps)


def copies(case: Case, steps: int, count: int) -> list[Steps]:
    """The bare steps of several networks: one program, and a state for each."""
    one, (_, state, given) = bare_step(case, steps), _bare(case)
    return [Steps(one.compiled, state, given, steps) for _ in range(count)]


def vmapped_step(case: Case, steps: int, seeds: int) -> Steps:
    """The bare steps of several networks at once, as one program over stacked states."""
    programs, state, given = _bare(case)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * seeds), state)
    program = jax.jit(jax.vmap(_jitted(programs, steps), in_axes=(0, None)), donate_argnums=0)
    return Steps(compiled(program.lower(stacked, given)), stacked, given, steps)


def spread_step(case: Case, steps: int, seeds: int) -> Steps:
    """The bare steps of several networks, each on a device of its own, as one program (as train.py makes --seeds)."""
    programs, state, given = _bare(case)
    mesh = seed_mesh(seeds)
    stacked = jax.device_put(stack([state] * seeds), NamedSharding(mesh, P("seed")))
    given = jax.device_put(jax.tree.map(np.asarray, given), NamedSharding(mesh, P()))
    program = jax.jit(spread(_jitted(programs, steps), mesh, (P("seed"), P())), donate_argnums=0)
    return Steps(compiled(program.lower(stacked, given)), stacked, given, steps)


def parameters(case: Case) -> int:
    return trainer(case).parameters
