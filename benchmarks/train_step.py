"""C4, G1, G2, G3, G7 and G9: steps of training, beside PyTorch's on the same batch and beside each other.

All get one batch of random images that stays on the device, and make forward, loss, backward and SGD (see
`ours.bare_step` and `benchmarks.pytorch`). On an accelerator ours makes several steps in a program, as train.py does.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import ours
from benchmarks.companion import Companion
from benchmarks.row import Plan, figure, lacks, missing, ratio
from benchmarks.timing import Side, interleaved
from lmjax import devices


def times(plan: Plan, sides: Mapping[str, Side]) -> dict[str, list[float]]:
    return interleaved(sides, rounds=plan.rounds, seconds=plan.round_seconds)


def our(plan: Plan, case: ours.Case) -> ours.Steps:
    return ours.bare_step(case, ours.steps_per_dispatch(plan.tiny))


def lm_peer(case: ours.Case, style: str, **model: Any) -> Side:
    """PyTorch's LM-ResNet of the same depth, in this process; it must have the same parameters."""
    from benchmarks import pytorch

    network = pytorch.LMResNet(_depth(case), width=case.width, classes=case.classes, **model)
    require_same_size(case.name, ours.parameters(case), pytorch.parameters(network))
    return pytorch.Step(network, *case.images(), style, threads=devices.cores())


def lm_companion(case: ours.Case, style: str, threads: int) -> Companion:
    """The same in a process of its own."""
    options = {"batch": case.batch, "size": case.size, "classes": case.classes, "width": case.width}
    made = Companion("benchmarks.pytorch:lm_step", depth=_depth(case), style=style, threads=threads, **options)
    require_same_size(case.name, ours.parameters(case), made.about["parameters"])
    return made


def _depth(case):
    return int(case.name.removeprefix("resnet"))


def require_same_size(name: str, ours: int, theirs: int) -> None:
    """Raises AssertionError where a peer has another number of parameters, and is another network."""
    if ours != theirs:
        raise AssertionError(f"{name}: {ours:,} parameters in lmjax, and {theirs:,} in the peer")


def seconds(label: str, values: list[float], case: ours.Case) -> list[dict]:
    """A step in milliseconds, and an image in microseconds."""
    step = figure(f"{label}: a step", [1e3 * t for t in values], "ms")
    return [step, figure(f"{label}: an image", [1e6 * t / case.batch for t in values], "us")]


def on_cpu(plan: Plan) -> Iterator[dict]:
    """C4: float32 steps of LM-ResNet-20 over those of PyTorch eager with NHWC strides, and over the ResNet's.

    Ours has all cores. PyTorch has a process of its own (see `companion`) for all cores and one for a single thread,
    and in each round the faster one counts: its threads wait for each other, and suffer more from what else is running.
    What train.py adds (order, crops, flips) is timed as well.
    """
    for batch in (32, 128):
        case = ours.case(plan.tiny, "resnet20", stepper="lm", batch=batch)
        plain = ours.case(plan.tiny, "resnet20", stepper="euler", batch=batch)
        sides = {"lm": ours.bare_step(case), "euler": ours.bare_step(plain), "train.py": ours.real_step(case)}
        with contextlib.ExitStack() as stack:
            if not lacks("torch"):
                for threads in sorted({1, devices.cores()}):
                    peer = lm_companion(case, "channels_last", threads)
                    sides[f"PyTorch, threads: {threads}"] = stack.enter_context(peer)
            took = times(plan, sides)
        for name, values in took.items():
            yield from seconds(f"batch {batch}, {name}", values, case)[:1]
        peers = [values for name, values in took.items() if name.startswith("PyTorch")]
        if peers:
            yield ratio(f"batch {batch}: ours / PyTorch", took["lm"], [min(each) for each in zip(*peers, strict=True)])
        else:
            yield missing(f"batch {batch}: ours / PyTorch", lacks("torch"))
        yield ratio(f"batch {batch}: lm / euler", took["lm"], took["euler"])
        yield ratio(f"batch {batch}: train.py / bare", took["train.py"], took["lm"])


def launches(plan: Plan) -> list[dict]:
    """G1: LM-ResNet-110 at the published batch of 128, where launches bind: ours in bfloat16."""
    case = ours.case(plan.tiny, "resnet110", stepper="lm", dtype="bfloat16")
    authors, best = lm_peer(case, "eager", authors=True), lm_peer(case, "best")
    took = times(plan, {"ours": our(plan, case), "authors": authors, "best": best})
    return [
        *(f for name, values in took.items() for f in seconds(name, values, case)),
        ratio("authors' style / ours", took["authors"], took["ours"]),
        ratio("best PyTorch / ours", took["best"], took["ours"]),
    ]


