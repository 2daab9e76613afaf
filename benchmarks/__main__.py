"""The rows of a suite, measured beside their peers: a line of a table for each figure, and all of it as JSON.

python -m benchmarks --suite cpu --out results.json
python -m benchmarks --suite gpu --budget 560       # what does not fit into so many seconds is left for another command
python -m benchmarks --suite gpu --only G1 flags
python -m benchmarks --suite gpu --tiny             # everything shrunk: that the rows run, on a CPU, too

Both sides of a ratio are timed in turns, in the same rounds; medians are given, and the least and the greatest. What
cannot be measured here (a package or a GPU is missing) is said, and how to mend it. PyTorch and diffrax are peers, and
nothing that lmjax needs. Targets are judged only where nothing is shrunk. The JSON is written after every figure.
"""

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import circumstances, line
from benchmarks.row import Plan, Row, lacks
from benchmarks.rows import SUITES
from lmjax import console, files
from lmjax.errors import unknown

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision", "diffrax")
WIDTH = 66


@console.lossy()
def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    rows = {row.name: row for row in SUITES[options.suite]}
    for name in options.only or ():
        if name not in rows:
            print(f"error: --only: {unknown('row', name, rows)}", file=sys.stderr)
            return 2
    # Before jax starts: other processes, and PyTorch in this one, need memory of the GPU as well.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.suite == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for PyTorch

    from benchmarks import ours  # only now that the environment says what jax computes on

    ours.prepare()
    plan = Plan(options.tiny, options.rounds or (1 if options.tiny else 5))
    began = time.monotonic()
    if options.budget is not None:
        plan = Plan(plan.tiny, plan.rounds, began + options.budget)
    found = circumstances("benchmarks", arguments, PACKAGES) | {"suite": options.suite, "tiny": plan.tiny}
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


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=tuple(SUITES), required=True)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="measure these rows, in this order")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="of each comparison; 5 if not given")
    parser.add_argument("--tiny", action="store_true", help="shrink everything: to see that the rows run")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no row that is not estimated to fit")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here")
    return parser.parse_args(arguments)


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


def devices() -> dict[str, object]:
    """What jax computes on."""
    import jax

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
