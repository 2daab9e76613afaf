"""G4 and G5: whole epochs through the trainer, as train.py makes them."""

import functools
import time

from benchmarks import ours
from benchmarks.row import Plan, figure, lacks, missing, ratio
from benchmarks.timing import Calls, interleaved
from benchmarks.train_step import lm_peer
from lmjax.training import evaluate, train_epoch

EPOCHS = 160  # of the published recipe


def _trainer(plan, name):
    """With as many random images as CIFAR-10 has."""
    case = ours.case(plan.tiny, name, stepper="lm", dtype="bfloat16")
    return case, ours.trainer(case, *plan.of((50_000, 10_000), (32, 16)))


def overhead(plan: Plan) -> list[dict]:
    """G4: an epoch of LM-ResNet-20 at batch 128 over as many bare steps: order, crops, flips, metrics, dispatch."""
    case, trainer = _trainer(plan, "resnet20")
    epoch = Calls(functools.partial(train_epoch, trainer), steps=trainer.steps_per_epoch)
    bare = ours.bare_step(case, ours.steps_per_dispatch(plan.tiny))
    took = interleaved({"epoch": epoch, "bare": bare}, rounds=plan.rounds, seconds=plan.round_seconds)
    seconds = [t * trainer.steps_per_epoch for t in took["epoch"]]
    return [figure("an epoch", seconds, "s"), ratio("epoch / bare steps", took["epoch"], took["bare"])]


def recipe(plan: Plan, name: str = "resnet20") -> list[dict]:
    """G5: the published recipe, PROJECTED from epochs that are measured: compilation + 160 x (epoch + evaluation).

    Beside it PyTorch's steps in the authors' style alone, without reading, augmenting or evaluating anything.
    """
    case, trainer = _trainer(plan, name)
    trainer.compiled.all()
    train_epoch(trainer), evaluate(trainer)
    seconds = []
    for _ in range(plan.of(min(plan.rounds, 3), 1)):
        began = time.perf_counter()
        train_epoch(trainer), evaluate(trainer)
        seconds.append(time.perf_counter() - began)
    projected = [trainer.compiled.seconds + EPOCHS * t for t in seconds]
    found = [
        figure("an epoch and its evaluation", seconds, "s"),
        figure("compilation", [trainer.compiled.seconds], "s"),
        figure("160 epochs, projected", projected, "s"),
    ]
    label = "authors' steps alone / all of ours, projected"
    if lacks("torch"):
        return [*found, missing(label, lacks("torch"))]
    peer = interleaved(
        {"peer": lm_peer(case, "eager", authors=True)}, rounds=len(projected), seconds=plan.round_seconds
    )
    steps = EPOCHS * trainer.steps_per_epoch
    return [*found, ratio(label, [steps * t for t in peer["peer"]], projected)]


def recipe_deep(plan: Plan) -> list[dict]:
    """G5 for LM-ResNet-110."""
    return recipe(plan, "resnet110")
