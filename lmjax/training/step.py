"""The two compiled programs of a run: some steps of training, and a batch of evaluation."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lmjax.config import DataConfig
from lmjax.data import crop_and_flip, normalise


class TrainState(NamedTuple):
    """All that changes during training, as pure arrays.

    Attributes:
        step: int32, how many steps have been made.
        params: the trainable parameters, a nested dict.
        statistics: the running statistics of batch normalisation, a nested dict.
        optimizer: the optimiser's state.
    """

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """The functions to compile for one network, data set and optimiser.

    Attributes:
        graph: the static part of the network, from `nnx.split`.
        random: whether the network draws random numbers in training.
        optimizer: what turns gradients into updates.
        augmentation: random crops and flips.
        mean, std: to normalise pixels with.
        dtype: of the normalised images.
        mesh: the devices, along one axis "data"; batches are split over it, everything else is replicated.
        seed: the random decisions of step n follow from (seed, n).
    """

    graph: nnx.GraphDef
    random: bool
    optimizer: optax.GradientTransformation
    augmentation: DataConfig
    mean: Any
    std: Any
    dtype: Any
    mesh: jax.sharding.Mesh
    seed: int

    def train(self, state: TrainState, order: jax.Array, images: jax.Array, labels: jax.Array, *, steps: int):
        """Some steps of training, one after another.

        Args:
            state: before.
            order: int32 [steps an epoch, batch], of the epoch the state is in.
            images, labels: uint8 [N, H, W, C] and int32 [N], the training split.
            steps: how many steps to make, within the epoch.

        Returns:
            The state after them, and {"loss": [steps], "accuracy": [steps]}, float32.
        """

        def one(state, _):
            return self._update(state, order[state.step % order.shape[0]], images, labels)

        if steps > 1:
            return lax.scan(one, state, length=steps)
        state, metrics = one(state, None)
        return state, jax.tree.map(lambda x: x[None], metrics)

    def _update(self, state, index, images, labels):
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        network_key = jax.random.fold_in(key, 2**31) if self.random else None  # the augmentation has the key itself
        config = self.augmentation
        picked = crop_and_flip(key, images, index, pad=config.pad, padding=config.padding, flip=config.flip)
        picked = lax.with_sharding_constraint(picked, NamedSharding(self.mesh, P("data")))
        targets = labels[index]

        def loss(params):
            model = nnx.merge(self.graph, params, state.statistics)
            logits = model(normalise(picked, self.mean, self.std, self.dtype), network_key)
            value = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
            return value, (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (value, (logits, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        accuracy = jnp.mean(jnp.argmax(logits, -1) == targets)
        return TrainState(state.step + 1, params, statistics, optimizer), {"loss": value, "accuracy": accuracy}

    def evaluate(
        self,
        params: Any,
        statistics: Any,
        images: jax.Array,
        labels: jax.Array,
        start: jax.Array,
        *,
        size: int,
        batch: int,
    ):
        """Sums over one batch of the evaluation.

        Args:
            params, statistics: of the network.
            images, labels: the test split, padded to a multiple of the batch.
            start: where the batch begins.
            size: how many images there are without the padding, which does not count.
            batch: images in a batch.

        Returns:
            {"loss", "correct"}: sums over the images of the batch, float32 and int32.
        """
        model = nnx.merge(self.graph, params, statistics)
        model.eval()
        picked = lax.dynamic_slice_in_dim(images, start, batch)
        picked = lax.with_sharding_constraint(picked, NamedSharding(self.mesh, P("data")))
        targets = lax.dynamic_slice_in_dim(labels, start, batch)
        counts = start + jnp.arange(batch) < size
        logits = model(normalise(picked, self.mean, self.std, self.dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        correct = jnp.argmax(logits, -1) == targets
        return {"loss": jnp.sum(jnp.where(counts, losses, 0)), "correct": jnp.sum(counts & correct)}
