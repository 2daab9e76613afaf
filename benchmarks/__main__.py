"""The rows of a suite, measured beside their peers: a line of a table for each figure, and all of it as JSON.

    python -m benchmarks --suite cpu --out results.json
    python -m benchmarks --suite gpu --budget 560   # what does not fit into so many seconds is left for another command
    python -m benchmarks --suite gpu --only G1 flags
    python -m benchmarks --suite compiled           # for accelerators that need not be there
    python -m benchmarks --suite gpu --tiny         # everything shrunk: that the rows run, on a CPU, too

Both sides of a ratio are timed in turns, in the same rounds; medians are given, and the least and the greatest. What
cannot be measured here (a package or a GPU is missing) is said, and how to mend it. PyTorch and diffrax are peers, and
nothing that lmjax needs. Targets are judged only where nothing is shrunk. The JSON is written after every figure.
"""

import dataclasses
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax

from benchmarks.report import circumstances, line
from benchmarks.row import Plan, Row, lacks
from benchmarks.rows import SUITES
from lmjax import files
from lmjax.command_line import exit_code, read
from lmjax.errors import InputError, unknown

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "libtpu", "torch", "torchvision", "diffrax")
WIDTH = 66


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and where to write it."""

    suite: Literal["cpu", "gpu", "compiled"]
    """Which rows, and on what jax computes."""
    only: tuple[str, ...] = ()
    """Measure these rows, in this order."""
    rounds: int | None = None
    """Rounds of each comparison; 5 if not given."""
    tiny: bool = False
    """Shrink everything: to see that the rows run."""
    budget: float | None = None
    """Begin no row that is not estimated to fit into so many seconds."""
    out: Path | None = None
    """Write the JSON here."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows that the arguments name; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: run(read(Options, words, prog="python -m benchmarks", description=__doc__), words))


def run(options: Options, words: list[str]) -> int:
    """Measure, print, and write; 1 if a row has failed."""
    rows = {row.name: row for row in SUITES[options.suite]}
    for name in options.only:
        if name not in rows:
            raise InputError(f"--only: {unknown('row', name, rows)}")
    if options.rounds is not None and options.rounds < 1:
        raise InputError(f"--rounds: must be at least 1, got {options.rounds}")
    # Before jax starts: other processes, and PyTorch in this one, need memory of the GPU as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.suite != "gpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # for other processes
        jax.config.update("jax_platforms", "cpu")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for PyTorch

    from benchmarks import ours  # only now that the environment says what jax computes on

    ours.keep_memory()
    plan = Plan(options.tiny, options.rounds or (1 if options.tiny else 5))
    began = time.monotonic()
    if options.budget is not None:
        plan = Plan(plan.tiny, plan.rounds, began + options.budget)
    found = circumstances("benchmarks", words, PACKAGES) | {"suite": options.suite, "tiny": plan.tiny}
    found |= {"devices": devices(), "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "rows": []}
    machine = f"{found['devices']['count']} x {found['devices']['kind']}, {found['machine']['cores']} cores"
    print(f"{options.suite} suite on {machine}" + (", tiny: the figures mean nothing" if plan.tiny else ""))
    line("row, figure", "median", "min..max", "target", "met", width=WIDTH)
    failed = 0
    for row in (rows[name] for name in options.only or rows):
        result = {"name": row.name, "compares": row.compares}
        result["targets"] = {label: str(target) for label, target in row.targets.items()}
        found["rows"].append(result)
        for _ in measure(row, plan, result, gpu=options.suite == "gpu"):
            found["seconds"] = time.monotonic() - began
            if options.out:
                write(options.out, found)
        failed += result["status"] == "failed"
        gc.collect()
    print(f"{found['seconds']:.0f} s in all" + (f", {failed} of {len(found['rows'])} rows failed" if failed else ""))
    return 1 if failed else 0


def devices() -> dict[str, object]:
    """What jax computes on."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def measure(row: Row, plan: Plan, result: dict, *, gpu: bool) -> Iterator[None]:
    """Puts what a row finds into the result, or why it could not, or how it failed; a turn for every figure."""
    if reason := obstacle(row, plan, gpu):
        result |= {"status": "skipped", "reason": reason}
        line(f"{row.name} {row.compares}", width=WIDTH)
        print(f"{'':6}skipped: {reason}", flush=True)
        yield
        return
    began = time.monotonic()
    result |= {"status": "begun", "figures": []}
    try:
        for figure in row.run(plan):
            result["figures"].append(figure)
            show(row, figure)
            yield
        result["status"] = "measured"
    except Exception as error:  # whatever it is, the other rows are measured
        result |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        line(f"{row.name} {row.compares}", width=WIDTH)
        print(f"{'':6}failed: {result['error'].splitlines()[0]}", flush=True)
    result["seconds"] = time.monotonic() - began
    yield


def obstacle(row: Row, plan: Plan, gpu: bool) -> str | None:
    """Why a row cannot be measured here."""
    if gpu and not plan.tiny and devices()["platform"] != "gpu":
        return f"no GPU: jax sees {devices()['kind']} alone (pip install 'jax[cuda13]' where there is one)"
    if not plan.tiny and plan.left < row.seconds:
        return f"is estimated to take {row.seconds:.0f} s, and {max(plan.left, 0):.0f} s of the budget are left"
    return lacks(*row.needs)


def show(row: Row, figure: dict) -> None:
    """A line of the table."""
    label = f"{row.name} {figure['label']}"
    if "skipped" in figure:
        line(label, width=WIDTH)
        print(f"{'':6}skipped: {figure['skipped']}", flush=True)
        return
    extremes = f"{figure['min']:.3g}..{figure['max']:.3g}" if len(figure["rounds"]) > 1 else ""
    met = {True: "yes", False: "no", None: ""}[figure.get("met")]
    median = f"{figure['median']:.4g} {figure['unit']}".rstrip()
    line(label, median, extremes, figure.get("target", ""), met, width=WIDTH)


def write(path: Path, found: dict) -> None:
    """Whole or not at all: whoever ends the run while it writes loses nothing."""
    files.make_folder(path.parent)
    files.write(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
