"""The compiled programs of a run."""

import functools
import time
from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lmjax.config import Config
from lmjax.data import Dataset, Photographs
from lmjax.data.feed import evaluation_feed, training_feed
from lmjax.devices import has_seeds, replicated, seed_array, shardings, spread
from lmjax.runtime import compiler_options
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.state import initialize
from lmjax.training.step import StepFunctions, all_finite


class Compiled:
    """The programs of a run, compiled when they are first asked for; for several seeds, spread over their devices.

    They are made from the shapes of the state alone, so that the devices may be described ones (see `lmjax.estimate`).

    Args:
        config, dataset: of the run.
        mesh: from `data_mesh` or `seed_mesh`.
        seeds: as many as the mesh has, where it is one of seeds.

    Attributes:
        functions: what is compiled, with the feeds and the optimizer.
        model: the network, without its numbers.
        layout: of the state on the devices.
        learning_rate: of each step.
        seconds: of tracing and compiling so far.

    Raises:
        InputError: if a batch is too large, or cannot be split, or the images are too small for the augmentation.
    """

    def __init__(self, config: Config, dataset: Dataset | Photographs, mesh: Mesh, seeds: Sequence[int]):
        feed, test_feed = training_feed(config, dataset, mesh, seeds), evaluation_feed(config, dataset, mesh)
        self.learning_rate = learning_rate(
            config.optimizer, steps_per_epoch=feed.steps_per_epoch, epochs=config.train.epochs,
            batch_size=config.train.batch_size,
        )  # fmt: skip
        optimizer = create_optimizer(config.optimizer, self.learning_rate)
        self.model, state = initialize(config, len(dataset.classes), dataset.shape[-1], None, optimizer)
        self.functions = StepFunctions.of(
            config, dataset, nnx.graphdef(self.model), test_feed, mesh, feed=feed, optimizer=optimizer,
            options=config.train, random=getattr(self.model, "random", True),  # a key that is not needed costs nothing
        )  # fmt: skip
        self.layout, self._replicated = shardings(state, mesh, split=config.train.shard_parameters), replicated(mesh)
        leading = (len(seeds),) if has_seeds(mesh) else ()
        self._state = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding),
            state, self.layout,
        )  # fmt: skip
        self._seeds, self._mesh = seed_array(seeds, mesh), mesh
        self._platform = mesh.devices.flat[0].platform
        self._programs, self.seconds = {}, 0.0

    @functools.cached_property
    def _longest(self) -> int:
        """Steps of one program: at most `steps_per_dispatch`, and a divisor of an epoch if there is a good one."""
        limit, feed = self.functions.options.steps_per_dispatch, self.functions.feed
        if limit is None:
            # A step on a CPU takes long enough for its dispatch to cost nothing, and for its loss to be wanted at once.
            limit = 1 if self._platform == "cpu" else 50
        limit = min(limit, feed.steps_per_epoch, feed.longest or limit)
        divisor = max(d for d in range(1, limit + 1) if feed.steps_per_epoch % d == 0)
        return divisor if 2 * divisor >= limit else limit

    def dispatches(self, steps: int) -> list[int]:
        """Split steps into dispatches: full ones, and a shorter one if something is left."""
        full, rest = divmod(steps, self._longest)
        return [self._longest] * full + [rest] * (rest > 0)

    def train(self, steps: int):
        """The compiled program that makes so many steps."""
        packed = self._platform == "gpu" and not self.functions.options.shard_parameters
        program = functools.partial(self.functions.train, steps=steps, packed=packed)
        specs = P("seed"), P("seed"), self.functions.feed.specs
        arguments = self._state, self._seeds, self.functions.feed.example
        return self._compile(f"train {steps}", program, specs, arguments, (self.layout, self._replicated), donate=True)

    def evaluate(self):
        """The compiled program of a batch of evaluation."""
        specs = P("seed"), P("seed"), self.functions.test_feed.specs
        arguments = *self._state.evaluated(), self.functions.test_feed.example
        return self._compile("evaluate", self.functions.evaluate, specs, arguments, self._replicated)

    def finite(self):
        """The compiled program that tells whether parameters are finite."""
        return self._compile("finite", all_finite, (P("seed"),), (self._state.params,), self._replicated)

    def _compile(self, name, program, specs, arguments, layout, *, donate=False):
        """The compiled program of this name, made when it is first asked for."""
        if name not in self._programs:
            start = time.perf_counter()
            if has_seeds(self._mesh):
                jitted = jax.jit(spread(program, self._mesh, specs), donate_argnums=0 if donate else ())
            else:
                jitted = jax.jit(program, donate_argnums=0 if donate else (), out_shardings=layout)
            self._programs[name] = jitted.lower(*arguments).compile(compiler_options(self._platform))
            self.seconds += time.perf_counter() - start
        return self._programs[name]

    def all(self) -> None:
        """Compile what an epoch needs now instead of when it is first needed."""
        for steps in set(self.dispatches(self.functions.feed.steps_per_epoch)):
            self.train(steps)
        self.evaluate()
        self.finite()
