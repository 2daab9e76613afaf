"""C3 and the table of depths: what the step of train.py takes to compile, and the memory that it then asks for."""

import subprocess
import tempfile
import time
from collections.abc import Iterator

from benchmarks import ours
from benchmarks.apart import Died, apart
from benchmarks.row import Plan, figure, missing, ratio

# LM with trained k cannot be undone; leapfrog, which is LM with k = 1, can.
MODES = {
    "unrolled": {"stepper": "lm", "unroll": True},
    "rolled": {"stepper": "lm", "unroll": False},
    "remat": {"stepper": "lm", "unroll": False, "memory": "remat"},
    "reversible": {"stepper": "leapfrog", "unroll": False, "memory": "reversible"},
}
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def train_step(**case) -> dict[str, float]:
    """In this process: seconds to trace and to compile the step that train.py makes, and its temporary bytes."""
    ours.trainer(ours.Case(**case))  # its own small programs are no part of it
    began = time.perf_counter()
    lowered = ours.real_program(ours.Case(**case))
    traced = time.perf_counter()
    compiled = ours.compiled(lowered)
    found = {"trace_seconds": traced - began, "compile_seconds": time.perf_counter() - traced}
    return found | {"temporary_bytes": compiled.memory_analysis().temp_size_in_bytes}


def _cached(directory: str) -> dict[str, str]:
    """The environment in which every program goes through a persistent cache in this folder."""
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": directory, **every}


def _start(directory, **case) -> float:
    found = apart("benchmarks.compiled:train_step", env=_cached(directory), **case)
    return found["trace_seconds"] + found["compile_seconds"]


def compile_time(plan: Plan) -> list[dict]:
    """Seconds to trace and compile the step, in fresh processes: deep / shallow, and with a warm cache / without."""
    deep, shallow = plan.of(("resnet110", "resnet20"), ("resnet20", "resnet14"))
    size = plan.of({"batch": 32}, {"batch": 8, "size": 8, "width": 0.25})
    times = {(name, way): [] for name in (deep, shallow) for way in ("rolled", "unrolled")}
    warm = []
    for _ in range(plan.of(min(plan.rounds, 3), 1)):
        for name, way in times:
            with tempfile.TemporaryDirectory() as directory:
                times[name, way].append(_start(directory, name=name, **MODES[way], **size))
                if (name, way) == (deep, "unrolled"):
                    warm.append(_start(directory, name=name, **MODES[way], **size))
    found = [figure(f"{way} {name}", values, "s") for (name, way), values in times.items()]
    found += [ratio(f"{way}: deep / shallow", times[deep, way], times[shallow, way]) for way in ("rolled", "unrolled")]
    return [*found, ratio("deep unrolled: warm cache / cold", warm, times[deep, "unrolled"])]


def depths(plan: Plan) -> Iterator[dict]:
    """Compile time and memory of the step against depth: compiled only, each in a process with a limit."""
    names = [f"resnet{depth}" for depth in plan.of((20, 56, 110, 164, 1202), (14,))]
    size = plan.of({"batch": 32}, {"batch": 8, "size": 8, "width": 0.25})
    limit = 120
    for name in names:
        for way, options in MODES.items():
            try:
                timeout = max(1.0, min(limit, plan.left))
                given = {"name": name, **options, **size}
                step = apart("benchmarks.compiled:train_step", env=UNCACHED, timeout=timeout, **given)
            except subprocess.TimeoutExpired:
                yield missing(f"{name} {way}", f"not compiled within {timeout:.0f} s")
            except Died as error:  # of memory, usually
                yield missing(f"{name} {way}", f"the compiler ended: {error}"[-200:])
            else:
                seconds = step["trace_seconds"] + step["compile_seconds"]
                yield figure(f"{name} {way}: compilation", [seconds], "s")
                yield figure(f"{name} {way}: temporary memory", [step["temporary_bytes"] / 1e6], "MB")
