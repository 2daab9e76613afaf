"""Train a network whose blocks are steps of a numerical scheme.

python train.py --config configs/digits.py
python train.py --config configs/cifar10.py:lm_resnet56 --train.epochs 40 --seed 1
python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/imagenet
python train.py --config configs/digits.py --seeds 0 1 2
python train.py --config configs/digits.py --workdir runs/a --resume
python train.py --config configs/digits.py --evaluate runs/a
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import lmjax
from lmjax import command_line, data, runtime
from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.training import Checkpoints, NonFiniteLoss, Record, Trainer, figures

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C has ended


def train(config: Config, *, resume: bool = False) -> dict:
    """A whole run; returns its summary."""
    run = story(config, resume=resume)
    next(run)
    return side_by_side([run])[0]


def story(
    config: Config, *, resume: bool = False, like: Trainer | None = None
) -> Generator[Trainer, dict | NonFiniteLoss | None, dict]:
    """A run from beginning to end: data, network, epochs, checkpoints, summary.

    It leaves the training of an epoch to `side_by_side`: it yields its trainer once when all is ready, then for each
    epoch that it wants trained, and is sent what came of it. Returned is the summary.

    Args:
        config: the run.
        resume: go on with the one in its folder.
        like: the trainer of a run that differs in the seed alone: what it has loaded and compiled is used again.
    """
    began = time.perf_counter()
    record = Record(config.workdir, writes=jax.process_index() == 0)
    record.require_same(config) if resume else record.require_none()
    multihost_utils.sync_global_devices("all have looked at the folder")  # and only now may the first one write to it
    trainer = Trainer(config, load_data(config)) if like is None else like.reseeded(config.seed)
    dataset = trainer.dataset
    say(f"{config.model.name}, {trainer.scheme}: {trainer.parameters:,} parameters on {device()}")
    say(f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images")
    trainer.compile()
    say(f"compiled in {trainer.compile_seconds:.1f} s")
    if not resume:
        record.start(config)  # only now: a network that cannot run leaves nothing behind
    say(f"writing to {record.directory}")

    with trainer, Checkpoints(record.directory / "checkpoints") as checkpoints:
        rows, before = [], 0.0
        if resume:
            if checkpoints.latest() is not None:
                trainer.state, about = checkpoints.restore(trainer.state)
                before = about["wall_seconds"]
                require_same_data(dataset, about["data"], record)
            rows = record.rewind(trainer.step)
            done = trainer.step // trainer.steps_per_epoch
            if [row["epoch"] for row in rows] != list(range(1, done + 1)):
                raise InputError(f"{record.metrics_path}: does not have a row for each of the {done} epochs done")
            say(f"going on after epoch {done}" if done else "there is no checkpoint yet: starting again")

        yield trainer
        for epoch in range(trainer.step // trainer.steps_per_epoch + 1, config.train.epochs + 1):
            try:
                metrics = yield trainer
                if isinstance(metrics, NonFiniteLoss):
                    raise metrics
                metrics |= trainer.evaluate()
            except NonFiniteLoss as error:
                raise InputError(explain(error, config, checkpoints)) from error
            row = {"epoch": epoch, "step": trainer.step} | metrics
            if config.data.on_error == "skip":
                row["broken_images"] = report_broken(trainer)
            row["wall_seconds"] = before + time.perf_counter() - began
            row["coefficients"] = trainer.coefficients()
            rows.append(row)
            record.log(row)
            report(row, config)
            if epoch % config.train.checkpoint_every == 0 or epoch == config.train.epochs:
                checkpoints.save(trainer.state, {"wall_seconds": row["wall_seconds"], "data": dataset.describe()})

    summary = {
        **{key: value for key, value in rows[-1].items() if key.startswith("test_")},
        "parameters": trainer.parameters,
        "zero_stability": trainer.zero_stability(),
        "epochs": config.train.epochs,
        "steps": trainer.step,
        "seed": config.seed,
        "images_per_second": len(rows) / sum(1 / row["images_per_second"] for row in rows),
        "wall_seconds": rows[-1]["wall_seconds"],
        "compile_seconds": trainer.compile_seconds,
        "device": device(),
        "versions": versions(),
    }
    record.summarise(summary)
    draw(record, rows, f"{config.model.name}, {trainer.scheme}, {config.data.name}")
    report_stability(summary["zero_stability"])
    say(f"test accuracy {summary['test_accuracy']:.2%}; everything is in {record.directory}")
    return summary


def side_by_side(runs: list[Generator]) -> list[dict]:
    """Makes runs that are ready to their ends: an epoch of each is trained at the same time, all else happens in turns.

    Returns what they return.
    """
    ended, answers = {}, dict.fromkeys(runs)
    pool = ThreadPoolExecutor(len(runs))
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False)  # Ctrl-C does not wait for the epoch to end
        for run in runs:
            stack.callback(run.close)  # if one fails or is interrupted, the others end, too, and keep what they have
        while answers:
            wanted = {}
            for run, answer in answers.items():
                try:
                    wanted[run] = run.send(answer)
                except StopIteration as end:
                    ended[run] = end.value
            if len(wanted) == 1:  # in this thread, which Ctrl-C reaches
                answers = {run: train_epoch(trainer) for run, trainer in wanted.items()}
            else:
                started = {run: pool.submit(train_epoch, trainer) for run, trainer in wanted.items()}
                answers = {run: future.result() for run, future in started.items()}
    return [ended[run] for run in runs]


def train_epoch(trainer: Trainer) -> dict | NonFiniteLoss:
    try:
        with ProgressBar(trainer) as progress:
            return trainer.train_epoch(progress)
    except NonFiniteLoss as error:
        return error


def train_seeds(config: Config, seeds: list[int], *, resume: bool = False) -> dict:
    """The same run from several seeds, each in a folder of its own: the mean and the standard deviation over them.

    All use the programs of the first. One network leaves a part of a CPU idle, so that two are trained there at the
    same time: 1.3 times as many images a second as one by one, on two cores, where a program over both networks at
    once makes 0.3 times as many, and two processes 1.1 times (`python -m benchmarks --suite cpu --only seeds`). On
    other devices, and where a network is spread over several, they are trained one by one; `--suite gpu --only G6`
    measures what else could be done. With `resume`, the seeds that the folder holds already count, too.
    """
    record = Record(config.workdir, writes=jax.process_index() == 0)
    found = require_seeds(record, config, seeds, resume=resume)
    summaries = {seed: json.loads(path.read_text()) for seed, path in found.items()}
    at_once, first = 2 if jax.device_count() == 1 and jax.default_backend() == "cpu" else 1, None
    for group in (seeds[i : i + at_once] for i in range(0, len(seeds), at_once)):
        runs = []
        for seed in group:
            say(f"seed {seed}:")
            one = of_seed(config, seed)
            runs.append(story(one, resume=Record(one.workdir).started, like=first))
            first = next(runs[-1])
        summaries |= zip(group, side_by_side(runs), strict=True)
    results = {}
    for key in [key for key in summaries[seeds[0]] if key.startswith("test_")]:
        values = [summary[key] for summary in summaries.values()]
        # Of a sample: over n - 1, as is due where a few seeds stand for all.
        std = statistics.stdev(values) if len(values) > 1 else None
        results[key] = {"mean": statistics.mean(values), "std": std, "values": values}
    record.summarise({"seeds": list(summaries), **results})
    accuracy = results["test_accuracy"]
    spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.2%}"
    number = f"{len(summaries)} seed" + "s" * (len(summaries) > 1)
    say(f"test accuracy of {number} {accuracy['mean']:.2%}{spread}; everything is in {record.directory}")
    return results


def of_seed(config: Config, seed: int) -> Config:
    return dataclasses.replace(config, seed=seed, workdir=str(Path(config.workdir, f"seed{seed}")))


def require_seeds(record: Record, config: Config, seeds: list[int], *, resume: bool) -> dict[int, Path]:
    """Checks that a folder can hold these seeds, before hours go into the first. Returns the others' summaries."""
    directory = record.directory
    if record.started:
        raise InputError(f"{directory} holds a single run, not one of several seeds: choose another --workdir")
    held = [int(path.parent.name[4:]) for path in directory.glob("seed*/config.json") if path.parent.name[4:].isdigit()]
    if held and not resume:
        raise InputError(f"{directory} already holds seeds: go on with them by --resume, or choose another --workdir")
    if resume and not held:
        raise InputError(f"{directory} holds no run of several seeds to go on with")
    for seed in held:
        Record(directory / f"seed{seed}").require_same(of_seed(config, seed))
    for seed in set(seeds) - set(held):
        Record(directory / f"seed{seed}").require_none()
    multihost_utils.sync_global_devices("all have looked at the folders")
    others = {seed: directory / f"seed{seed}" / "summary.json" for seed in sorted(set(held) - set(seeds))}
    return {seed: path for seed, path in others.items() if path.exists()}


