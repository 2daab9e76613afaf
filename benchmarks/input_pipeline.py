"""How fast photographs become batches, next to PyTorch's usual pipeline: decoding, pixels, the feed, and its memory.

python -m benchmarks.input_pipeline --images DIR --json results.json
python -m benchmarks.input_pipeline --images DIR --skip feed memory     # only what one thread does, and its pixels

DIR is any folder with photographs somewhere below it; all are read once before, so that none comes from the disk. Every
round measures each row of a table, and a ratio is one within a round: whatever else the machine does then slows both.
Medians are given, and the least and the greatest. Without PyTorch, or the packages of "turbo", their rows are left out.
"""

import dataclasses
import gc
import json
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks import readers
from benchmarks.apart import apart
from benchmarks.report import circumstances, compare, extremes, line, median
from lmjax import devices
from lmjax.command_line import exit_code, read
from lmjax.data.crops import random_box
from lmjax.data.decode import DECODERS, BrokenImage
from lmjax.errors import InputError, optional_import

PEER = "torch float32"
_TORCH = {"torch": "torch torchvision", "torchvision": "torch torchvision"}
NEEDS = {
    "lmjax pillow": {},
    "lmjax turbo": {"simplejpeg": "simplejpeg", "cv2": "opencv-python-headless"},
    PEER: _TORCH,
    "torch uint8": _TORCH,
}
PACKAGES = ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "grain", "jax", "torch", "torchvision")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured: of at most `limit` photographs."""

    limit: int = 1000
    size: int = 224
    decode_rounds: int = 9
    decode_images: int = 480  # in a round
    decode_batch: int = 32
    boxes: int = 4  # of each photograph, to compare their pixels
    apart: tuple[str, ...] = tuple(NEEDS)  # the readers in the sections that start a process for each row
    feed_rounds: int = 3
    feed_seconds: float = 5
    feed_workers: tuple[int, ...] = (0, 1, *(2**k for k in range(1, max(devices.cores(), 2).bit_length())))
    feed_threads: tuple[int, ...] = (1, 2)  # in each worker; PyTorch has one
    batch: int = 64  # of the feed
    batches: int = 10_000  # while memory is watched
    memory_workers: tuple[int, ...] = (0, 2)


QUICK = Plan(
    limit=8, size=32, decode_rounds=2, decode_images=8, decode_batch=4, boxes=1, apart=("lmjax pillow",),
    feed_rounds=1, feed_seconds=0.1, feed_workers=(0,), feed_threads=(1,), batch=4, batches=20, memory_workers=(1,),
)  # fmt: skip


def decode(names: list[str], folder: str, plan: Plan) -> list[dict]:
    """Images a second that one thread makes: of random crops, and of an evaluation."""
    found = []
    everyone = names
    for kind in ("random", "evaluation"):
        # An evaluation is decoded by Pillow, whatever decodes the random crops.
        names = [name for name in everyone if kind == "random" or name != "lmjax turbo"]
        rounds = {name: [] for name in names}
        for i in range(plan.decode_rounds + 1):
            for name in names[i % len(names) :] + names[: i % len(names)]:  # none always comes behind the same one
                rounds[name].append(_timed(name, folder, plan, seed=i if kind == "random" else None))
        rounds = {name: measured[1:] for name, measured in rounds.items()}  # the first one warms up
        rows = compare(rounds, dict.fromkeys(names, PEER), "cpu_images_per_second")
        line(f"\n{f'one thread, {kind}':39}", "images/s CPU", "min..max", "wall", "relative", "min..max")
        for name, row in rows.items():
            cpu = median(row, "cpu_images_per_second"), extremes(row, "cpu_images_per_second")
            relative = median(row, "relative", 2), extremes(row, "relative", 2)
            line(name, *cpu, median(row, "images_per_second"), *relative)
            found.append({"reader": name, "kind": kind} | row)
    return found


def _timed(name, folder, plan, seed):
    options = {"folder": folder, "limit": plan.limit, "size": plan.size, "batch": plan.decode_batch}
    batches = readers.here(name, seed=seed, **options)
    next(batches)  # sets up what a run sets up once
    gc.collect()
    images, wall, cpu = 0, time.perf_counter(), time.process_time()
    while images < plan.decode_images:
        images += next(batches)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_images_per_second": images / cpu, "images_per_second": images / wall}


def pixels(names: list[str], folder: str, plan: Plan) -> list[dict]:
    """How far apart the same crops are: the mean absolute difference of each, of 255."""
    photos = readers.Photos(folder, plan.limit)
    pairs = [("lmjax turbo", "lmjax pillow")] * ("lmjax turbo" in names) + [("lmjax pillow", PEER)] * (PEER in names)
    line(f"\n{'mean absolute difference, of 255':39}", "mean", "99%", "max", "identical", "one pixel")
    found = []
    for one, other in pairs:
        for kind in ("random", "evaluation")[: 1 if one == "lmjax turbo" else 2]:
            differences = []
            for i in range(len(photos.paths)):
                a, b = (_crops(name, photos[i][0], i, kind, plan) for name in (one, other))
                differences += [np.abs(x.astype(int) - y) for x, y in zip(a, b, strict=True)]
            means, largest = np.array([[d.mean(), d.max()] for d in differences]).T
            row = {"mean": float(means.mean()), "99%": float(np.percentile(means, 99)), "max": float(means.max())}
            same = f"{(largest == 0).sum()}/{len(means)}"
            line(f"{one} - {other}, {kind}", *(f"{value:.2f}" for value in row.values()), same, f"{largest.max():.0f}")
            row |= {"crops": len(means), "identical": int((largest == 0).sum()), "one_pixel": int(largest.max())}
            found.append({"reader": one, "to": other, "kind": kind} | row)
    return found


def _crops(name, data, i, kind, plan):
    """Uint8 images of a photograph: some boxes that depend on `i` alone, or its middle."""
    size, shorter = plan.size, round(plan.size * 256 / 224)
    image = readers.TorchvisionImage(data) if name == PEER else DECODERS[name.split()[1]](data)
    if kind == "evaluation":
        return [image.center(size, shorter)]
    rng = np.random.default_rng(i)
    return [image.crop(random_box(rng, *image.size), size) for _ in range(plan.boxes)]


def feed(names: list[str], folder: str, plan: Plan) -> list[dict]:
    """Images a second that come out of background reading, the time to the first batch, and memory."""
    keys = [
        (name, workers, threads)
        for workers in plan.feed_workers for name in names for threads in plan.feed_threads
        if name in plan.apart and (threads == 1 or name.startswith("lmjax"))
    ]  # fmt: skip
    rounds = {key: [] for key in keys}
    options = {"folder": folder, "limit": plan.limit, "size": plan.size, "batch": plan.batch}
    options["seconds"] = plan.feed_seconds
    for _ in range(plan.feed_rounds):
        for name, workers, threads in keys:
            measured = apart("benchmarks.readers:feed", name=name, workers=workers, threads=threads, **options)
            rounds[name, workers, threads].append(measured)
    rows = compare(rounds, {(name, workers, t): (PEER, workers, 1) for name, workers, t in keys}, "images_per_second")
    head = "images/s", "relative", "min..max", "first, s", "PSS, MB", "imports, MB"
    line(f"\n{'feed: workers x threads':39}", *head)
    for (name, workers, threads), row in rows.items():
        relative = median(row, "relative", 2), extremes(row, "relative", 2)
        taken = median(row, "pss_bytes", unit=1e6), median(row, "imported_pss_bytes", unit=1e6)
        rate, first = median(row, "images_per_second"), median(row, "first_batch_seconds", 1)
        line(f"{name}, {workers} x {threads}", rate, *relative, first, *taken)
    return [{"reader": name, "workers": w, "threads": t} | row for (name, w, t), row in rows.items()]


def memory(names: list[str], folder: str, plan: Plan) -> list[dict]:
    """Whether memory grows over many batches, or is left behind: of 8 crops of 64 x 64 pixels."""
    line(f"\n{f'{plan.batches:,} batches':39}", "first, MB", "last, MB", "bytes a batch", "left behind", "images/s")
    found = []
    for name in names:
        for workers in plan.memory_workers if name in plan.apart and name.startswith("lmjax") else ():
            options = {"folder": folder, "limit": plan.limit, "size": 64, "batch": 8, "batches": plan.batches}
            row = apart("benchmarks.readers:growth", name=name, workers=workers, threads=1, **options)
            shown = [f"{row[key] / 1e6:.1f}" if key in row else "-" for key in ("first", "last")]
            shown.append(f"{row['bytes_per_batch']:.0f}" if "bytes_per_batch" in row else "-")
            left = len(row["left_in_shared_memory"])
            line(f"{name}, {workers} workers", *shown, left, f"{row['images_per_second']:.0f}")
            found.append({"reader": name, "workers": workers} | row)
    return found


SECTIONS = {"decode": decode, "pixels": pixels, "feed": feed, "memory": memory}


def usable() -> tuple[list[str], list[str]]:
    """The readers that can be measured here, and what is missing for the others."""
    optional_import("grain", package="grain", purpose="this benchmark")
    found, missing = [], []
    for name, packages in NEEDS.items():
        try:
            for module, package in packages.items():
                optional_import(module, package=package, purpose=f"the row {name}")
            found.append(name)
        except InputError as error:
            missing.append(str(error))
    return found, missing


def check(folder: str, plan: Plan) -> int:
    """Decodes every photograph, so that none is broken and all are in the page cache. Returns their number."""
    photos = readers.Photos(folder, plan.limit)
    if not photos.paths:
        raise InputError(f"{folder}: holds no photographs (.jpg, .jpeg, .png)")
    for i, path in enumerate(photos.paths):
        try:
            DECODERS["pillow"](photos[i][0]).whole()
        except BrokenImage as error:
            raise InputError(f"{path}: cannot be decoded ({error})") from error
    return len(photos.paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and where to write it."""

    images: Path
    """A folder with photographs somewhere below it."""
    json: Path | None = None
    """Where to write what was measured."""
    quick: bool = False
    """See that it works, in seconds; the numbers mean nothing."""
    skip: tuple[Literal["decode", "pixels", "feed", "memory"], ...] = ()
    """Leave these sections out."""
    batch: int | None = None
    """Images in a batch of the feed (64)."""
    batches: int | None = None
    """Batches while memory is watched (10,000)."""


def main(arguments: list[str]) -> None:
    """Measure, and print what is found."""
    given = read(Options, arguments, prog="python -m benchmarks.input_pipeline", description=__doc__.splitlines()[0])
    changed = {key: getattr(given, key) for key in ("batch", "batches") if getattr(given, key) is not None}
    plan = dataclasses.replace(QUICK if given.quick else Plan(), **changed)
    folder = str(given.images.expanduser().resolve())  # the processes start elsewhere
    found = circumstances("benchmarks.input_pipeline", arguments, PACKAGES)
    found |= {"images": check(folder, plan), "plan": dataclasses.asdict(plan), "seconds": {}}
    names, missing = usable()
    found["missing"] = missing
    print(f"{found['images']} photographs, {devices.cores()} cores, {found['machine']['cpu']}", *missing, sep="\n")
    for section in (section for section in SECTIONS if section not in given.skip):
        began = time.perf_counter()
        found[section] = SECTIONS[section](names, folder, plan)
        found["seconds"][section] = time.perf_counter() - began
        if given.json:  # after each, so that an hour's work is not lost
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n" + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["seconds"].items()))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
