"""XLA's flags, tried out, for `lmjax.runtime` to choose from: the bare step at batch 128 under each of them.

On a GPU it is that of LM-ResNet-110 in bfloat16, on a CPU that of LM-ResNet-20 in float32.

Flags belong to a process, so each set has one of its own; a flag that this jaxlib does not know ends it at once.
"""

import os
import subprocess

from benchmarks import ours
from benchmarks.apart import Died, apart
from benchmarks.row import Plan, figure, missing
from benchmarks.timing import interleaved
from lmjax.runtime import DETERMINISTIC

CONVOLUTIONS = "--xla_gpu_enable_command_buffer=+CONVOLUTION"
FUSION = "--xla_gpu_experimental_enable_conv_fusion=true"
GPU = {
    "none": "",
    "excess precision": "--xla_allow_excess_precision=true",  # which lmjax.runtime switches off
    "convolutions in CUDA graphs": CONVOLUTIONS,
    "convolution fusions": FUSION,
    "both": f"{CONVOLUTIONS} {FUSION}",
    "latency-hiding scheduler": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "no CUDA graphs": "--xla_gpu_enable_command_buffer=",
    "deterministic": " ".join(DETERMINISTIC),  # not to be faster: what `train.py --deterministic` costs
}
CPU = {
    "none": "",
    "convolutions by YNNPACK": "--xla_cpu_experimental_ynn_fusion_type=+INDIVIDUAL_CONVOLUTION",
    "no concurrency in the schedule": "--xla_cpu_enable_concurrency_optimized_scheduler=false",
}
REFUSED = {"refused": "--xla_gpu_no_such_flag=true"}  # to see in a tiny run what a flag does that is not known


def step_times(gpu: bool, tiny: bool, rounds: int, seconds: float) -> list[float]:
    """In this process: milliseconds a step, round by round."""
    ours.keep_memory()
    name, dtype = ("resnet110", "bfloat16") if gpu else ("resnet20", "float32")
    side = ours.bare_step(ours.case(tiny, name, stepper="lm", dtype=dtype), ours.steps_per_dispatch(tiny))
    return [1e3 * t for t in interleaved({"step": side}, rounds=rounds, seconds=seconds)["step"]]


def on_gpu(plan: Plan) -> list[dict]:
    return _flags(plan, plan.of(GPU, {name: GPU[name] for name in list(GPU)[:2]} | REFUSED), gpu=True)


def on_cpu(plan: Plan) -> list[dict]:
    return _flags(plan, plan.of(CPU, {"none": ""} | REFUSED), gpu=False)


def _flags(plan, candidates, gpu):
    """A step under each set of flags, and which is best. Processes follow each other: there are no common rounds."""
    found = []
    for name, value in candidates.items():
        label, limit = f"a step, {name}", min(plan.of(180, 120), max(plan.left, 1))
        given = {"gpu": gpu, "tiny": plan.tiny, "rounds": plan.rounds, "seconds": plan.round_seconds}
        environment = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {value}".strip()}
        try:
            took = apart("benchmarks.flags:step_times", env=environment, timeout=limit, **given)
            found.append(figure(label, took, "ms", flags=value))
        except subprocess.TimeoutExpired:
            found.append(missing(label, f"not done within {limit:.0f} s"))
        except Died as error:
            unknown = "Unknown flag" in str(error)
            found.append(missing(label, f"refused by this jaxlib: {value}" if unknown else str(error)[-300:]))
    measured = [f for f in found if "median" in f]
    if not measured:
        return found
    best = min(measured, key=lambda f: f["median"])
    none = next((f for f in measured if f["label"] == "a step, none"), best)
    gain = figure("none / best", [none["median"] / best["median"]], "x", flags=best["flags"], best=best["label"])
    return [*found, gain]
