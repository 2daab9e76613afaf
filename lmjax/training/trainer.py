"""A network, its data and its compiled programs on the devices: one run, or the same run from several seeds."""

import contextlib
import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lmjax import networks
from lmjax.config import Config
from lmjax.data import Dataset, Photographs
from lmjax.devices import data_mesh, has_seeds, host, replicated, seed_array, stack
from lmjax.errors import InputError
from lmjax.training.compiled import Compiled
from lmjax.training.initial import load_initial
from lmjax.training.state import TrainState, initialize


class NonFiniteLoss(ArithmeticError):
    """An infinite or NaN loss.

    Attributes:
        step, seed: at which step of which seed.
    """

    def __init__(self, what: str, step: int, seed: int):
        super().__init__(f"{what} at step {step}")
        self.step, self.seed = step, seed


@dataclasses.dataclass
class EpochSums:
    """Running sums for the current epoch of one seed.

    Attributes:
        steps: how many have been made.
        skipped: how many of these had a loss that is not finite; with train.on_nan "skip" they made no update.
        skipped_in_a_row: how many skipped steps came last, counting on from earlier epochs.
        metrics: the sum of each metric over the steps not skipped, added one step at a time, so that the rounding does
            not depend on where a run was resumed.
        seconds: how long the steps took.
        broken: how many images could not be decoded, in all processes.
    """

    steps: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    broken: int = 0

    def add(self, metrics: dict[str, float]) -> None:
        """Add a step; one whose loss is not finite counts as skipped."""
        self.steps += 1
        if not math.isfinite(metrics["loss"]):
            self.skipped += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value