def evaluate(config: Config, directory: str) -> dict:
    """The test loss and accuracy of the newest checkpoint of a run."""
    record = Record(directory)
    record.require_same(config, ("model", "train.average"))
    with Checkpoints(record.directory / "checkpoints", read_only=True) as checkpoints:
        dataset = load_data(config)
        trained_on = checkpoints.about()["data"]
        if trained_on["classes"] != list(dataset.classes):
            raise InputError(f"{record.directory}: {other_classes(trained_on['classes'], dataset.classes)}")
        mean, std = np.float32(trained_on["mean"]), np.float32(trained_on["std"])
        now = dataset.describe()
        for key in ("shape", "resized"):
            if now.get(key) != trained_on.get(key):
                print(f"note: {key} was {trained_on.get(key)} in training, and is {now.get(key)} here", file=sys.stderr)
        with Trainer(config, dataclasses.replace(dataset, mean=mean, std=std)) as trainer:
            trainer.state, _ = checkpoints.restore(trainer.state, network_only=True)
            found = trainer.evaluate()
            if config.data.on_error == "skip":
                found["broken_images"] = report_broken(trainer)
            return found


def other_classes(trained_on: list[str], now: tuple[str, ...]) -> str:
    """What to say where they differ: a few of them, for there may be a thousand."""
    parts = [f"was trained on {len(trained_on)} classes, and here are {len(now)}"]
    for names, others, what in ((trained_on, now, "missing here"), (now, trained_on, "new")):
        if different := sorted(set(names) - set(others)):
            parts.append(f"{what}: {', '.join(different[:5])}" + (", ..." if len(different) > 5 else ""))
    return "; ".join(parts) + ("" if len(parts) > 1 else "; they are in another order")