def bandwidth(plan: Plan) -> list[dict]:
    """G2: LM-ResNet-20 and -110 in bfloat16 at batch 1024, where memory binds; LM-ResNet-20 beside PyTorch's best."""
    cases = {name: ours.case(plan.tiny, name, stepper="lm", batch=1024, dtype="bfloat16") for name in _G2}
    sides = {name: our(plan, case) for name, case in cases.items()}
    if not lacks("torch"):
        sides["PyTorch"] = lm_peer(cases["resnet20"], "best")
    took = times(plan, sides)
    found = [f for name in cases for f in seconds(name, took[name], cases[name])]
    label = "resnet20: best PyTorch / ours"
    if "PyTorch" not in took:
        return [*found, missing(label, lacks("torch"))]
    return [*found, ratio(label, took["PyTorch"], took["resnet20"])]


_G2 = ("resnet20", "resnet110")


def bandwidth_deep(plan: Plan) -> list[dict]:
    """G2 for LM-ResNet-110 beside PyTorch's best, which takes long to compile."""
    case = ours.case(plan.tiny, "resnet110", stepper="lm", batch=1024, dtype="bfloat16")
    took = times(plan, {"ours": our(plan, case), "PyTorch": lm_peer(case, "best")})
    return [*seconds("PyTorch", took["PyTorch"], case), ratio("best PyTorch / ours", took["PyTorch"], took["ours"])]


def lm_overhead(plan: Plan) -> list[dict]:
    """G3: what the LM step adds to the ResNet's time, in the same code, at depth 110 and batch 1024 in bfloat16."""
    sides = {}
    for stepper in ("lm", "euler"):
        case = ours.case(plan.tiny, "resnet110", stepper=stepper, batch=1024, dtype="bfloat16")
        sides[stepper] = our(plan, case)
    took = times(plan, sides)
    return [ratio("lm / euler", took["lm"], took["euler"])]


def imagenet_case(plan: Plan, stepper: str) -> ours.Case:
    """Post-activated, as torchvision's: the same network for `euler`."""
    options = {"batch": 256, "dtype": "bfloat16", "size": 224, "classes": 1000, "placement": "post"}
    return ours.case(plan.tiny, "resnet50", stepper=stepper, **options)


def imagenet(plan: Plan) -> list[dict]:
    """G7: ResNet-50 in bfloat16 at batch 256 beside torchvision's in the best style."""
    case = imagenet_case(plan, "euler")
    sides = {"ours": our(plan, case)}
    if not lacks("torch", "torchvision"):
        import torchvision

        from benchmarks import pytorch

        network = torchvision.models.resnet50(num_classes=case.classes)
        if not plan.tiny:  # it cannot be made as narrow as ours
            require_same_size(case.name, ours.parameters(case), pytorch.parameters(network))
        sides["torchvision"] = pytorch.Step(network, *case.images(), "best", threads=devices.cores())
    took = times(plan, sides)
    found = [f for name, values in took.items() for f in seconds(name, values, case)]
    found.append(figure("ours: images a second", [case.batch / t for t in took["ours"]], "images/s"))
    label = "torchvision / ours"
    if "torchvision" not in took:
        return [*found, missing(label, lacks("torch", "torchvision"))]
    return [*found, ratio(label, took["torchvision"], took["ours"])]


def imagenet_lm(plan: Plan) -> list[dict]:
    """G7: what the LM step adds to ResNet-50."""
    took = times(plan, {s: our(plan, imagenet_case(plan, s)) for s in ("lm", "euler")})
    return [ratio("lm / euler", took["lm"], took["euler"])]


def groups(plan: Plan) -> list[dict]:
    """G9: ResNeXt-29 with 8 groups of 64 channels over the dense network of as many multiplications, in bfloat16."""
    # 5.387 and 5.378 G multiplications an image: `networks.forward_macs`.
    names = {"grouped": "resnext29_8x64d", "dense": "resnext29_1x224d"}
    took = times(plan, {k: our(plan, ours.case(plan.tiny, name, dtype="bfloat16")) for k, name in names.items()})
    return [ratio("grouped / dense", took["grouped"], took["dense"])]
