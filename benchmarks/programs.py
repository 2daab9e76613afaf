"""E1 to E8: the step of training compiled for accelerators that need not be there, and read. Nothing is run or timed.

A step is one of those that `train.py` makes in a dispatch: augmentation, metrics and update are in it, and its
share of the beginning and the end of the dispatch. Times are those of compiling.
"""

import dataclasses
from collections.abc import Iterator

from flax import nnx

from benchmarks import plain
from benchmarks.row import Plan, figure
from benchmarks.train_step import require_same_size
from lmjax import networks, recipes
from lmjax.config import ModelConfig
from lmjax.estimate import Estimate, estimate, target

SCHEMES = ("euler", "lm")


def train(plan: Plan, where: str, name: str, *, batch: int = 128, data: str = "cifar10", **model) -> Estimate:
    """One step of a network on a target."""
    if plan.tiny:
        name, batch, model = "resnet14", 16, model | {"width": 0.25}
    chosen = ModelConfig(name, **({"dtype": "bfloat16"} | model))
    config = recipes.imagenet(chosen) if data == "imagenet" else recipes.lm(data, chosen)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))
    return next(estimate(config, target(where)))


def figures(label: str, made: Estimate) -> Iterator[dict]:
    """What a step is made of."""
    found = made.summary
    yield figure(f"{label}: kernels", [found.kernels], "")
    yield figure(f"{label}: bytes moved", [found.traffic / 1e6], "MB", plain=made.plain_traffic)
    if made.plain_traffic:
        yield figure(f"{label}: bytes moved / the plain form", [found.traffic / made.plain_traffic], "x")
    yield figure(f"{label}: float32 feature maps", [found.wide_maps], "")
    yield figure(f"{label}: memory between", [found.memory["between"] / 1e6], "MB")
    if found.cycles:
        total = sum(found.cycles.values())
        yield figure(f"{label}: estimated cycles an image", [total / made.batch], "", cycles=found.cycles)
    for kind, (count, size) in found.collectives.items():
        yield figure(f"{label}: {kind}", [count], "", bytes=size)
    yield figure(f"{label}: compilation", [made.seconds], "s")


def schemes(plan: Plan, where: str, name: str, **how) -> Iterator[dict]:
    """LM beside Euler."""
    found = {scheme: train(plan, where, name, stepper=scheme, **how) for scheme in SCHEMES}
    for scheme, made in found.items():
        yield from figures(scheme, made)
    of = {scheme: sum(made.summary.cycles.values()) or made.summary.traffic for scheme, made in found.items()}
    yield figure("lm / euler: cycles, or bytes", [of["lm"] / of["euler"]], "x")


def on_gpu(plan: Plan) -> Iterator[dict]:
    yield from schemes(plan, "h100", "resnet20")
    yield from figures("lm in float32", train(plan, "h100", "resnet20", stepper="lm", dtype="float32"))


def deep_on_gpu(plan: Plan) -> Iterator[dict]:
    for unroll in (True, False):
        label = "unrolled" if unroll else "rolled"
        yield from figures(label, train(plan, "h100", "resnet110", stepper="lm", unroll=unroll))


def photographs_on_gpu(plan: Plan) -> Iterator[dict]:
    how = {"batch": 256, "data": "imagenet"}
    yield from schemes(plan, "h100", "resnet50", **how)
    post = train(plan, "h100", "resnet50", stepper="euler", placement="post", **how)
    yield from figures("euler, post-activated", post)


def on_tpu(plan: Plan) -> Iterator[dict]:
    yield from schemes(plan, "v5e", "resnet20")
    yield from figures("lm in float32", train(plan, "v5e", "resnet20", stepper="lm", dtype="float32"))
    yield from figures("lm, rolled", train(plan, "v5e", "resnet20", stepper="lm", unroll=False))


def batches_on_tpu(plan: Plan) -> Iterator[dict]:
    for batch in plan.of((32, 64, 256, 1024), (16,)):  # 128 is in E4
        made = train(plan, "v5e", "resnet20", stepper="lm", batch=batch)
        cycles = sum(made.summary.cycles.values()) / made.batch
        yield figure(f"batch {batch}: estimated cycles an image", [cycles], "", padding=made.padding)


def chips(plan: Plan) -> Iterator[dict]:
    """128 images a chip."""
    for shape, count in plan.of({"2x2": 4, "4x4": 16, "16x16": 256}, {"4x4": 16}).items():
        made = train(plan, f"v5e:{shape}", "resnet20", stepper="lm", batch=128 * count)
        yield from figures(shape, made)


def beside_plain(plan: Plan, where: str, batch: int) -> Iterator[dict]:
    """Post-activated ResNets beside the same ones in Flax NNX alone, whose step is on a given batch."""
    cifar, photographs = {"photographs": False, "classes": 10}, {"photographs": True, "classes": 1000}
    deep = {"depths": (3, 4, 6, 3), "width": 64} | photographs
    peers = {
        "resnet20": ("resnet20", {"depths": (3, 3, 3), "width": 16} | cifar, 32, {"batch": 128}),
        "resnet50": ("resnet50", deep, 224, {"batch": batch, "data": "imagenet"}),
    }
    tiny = ("resnet14", {"depths": (2, 2, 2), "width": 4} | cifar, 32, {"batch": 16, "width": 0.25})
    counts = {
        "kernels": lambda summary: summary.kernels,
        "bytes moved": lambda summary: summary.traffic,
        "estimated cycles": lambda summary: sum(summary.cycles.values()),
    }
    for label, (name, shape, size, how) in plan.of(peers, dict.fromkeys(peers, tiny)).items():
        model = nnx.eval_shape(lambda shape=shape: plain.ResNet(**shape, rngs=nnx.Rngs(0)))
        chosen = ModelConfig(name, "euler", placement="post", width=how.get("width", 1.0))
        same = chosen.outline(classes=shape["classes"], cin=3)
        require_same_size(name, *map(networks.parameter_count, (same, model)))
        ours = train(plan, where, name, stepper="euler", placement="post", **how).summary
        theirs = plain.summary_of_step(model, target(where), how["batch"], size)
        for what, of in counts.items():
            if of(theirs):
                yield figure(f"{label}: {what}", [of(ours) / of(theirs)], "x", counts=[of(ours), of(theirs)])


def plain_on_gpu(plan: Plan) -> Iterator[dict]:
    yield from beside_plain(plan, "h100", 256)


def plain_on_tpu(plan: Plan) -> Iterator[dict]:
    yield from beside_plain(plan, "v5e", 128)