def require_same_data(dataset: data.Dataset, before: dict, record: Record) -> None:
    now = dataset.describe()
    # What an earlier version has not noted cannot be compared.
    changed = [key for key in now if key in before and now[key] != before[key]]
    if changed:
        raise InputError(
            f"{record.directory}: the data has changed since ({', '.join(changed)}): "
            "go on with the same data, or start a new run"
        )


def load_data(config: Config) -> data.Dataset | data.Photographs:
    return data.load(config.data.name, directory=config.data.dir, size=config.data.size)


def say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def report(row: dict, config: Config) -> None:
    epochs = config.train.epochs
    say(
        f"seed {config.seed}  epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        f"test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.2%}  "
        + (f"top-5 {row['test_top5_accuracy']:.2%}  " if "test_top5_accuracy" in row else "")
        + f"lr {row['learning_rate']:g}  {row['images_per_second']:,.0f} images/s"
    )


def report_broken(trainer: Trainer) -> int:
    """Names the images that could not be decoded, each process its own, and returns how many all have met."""
    broken = sorted(trainer.feed.take_broken())
    if broken:
        named = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        print(f"{len(broken)} images could not be decoded, and were skipped: {named}", file=sys.stderr, flush=True)
    return int(multihost_utils.process_allgather(np.int32(len(broken))).sum())


