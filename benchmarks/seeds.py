"""G6: several networks at once on one device, against one alone."""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from benchmarks import ours
from benchmarks.apart import apart
from benchmarks.row import Plan, figure
from benchmarks.timing import Side, interleaved


class InTurns:
    """Several sides, dispatched one after another by one thread: the device always has the next program waiting."""

    def __init__(self, sides: Sequence[Side]):
        self.sides, self.steps = sides, sides[0].steps

    def __call__(self) -> None:
        for side in self.sides:
            side()

    def wait(self) -> None:
        for side in self.sides:
            side.wait()


class InThreads:
    """Several sides, each dispatched by a thread of its own."""

    def __init__(self, sides: Sequence[Side]):
        self.sides, self.steps = sides, sides[0].steps
        self.pools = [ThreadPoolExecutor(1) for _ in sides]
        self.started = []

    def __call__(self) -> None:
        self.started += [pool.submit(side) for pool, side in zip(self.pools, self.sides, strict=True)]

    def wait(self) -> None:
        for future in self.started:
            future.result()
        self.started.clear()
        for side in self.sides:
            side.wait()


def on_gpu(plan: Plan) -> list[dict]:
    """G6, in bfloat16."""
    return several_seeds(plan, plan.of((4, 8), (2,)), "bfloat16")


def on_cpu(plan: Plan) -> list[dict]:
    """The same in float32 on the cores of a CPU."""
    return several_seeds(plan, (2,), "float32")


def several_seeds(plan: Plan, counts: Sequence[int], dtype: str) -> list[dict]:
    """Images a second of n networks over those of one: as one program over stacked states, dispatched by threads or in
    turns, and in processes (these once, after the rounds of the others)."""
    case, steps = small(plan.tiny, dtype), ours.steps_per_dispatch(plan.tiny)
    sides: dict[str, Side] = {"one": ours.bare_step(case, steps)}
    for n in counts:
        sides[f"vmap, n = {n}"] = ours.vmapped_step(case, steps, n)
    n = counts[0]
    sides[f"threads, n = {n}"] = InThreads(ours.copies(case, steps, n))
    sides[f"in turns, n = {n}"] = InTurns(ours.copies(case, steps, n))
    times = interleaved(sides, rounds=plan.rounds, seconds=plan.round_seconds)
    one = times.pop("one")
    found = []
    for name, values in times.items():
        seeds = int(name.split()[-1])
        gains = [seeds * a / b for a, b in zip(one, values, strict=True)]
        found.append(figure(f"images/s of {name} / one", gains, "x", seeds=seeds))
    together = sum(in_processes(plan, n, dtype)) / statistics.median(1 / t for t in one)
    found.append(figure(f"images/s of processes, n = {n} / one", [together], "x", seeds=n))
    if jax.default_backend() == "cpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={n}"
        given = {"tiny": plan.tiny, "dtype": dtype, "seconds": plan.round_seconds, "rounds": plan.rounds, "count": n}
        gains = apart("benchmarks.seeds:on_devices", timeout=240, env={"XLA_FLAGS": flags}, **given)
        found.append(figure(f"images/s of virtual devices, n = {n} / one", gains, "x", seeds=n))
    best = max(found, key=lambda f: f["median"])
    return [*found, best | {"label": "images/s of the best / one", "way": best["label"]}]


def small(tiny: bool, dtype: str) -> ours.Case:
    return ours.case(tiny, "resnet20", stepper="lm", dtype=dtype)


def in_processes(plan: Plan, count: int, dtype: str) -> list[float]:
    """Steps a second of each of so many processes that share the device."""
    with tempfile.TemporaryDirectory() as meeting, ThreadPoolExecutor(count) as pool:
        given = {
            "tiny": plan.tiny,
            "dtype": dtype,
            "seconds": 4 * plan.round_seconds,
            "meeting": meeting,
            "count": count,
        }
        started = [pool.submit(apart, "benchmarks.seeds:race", timeout=240, name=str(i), **given) for i in range(count)]
        return [future.result() for future in started]


def on_devices(tiny: bool, dtype: str, seconds: float, rounds: int, count: int) -> list[float]:
    """In a process with as many devices: images a second of one program over the networks, over those of one."""
    case, steps = small(tiny, dtype), ours.steps_per_dispatch(tiny)
    sides = {"one": ours.bare_step(case, steps), "all": ours.spread_step(case, steps, count)}
    times = interleaved(sides, rounds=rounds, seconds=seconds)
    return [count * a / b for a, b in zip(times["one"], times["all"], strict=True)]


def race(tiny: bool, dtype: str, seconds: float, meeting: str, count: int, name: str) -> float:
    """In a process: steps a second, from when all processes have compiled theirs."""
    side, done = ours.bare_step(small(tiny, dtype), ours.steps_per_dispatch(tiny)), 0
    side()
    side.wait()
    (Path(meeting) / name).touch()
    while len(list(Path(meeting).iterdir())) < count:
        time.sleep(0.01)
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        side()
        side.wait()
        done += side.steps
    return done / elapsed
