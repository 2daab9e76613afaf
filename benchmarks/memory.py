"""C5 and G8: the memory of a gradient whose activations are stored, recomputed, or rebuilt; and what that costs."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import ours
from benchmarks.compiled import MODES
from benchmarks.row import Plan, figure, ratio
from benchmarks.timing import interleaved
from lmjax import networks, steppers


def gradient_of(model: nnx.Module) -> tuple[Callable, tuple]:
    """The function (params, statistics, images) -> (gradient, new statistics), and its first two arguments."""
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)

    def loss(params, statistics, images):
        model = nnx.merge(graph, params, statistics)
        logits = model(images)
        value = jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0])
        return value, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.grad(loss, has_aux=True), (nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))


def temporary_bytes(name: str, batch: int, *, stepper: str, **options) -> int:
    """Of the compiled gradient of a network for CIFAR; nothing is allocated."""
    model = nnx.eval_shape(lambda: networks.create(name, stepper=steppers.get(stepper), rngs=nnx.Rngs(0), **options))
    gradient, arguments = gradient_of(model)
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    return jax.jit(gradient).lower(*arguments, images).compile().memory_analysis().temp_size_in_bytes


def slope(plan: Plan) -> Iterator[dict]:
    """C5: by how much the gradient's temporary memory grows with a block, in its own feature map (A).

    A step more in each of the three stages is three blocks; their feature maps have batch x (32x32x16 + 16x16x32 +
    8x8x64) numbers together, of four bytes. The slope is that of a line through the depths.
    """
    batch, depths = 16, plan.of((3, 5, 9), (3, 5))
    maps = 4 * batch * (32 * 32 * 16 + 16 * 16 * 32 + 8 * 8 * 64)
    for mode, options in MODES.items():
        taken = [temporary_bytes(f"resnet{6 * n + 2}", batch, **options) for n in depths]
        a_block = float(np.polyfit(depths, taken, 1)[0]) / maps
        yield figure(f"{mode}: memory a block", [a_block], "A", steps=list(depths), temporary_bytes=taken)


def reversible(plan: Plan) -> list[dict]:
    """G8: RevNet-110 in float32 at batch 128, all three memories as a compiled loop: bytes, time, gradient.

    The gradients are compared at full precision, of 32 images, by the norm of their difference.
    """
    cases = {
        memory: ours.case(plan.tiny, "revnet110", memory=memory, unroll=False)
        for memory in ("stored", "remat", "reversible")
    }
    sides = {memory: ours.bare_step(case) for memory, case in cases.items()}
    shallow = ours.bare_step(ours.case(plan.tiny, "revnet38", memory="reversible", unroll=False))
    took = interleaved(sides, rounds=plan.rounds, seconds=plan.round_seconds)
    taken = {memory: side.temporary_bytes for memory, side in sides.items()}
    found = [figure(f"{memory}: temporary memory", [taken[memory] / 1e6], "MB") for memory in taken]
    for memory in ("remat", "reversible"):
        found.append(figure(f"memory, stored / {memory}", [taken["stored"] / taken[memory]], "x"))
        found.append(ratio(f"time, {memory} / stored", took[memory], took["stored"]))
    # The channels of RevNet-38 differ in the last stage, 112 instead of 128: 2% of the features.
    deep = taken["reversible"] / shallow.temporary_bytes
    found.append(figure("memory, reversible: 110 / 38 layers", [deep], "x"))
    error = gradient_error(cases["reversible"], plan.of(32, 4))
    found.append(figure("gradient error, reversible", [error], ""))
    return found


def gradient_error(case: ours.Case, batch: int) -> float:
    """The error of the gradient of rebuilt activations relative to that of stored ones."""
    images = jax.random.normal(jax.random.key(1), (batch, case.size, case.size, 3))
    gradients = []
    for memory in ("stored", case.memory):
        model = networks.create(case.name, width=case.width, memory=memory, unroll=False, rngs=nnx.Rngs(0))
        gradient, arguments = gradient_of(model)
        with jax.default_matmul_precision("highest"):
            found, _ = jax.jit(gradient)(*arguments, images)
        gradients.append(jnp.concatenate([x.ravel() for x in jax.tree.leaves(found)]))
    stored, rebuilt = gradients
    return float(jnp.linalg.norm(rebuilt - stored) / jnp.linalg.norm(stored))
