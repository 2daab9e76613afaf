"""A network, its data and its compiled programs on the devices."""

import copy
import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from lmjax import networks
from lmjax.config import Config
from lmjax.data import Dataset, Photographs
from lmjax.errors import InputError
from lmjax.training.feed import create_feed
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.placement import data_mesh, place, replicated, shardings
from lmjax.training.step import Programs, TrainState

_TOP5_FROM = 100  # with fewer classes, the top-5 accuracy says little


class NonFiniteLoss(ArithmeticError):
    """The loss is infinite or NaN.

    Attributes:
        step: the step at which it did.
    """

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} at step {step}")
        self.step = step


@dataclasses.dataclass
class Tally:
    """What has come together in the epoch that the state is in.

    Attributes:
        steps: made.
        skipped: of these, without an update.
        loss, accuracy: summed over the others, one after another, so that it does not matter where a run was resumed.
        seconds: that they took.
    """

    steps: int = 0
    skipped: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0


class Trainer:
    """Trains one network on one data set.

    Everything random is a function of (config.seed, step), so that a trainer given the state of another goes on
    exactly as the other would have.

    Args:
        config: the run.
        dataset: its data: in memory, to live on the devices, or photographs that are read while training.
        mesh: the devices to use, from `data_mesh`; None for all.

    Use it as a context manager, or call `close`, if photographs are read: only then do the processes end that do so.

    Attributes:
        state: `TrainState`, on every device, or divided over them with train.shard_parameters.
        scheme: what to call the scheme that the network is made of.
        steps_per_epoch, total_steps: of the run.
        tally: of the epoch that the state is in. With the state and the draws it is all that a run goes on from.
        draws: how often `draw_anew` has been called for.
        compile_seconds: what tracing and compiling has taken so far.

    Raises:
        InputError: if the data set is smaller than a batch, a batch cannot be split over the devices, or the images
            are too small for the augmentation.
    """

    def __init__(self, config: Config, dataset: Dataset | Photographs, mesh: Mesh | None = None):
        self.config, self.dataset = config, dataset
        self.mesh = data_mesh() if mesh is None else mesh
        self.feed = create_feed(config, dataset, self.mesh)
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.total_steps = self.steps_per_epoch * config.train.epochs
        self.learning_rate = learning_rate(
            config.optimizer, steps_per_epoch=self.steps_per_epoch, epochs=config.train.epochs,
            batch_size=config.train.batch_size,
        )  # fmt: skip
        self.compile_seconds = 0.0
        self.tally, self.draws = Tally(), 0
        self._seed = np.uint32(config.seed)
        self._compiled = {}

        self._replicated = replicated(self.mesh)
        self._optimizer = create_optimizer(config.optimizer, self.learning_rate)
        model, state = self._initialise()
        self.scheme = config.model.stepper or networks.scheme(model)
        chosen = config.optimizer.chosen_for_coefficients()
        if chosen and not networks.coefficients(model):
            raise InputError(f"optimizer.{chosen[0]}: {self.scheme} has no coefficients: leave it out")
        self._layout = shardings(state, self.mesh, split=config.train.shard_parameters)
        self.state = self.place(state)
        self.programs = Programs(
            graph=nnx.graphdef(model),
            random=getattr(model, "random", True),  # a key that is not needed costs nothing
            feed=self.feed,
            optimizer=self._optimizer,
            mean=dataset.mean,
            std=dataset.std,
            dtype=jnp.dtype(config.model.dtype),
            label_smoothing=config.train.label_smoothing,
            average=config.train.average,
            top5=len(dataset.classes) >= _TOP5_FROM,
            skip_non_finite=config.train.on_nan == "skip",
            gather=self._gather,
        )

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and threads that read photographs. The trainer stays usable, and starts them again."""
        self.feed.close()

    def reseeded(self, seed: int) -> "Trainer":
        """The same run from another seed, at its beginning; the compiled programs and the data are shared."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, seed=seed)
        other._seed, other.draws = np.uint32(seed), 0
        other.feed = self.feed.reseeded(seed)
        other.compile_seconds = 0.0
        other.restart()
        return other

    def restart(self) -> None:
        """Back to the beginning of the run; the draws stay what they are."""
        _, state = self._initialise()
        self.state, self.tally = self.place(state), Tally()

    def draw_anew(self, times: int) -> None:
        """From here on, draws all that is random, and the order of the images, from another seed.

        After a step that has gone wrong, the same draws would lead there again.

        Args:
            times: which of these other seeds, from 1 on; 0 is the seed of the run.
        """
        seed = (self.config.seed + times * 0x9E3779B9) % 2**32  # an odd number: a cycle through all seeds
        if times != self.draws:
            self.feed.close()
            self.feed, self._seed, self.draws = self.feed.reseeded(seed), np.uint32(seed), times

    def _initialise(self):
        """The network and the state, as the seed has them, in the memory of this process."""
        config = self.config
        model = config.model.build(
            classes=len(self.dataset.classes), cin=self.dataset.shape[-1], rngs=nnx.Rngs(config.seed)
        )
        networks.group_batch_norm(model, config.train.batch_norm_group)
        try:
            _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        except ValueError as error:
            kinds = {type(variable).__name__ for _, variable in nnx.to_flat_state(nnx.state(model))}
            raise InputError(
                f"model.name {config.model.name}: has variables other than nnx.Param and nnx.BatchStat "
                f"({', '.join(sorted(kinds))}): draw random numbers from the key of the call"
            ) from error
        params, statistics = nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)
        average = None if config.train.average is None else {"params": params, "statistics": statistics}
        return model, TrainState(jnp.zeros((), jnp.int32), params, statistics, self._optimizer.init(params), average)

    def place(self, state: TrainState) -> TrainState:
        """A state, equal in all processes, brought to the devices of this trainer."""
        return place(state, self._layout)

    def _gather(self, tree: Any) -> Any:
        """Inside a program: the whole of every array on every device."""
        return lax.with_sharding_constraint(tree, self._replicated) if self.config.train.shard_parameters else tree

    @property
    def step(self) -> int:
        """How many steps have been made."""
        return int(self.state.step)

    @property
    def model(self) -> networks.Network:
        """The network as an NNX module, with copies of the parameters and statistics that an evaluation uses."""
        gather = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=self._replicated)
        return nnx.merge(self.programs.graph, *gather(self.state.evaluated()))

    @property
    def parameters(self) -> int:
        """How many trainable numbers the network has."""
        return sum(x.size for x in jax.tree.leaves(self.state.params))

    @property
    def temporary_bytes(self) -> int:
        """What a training program needs on each device besides its arguments and results: mostly activations."""
        return self._train(self.dispatches(self.steps_per_epoch)[0]).memory_analysis().temp_size_in_bytes

    @functools.cached_property
    def _steps_per_dispatch(self) -> int:
        """How many steps one program makes: at most the limit, and a divisor of an epoch if there is a good one."""
        limit = self.config.train.steps_per_dispatch
        if limit is None:
            # A step on a CPU takes long enough for its dispatch to cost nothing, and for its loss to be wanted at once.
            limit = 1 if self.mesh.devices.flat[0].platform == "cpu" else 50
        limit = min(limit, self.steps_per_epoch, self.feed.longest or limit)
        divisor = max(d for d in range(1, limit + 1) if self.steps_per_epoch % d == 0)
        return divisor if 2 * divisor >= limit else limit

    def dispatches(self, steps: int) -> list[int]:
        """How so many steps are portioned: full dispatches, and a shorter one if something is left."""
        full, rest = divmod(steps, self._steps_per_dispatch)
        return [self._steps_per_dispatch] * full + [rest] * (rest > 0)

    def _train(self, steps: int):
        """The compiled program that makes so many steps."""
        if steps not in self._compiled:
            program = functools.partial(self.programs.train, steps=steps)
            jitted = jax.jit(program, donate_argnums=0, out_shardings=(self._layout, self._replicated))
            self._compiled[steps] = self._compile(jitted, self.state, self._seed, self.feed.train_example)
        return self._compiled[steps]

    @functools.cached_property
    def _evaluate(self):
        jitted = jax.jit(self.programs.evaluate, out_shardings=self._replicated)
        return self._compile(jitted, *self.state.evaluated(), self.feed.test_example)

    def _compile(self, jitted, *arguments):
        start = time.perf_counter()
        compiled = jitted.lower(*arguments).compile()
        self.compile_seconds += time.perf_counter() - start
        return compiled

    def compile(self) -> None:
        """Compiles what an epoch needs now instead of when it is first needed."""
        for steps in set(self.dispatches(self.steps_per_epoch)):
            self._train(steps)
        _ = self._evaluate

    def train_epoch(
        self,
        progress: Callable[[int, float, float], None] = lambda images, loss, accuracy: None,
        pause: Callable[[int], bool] = lambda step: False,
    ) -> dict[str, float] | None:
        """Trains to the end of the epoch that the state is in.

        Args:
            progress: called as steps complete with (images since the last call, loss, accuracy).
            pause: called with the step whenever there could be a pause, which is between two programs. Once it has
                returned true, the state is that of the step it was called with, and the next call goes on from there,
                as if there had been no pause. All processes must answer alike.

        Returns:
            `epoch_metrics`; None if there was a pause before the end of the epoch.

        Raises:
            NonFiniteLoss: naming the step. The state is then beyond repair.
        """
        if self.tally.steps == self.steps_per_epoch:
            self.tally = Tally()
        batch, first, tally = self.config.train.batch_size, self.step, self.tally
        dispatches = self.dispatches(self.steps_per_epoch - tally.steps)
        programs = [self._train(steps) for steps in dispatches]
        pending = deque()

        def collect():
            values = jax.device_get(pending.popleft())
            for loss, accuracy in zip(values["loss"].tolist(), values["accuracy"].tolist(), strict=True):
                self._count(loss, accuracy, first - before + tally.steps + 1)
            progress(batch * len(values["loss"]), loss, accuracy)

        before, start = tally.steps, time.perf_counter()
        step, paused = first, False
        try:
            for train, arrays in zip(programs, self.feed.train_arrays(first, dispatches), strict=True):
                self.state, metrics = train(self.state, self._seed, arrays)
                pending.append(metrics)
                step += len(metrics["loss"])
                if len(pending) > 2:  # the device always has the next program waiting, the host never runs far ahead
                    collect()
                if paused := pause(step):
                    break
        except InputError:  # the data's: what was made of it so far belongs to the state, and can be saved with it
            while pending:
                collect()
            raise
        while pending:
            collect()
        tally.seconds += time.perf_counter() - start
        return None if paused and tally.steps < self.steps_per_epoch else self.epoch_metrics()

    def _count(self, loss, accuracy, step):
        tally, config = self.tally, self.config.train
        tally.steps += 1
        if math.isfinite(loss):
            tally.loss += loss
            tally.accuracy += accuracy
            return
        tally.skipped += 1
        if config.on_nan != "skip" or tally.skipped > config.nan_limit:
            raise NonFiniteLoss(f"the training loss is {loss}", step)

    def epoch_metrics(self) -> dict[str, float]:
        """The means over the steps of this epoch so far.

        Returns:
            {"train_loss", "train_accuracy"}, the "learning_rate" of the last step, "images_per_second" without
            compilation, and "skipped_steps" where steps may be skipped.
        """
        tally, config = self.tally, self.config.train
        counted = max(tally.steps - tally.skipped, 1)
        metrics = {
            "train_loss": tally.loss / counted,
            "train_accuracy": tally.accuracy / counted,
            "learning_rate": float(self.learning_rate(self.step - 1)),
            "images_per_second": tally.steps * config.batch_size / tally.seconds,
        }
        return metrics | ({"skipped_steps": tally.skipped} if config.on_nan == "skip" else {})

    def require_finite(self) -> None:
        """Raises NonFiniteLoss if the last update has broken the parameters, which no loss has seen yet."""
        if not bool(self._finite(self.state.params)):
            raise NonFiniteLoss("there are parameters that are not finite", self.step)

    @functools.cached_property
    def _finite(self):
        jitted = jax.jit(lambda tree: jnp.isfinite(optax.tree.norm(tree)), out_shardings=self._replicated)
        return self._compile(jitted, self.state.params)

    def evaluate(self, pause: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """{"test_loss", "test_accuracy"} over every test image, each counted once.

        Where there are a hundred classes or more, "test_top5_accuracy", too.

        Args:
            pause: called between two programs; if it returns true, the evaluation is given up. All processes must
                answer alike.

        Returns:
            None if it was given up.

        Raises:
            NonFiniteLoss: if the last update has broken the parameters, which no training loss has seen yet.
        """
        evaluate, evaluated = self._evaluate, self.state.evaluated()
        total, pending = {}, deque()

        def collect():
            for key, value in jax.device_get(pending.popleft()).items():
                total[key] = total.get(key, 0.0) + float(value)

        for arrays in self.feed.test_arrays():
            pending.append(evaluate(*evaluated, arrays))
            if len(pending) > 2:  # as in training: batches that the device has no time for yet would fill its memory
                collect()
            if pause():
                return None
        while pending:
            collect()
        count = total.pop("count")
        if not count:
            raise InputError(f"{self.dataset.name}: none of the test images can be decoded")
        if not math.isfinite(total["loss"]):
            raise NonFiniteLoss(f"the test loss is {total['loss']}", self.step)
        names = {"loss": "test_loss", "correct": "test_accuracy", "correct5": "test_top5_accuracy"}
        return {names[key]: value / count for key, value in total.items()}

    def coefficients(self) -> dict[str, list]:
        """The learned coefficients of the scheme by stage, as plain lists; see `networks.coefficients`."""
        return _plain(networks.coefficients(self._network))

    def zero_stability(self) -> dict[str, list]:
        """By how much the scheme is zero-stable with them, step by step; see `networks.zero_stability`."""
        return _plain(networks.zero_stability(self._network))

    @property
    def _network(self):
        return nnx.merge(self.programs.graph, self.state.params, self.state.statistics)


def _plain(values: dict[str, Any]) -> dict[str, list]:
    return {stage: np.asarray(value).tolist() for stage, value in values.items()}