def explain(error: NonFiniteLoss, config: Config, checkpoints: Checkpoints) -> str:
    cure = f"{error}: try a smaller --optimizer.learning-rate than {config.optimizer.learning_rate:g}"
    saved = checkpoints.latest()
    return cure if saved is None else f"{cure}; the last checkpoint, of step {saved}, is in {checkpoints.directory}"


class ProgressBar:
    """A bar over the images of an epoch, on a terminal; nothing where the output is a file, or tqdm is missing."""

    def __init__(self, trainer: Trainer):
        try:
            from tqdm import tqdm
        except ImportError:
            tqdm = None
        epoch, done = divmod(trainer.step, trainer.steps_per_epoch)
        remaining = trainer.steps_per_epoch - done
        total = remaining * trainer.config.train.batch_size
        hidden = True if jax.process_index() else None  # None hides it where there is no terminal
        self.bar = (
            tqdm(total=total, desc=f"epoch {epoch + 1}", unit=" images", leave=False, disable=hidden) if tqdm else None
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, images: int, loss: float, accuracy: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", refresh=False)
            self.bar.update(images)


def report_stability(margins: dict[str, list]) -> None:
    """Says whether the learned coefficients have left the zero-stable range, and where by most."""
    steps = [
        (float(np.min(m)), f"learned step {n} of {stage}") for stage, ms in margins.items() for n, m in enumerate(ms, 1)
    ]
    if steps:
        outside = sum(margin < 0 for margin, _ in steps)
        margin, where = min(steps)
        say(
            f"zero-stability: {outside} of {len(steps)} learned steps are outside the stable range; the largest root "
            f"besides 1 has modulus {1 - margin:.3f} ({where})"
        )


def draw(record: Record, rows: list[dict], title: str) -> None:
    if not record.writes:
        return
    try:
        figures.learning_curves(rows, record.directory / "learning_curves.png", title)
        if rows[-1]["coefficients"]:
            figures.coefficients(rows[-1]["coefficients"], record.directory / "coefficients.png", title)
    except InputError as error:  # matplotlib is missing: the numbers are written, only the pictures are not
        say(f"no pictures: {error}")


def device() -> str:
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


def versions() -> dict[str, str]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "lmjax": lmjax.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: list[str] | None = None) -> int:
    try:
        config, choices = command_line.parse(arguments, description=__doc__)
        notes = runtime.start()
        if choices.evaluate is not None:
            say(json.dumps(evaluate(config, choices.evaluate), indent=2))
            return 0
        for note in notes:
            say(note)
        if config.workdir is None:
            if choices.resume:
                raise InputError("--resume: give the --workdir of the run to go on with")
            seeds = [config.seed] if choices.seeds is None else choices.seeds
            words = [command_line.stem(choices.config), config.model.stepper, f"seed{'-'.join(map(str, seeds))}"]
            name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, words))) + f"-{time_of_first():%Y%m%d-%H%M%S}"
            config = dataclasses.replace(config, workdir=str(Path("runs", name)))
        if choices.seeds is None:
            train(config, resume=choices.resume)
        else:
            train_seeds(config, choices.seeds, resume=choices.resume)
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: if there is a checkpoint, --workdir and --resume go on from it", file=sys.stderr)
        return INTERRUPTED


def time_of_first() -> datetime:
    """Now, by the clock of the first process: all must name the same folder."""
    return datetime.fromtimestamp(int(multihost_utils.broadcast_one_to_all(np.uint32(time.time()))))


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED or (code and jax.distributed.is_initialized()):
        # What was open is closed. In an orderly exit Python would pull away what XLA's threads may still be compiling
        # with, and a process that has failed would wait for the others to end.
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