class Trainer(contextlib.AbstractContextManager):
    """The training of one network on one data set, from one seed or from several at once.

    Everything random is a function of (seed, step), so that a trainer given the state of another goes on exactly as
    the other would have. Several seeds have one device each: the arrays of their state have a leading axis of seeds,
    and their metrics are a list of dictionaries, one per seed, where those of a single run are one dictionary.

    Args:
        config: the run.
        dataset: a `Dataset`, which is put on the devices, or `Photographs`, which are read while training.
        mesh: the devices to use, from `data_mesh` for one run or `seed_mesh` for several seeds; None for all devices.
        seeds: as many as the mesh has devices; None: one run, from the seed of the config.
        begins: False leaves out the weights of config.init, for a run that goes on from a checkpoint.

    Attributes:
        state: `TrainState`, on every device, or divided over them with train.shard_parameters.
        scheme: the name of the scheme that the network is made of.
        steps_per_epoch, total_steps: of the run.
        sums: `EpochSums` of the current epoch, one per seed. A run resumes from these, the state and `redraws`, and
            from nothing else.
        redraws: for each seed, how often its random draws have been changed; see `redraw`.
        diverged: by seed, the error that has ended its training; the others go on.
        feed, test_feed, compiled: the training images, the test images, and the compiled programs.
        random_seeds: uint32; the seeds that the programs draw from, which after a `redraw` are not `seeds`.
        reported: the images that have been reported as impossible to decode.

    Raises:
        InputError: if a batch is too large, or cannot be split, or the images are too small for the augmentation.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset | Photographs,
        mesh: Mesh | None = None,
        seeds: Sequence[int] | None = None,
        begins: bool = True,
    ):
        self.config, self.dataset, self.reported = config, dataset, set()
        self.mesh = data_mesh() if mesh is None else mesh
        self.several = has_seeds(self.mesh)
        self.seeds = (config.seed,) if seeds is None else tuple(seeds)
        self.compiled = Compiled(config, dataset, self.mesh, self.seeds)
        self.feed, self.test_feed = self.compiled.functions.feed, self.compiled.functions.test_feed
        self.steps_per_epoch, self.learning_rate = self.feed.steps_per_epoch, self.compiled.learning_rate
        self.total_steps = self.steps_per_epoch * config.train.epochs
        model = self.compiled.model
        self.scheme, self.stepper = config.model.stepper or networks.scheme(model), getattr(model, "stepper", None)
        _require_coefficients(config, model, self.scheme)
        self.redraws, self.random_seeds = [0] * len(self.seeds), seed_array(self.seeds, self.mesh)
        self._begin(begins)

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and threads that read photographs. A trainer that is used again starts them again."""
        self.feed.close()
        self.test_feed.close()

    def release(self) -> None:
        """Free the state on the devices; `restart` and `reseeded` make another one."""
        vars(self).pop("state", None)

    def reseeded(self, *seeds: int, begins: bool = True) -> "Trainer":
        """The same run from other seeds, at its beginning; the compiled programs and the data are shared."""
        other = copy.copy(self)
        other.config, other.compiled = dataclasses.replace(self.config, seed=seeds[0]), copy.copy(self.compiled)
        other.seeds, other.compiled.seconds = seeds, 0.0
        other.restart(begins)
        return other

    def restart(self, begins: bool = True) -> None:
        """Go back to the beginning of the run; `begins` as for a trainer."""
        self._draw([0] * len(self.seeds))
        self._begin(begins)

    @functools.cached_property
    def _loaded(self) -> dict[str, np.ndarray]:
        return load_initial(self.config, self.dataset)

    def _begin(self, begins: bool) -> None:
        sizes, loaded = (len(self.dataset.classes), self.dataset.shape[-1]), self._loaded if begins else {}
        optimizer = self.compiled.functions.optimizer
        with host() if self.config.train.shard_parameters else contextlib.nullcontext():
            states = [initialize(self.config, *sizes, seed, optimizer, loaded)[1] for seed in self.seeds]
        self.place(states)
        self.sums, self.diverged = [EpochSums() for _ in self.seeds], {}

    def place(self, states: Sequence[TrainState]) -> None:
        """Bring the state of each seed, equal in all processes, to the devices."""
        # From NumPy: an array that lives on one process's device cannot become one that spans several processes.
        arrays = jax.tree.map(np.asarray, stack(states) if self.several else states[0])
        self.state = jax.device_put(arrays, self.compiled.layout)

    def go_on(self, states: Sequence[TrainState], sums: Sequence[EpochSums], redraws: Sequence[int]) -> None:
        """Go on from a checkpoint of each seed."""
        if self.several:
            self.place(states)
        else:
            (self.state,) = states  # on the devices already, and in several processes perhaps in parts
        self.sums = [dataclasses.replace(each, metrics=dict(each.metrics)) for each in sums]
        self.redraw(list(redraws))

    def state_of(self, i: int) -> TrainState:
        """The state of seed number i, on its device."""
        return jax.tree.map(lambda x: x.addressable_data(i)[0], self.state) if self.several else self.state

    def redraw(self, times: Sequence[int]) -> None:
        """From here on, draw all that is random, and the order of the images, from other seeds.

        After a step that has gone wrong, the same draws would lead there again.

        Args:
            times: for each seed, which of its substitutes to use, from 1 on; 0 is the seed itself.
        """
        if times != self.redraws:
            self._draw(times)

    def _draw(self, times: Sequence[int]) -> None:
        self.feed.close()
        # The multiples of an odd number, modulo 2**32, visit every seed before they repeat.
        seeds = [(seed + n * 0x9E3779B9) % 2**32 for seed, n in zip(self.seeds, times, strict=True)]
        self.feed, self.random_seeds = self.feed.reseeded(seeds), seed_array(seeds, self.mesh)
        self.redraws = list(times)

    @property
    def step(self) -> int:
        """Steps made."""
        return int(self.state.step[0] if self.several else self.state.step)

    @property
    def model(self) -> networks.Network:
        """The network of one run as an NNX module, with copies of the parameters and statistics to evaluate."""
        gather = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=replicated(self.mesh))
        return nnx.merge(self.compiled.functions.graph, *gather(self.state.evaluated()))

    @property
    def parameters(self) -> int:
        """Trainable numbers of the network."""
        return sum(x.size for x in jax.tree.leaves(self.state.params)) // len(self.seeds)

    def coefficients(self, i: int = 0) -> dict[str, list]:
        """The learned coefficients of the scheme by stage, of seed number i, as plain lists."""
        return _plain(networks.coefficients(_network(self, i)))

    def zero_stability(self, i: int = 0) -> dict[str, list]:
        """The margins of zero-stability of the scheme with them, step by step; see `networks.zero_stability`."""
        return _plain(networks.zero_stability(_network(self, i)))


def _network(trainer: Trainer, i: int) -> nnx.Module:
    """The network of seed number i in training."""
    state = trainer.state_of(i)
    return nnx.merge(trainer.compiled.functions.graph, state.params, state.statistics)


def _require_coefficients(config: Config, model: nnx.Module, scheme: str) -> None:
    chosen = config.optimizer.chosen_for_coefficients()
    if chosen and not nnx.eval_shape(networks.coefficients, model):
        raise InputError(f"optimizer.{chosen[0]}: {scheme} has no coefficients: leave it out")


def _plain(values: dict[str, Any]) -> dict[str, list]:
    return {stage: np.asarray(value).tolist() for stage, value in values.items()}
