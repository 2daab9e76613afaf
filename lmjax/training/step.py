"""The two compiled programs of a run: some steps of training, and a batch of evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh

from lmjax.config import Config, TrainConfig
from lmjax.data import Dataset, Photographs, normalize
from lmjax.data.feed import EvaluationFeed, TrainingFeed
from lmjax.devices import replicated
from lmjax.errors import InputError
from lmjax.promotion import lenient
from lmjax.training.packing import packing
from lmjax.training.state import TrainState

_TOP5_FROM = 100  # with fewer classes, the top-5 accuracy says little


def all_finite(tree: Any) -> jax.Array:
    """True if no number of some arrays is infinite or NaN. (The norm of finite numbers may overflow.)"""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The function to compile for an evaluation of one network on one data set.

    Attributes:
        graph: the static part of the network, from `nnx.split`.
        test_feed: where test images come from.
        mean, std: of each channel, to normalize pixels with.
        dtype: of the normalized images.
        classes: how many there are, and so logits.
        gather: replicates parameters that are sharded over the devices, before they are used.
    """

    graph: nnx.GraphDef
    test_feed: EvaluationFeed
    mean: Any
    std: Any
    dtype: Any
    classes: int
    gather: Callable[[Any], Any]

    @classmethod
    def of(
        cls, config: Config, dataset: Dataset | Photographs, graph: nnx.GraphDef, test_feed: EvaluationFeed, mesh: Mesh,
        **others: Any,
    ) -> Self:  # fmt: skip
        """The functions of a run; `others` are attributes of a subclass, passed to its constructor."""
        whole = functools.partial(lax.with_sharding_constraint, shardings=replicated(mesh))
        return cls(
            graph=graph,
            test_feed=test_feed,
            mean=dataset.mean,
            std=dataset.std,
            dtype=jnp.dtype(config.model.dtype),
            classes=len(dataset.classes),
            gather=whole if config.train.shard_parameters else lambda tree: tree,
            **others,
        )

    def evaluate(self, params: Any, statistics: Any, arrays: Any) -> dict[str, jax.Array]:
        """Sums over one batch of the evaluation; images with the label -1 are padding, and do not count.

        Args:
            params, statistics: of the network.
            arrays: from the feed.

        Returns:
            {"count", "loss", "accuracy"}, and "top5_accuracy" of a hundred classes or more: float32 and int32 sums over
            the batch. Each is divided by the count of all batches, and is test_<name> in a row of metrics.
        """
        model = nnx.merge(self.graph, self.gather(params), statistics)
        model.eval()
        images, targets = self.test_feed.batch(arrays)
        counts = targets >= 0
        logits = model(normalize(images, self.mean, self.std, self.dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
        sums = {
            "count": jnp.sum(counts),
            "loss": jnp.sum(jnp.where(counts, losses, 0)),
            "accuracy": jnp.sum(counts & (jnp.argmax(logits, -1) == targets)),
        }
        if self.classes >= _TOP5_FROM:
            _, best = lax.top_k(logits, 5)
            sums["top5_accuracy"] = jnp.sum(counts & jnp.any(best == targets[:, None], -1))
        return sums


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StepFunctions(Evaluation):
    """The functions to compile for one network, data set and optimizer.

    Attributes:
        random: whether the network draws random numbers in training.
        feed: where training batches come from.
        optimizer: what turns gradients into updates, from `create_optimizer`.
        options: of the training.
    """

    random: bool
    feed: TrainingFeed
    optimizer: optax.GradientTransformationExtraArgs
    options: TrainConfig

    def train(
        self, state: TrainState, seed: jax.Array, arrays: Any, *, steps: int, packed: bool = False
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Some steps of training, one after another.

        Args:
            state: before.
            seed: uint32; the random decisions of step n follow from (seed, n).
            arrays: from the feed.
            steps: how many steps to make, within the epoch.
            packed: keep the state in a few vectors between the steps; see `packing`.

        Returns:
            The state after them, and {"loss": [steps], "accuracy": [steps]}, float32. The mean of each over the steps
            of an epoch is train_<name> in a row of metrics.
        """

        if steps == 1:
            state, metrics = self._update(state, seed, arrays)
            return state, jax.tree.map(lambda x: x[None], metrics)
        pack, unpack = packing(state) if packed else (lambda state: state,) * 2

        def one(carry, _):
            new, metrics = self._update(unpack(carry), seed, arrays)
            return pack(new), metrics

        carry, metrics = lax.scan(one, pack(state), length=steps)
        return unpack(carry), metrics

    def _update(self, state, seed, arrays):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        network_key = jax.random.fold_in(key, 2**31) if self.random else None  # the augmentation takes the key itself
        images, targets = self.feed.batch(key, state.step, arrays)

        def loss(params):
            model = nnx.merge(self.graph, self.gather(params), state.statistics)
            logits = model(normalize(images, self.mean, self.std, self.dtype), network_key)
            if logits.shape != (len(images), self.classes):
                raise InputError(
                    f"model.name: must give logits [{len(images)}, {self.classes}], the images and the classes, got "
                    f"{list(logits.shape)}"
                )
            return self._loss(logits, targets), (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (value, (logits, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        with lenient():  # optax relies on implicit promotion
            updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params, step=state.step)
        params = optax.apply_updates(state.params, updates)
        labels = targets if targets.ndim == 1 else jnp.argmax(targets, -1)  # of mixed images, the largest share
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
        average = self._averaged(state, {"params": params, "statistics": statistics})
        new = TrainState(state.step + 1, params, statistics, optimizer, average)
        if self.options.on_nan == "skip":  # a step without an update is known by its loss, NaN
            finite = all_finite((gradient, value))
            new = jax.tree.map(functools.partial(jnp.where, finite), new, state._replace(step=new.step))
            value = jnp.where(finite, value, jnp.nan)
        return new, {"loss": value, "accuracy": accuracy}

    def _loss(self, logits, targets):
        shares = jax.nn.one_hot(targets, logits.shape[-1]) if targets.ndim == 1 else targets
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(shares, self.options.label_smoothing)).mean()

    def _averaged(self, state, new):
        if self.options.average is None:
            return None
        # A smaller decay in the first steps: otherwise the initial weights would dominate the average for long.
        n = state.step.astype(jnp.float32)
        decay = jnp.minimum(self.options.average, (1 + n) / (10 + n))
        return optax.incremental_update(new, state.average, 1 - decay)
