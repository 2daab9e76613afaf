"""The lines and the progress bar of a run."""

import contextlib
import math
from collections.abc import Callable, Generator

import jax
import numpy as np
from tqdm import tqdm

from lmjax import devices
from lmjax.config import Config
from lmjax.console import duration, note, say
from lmjax.runtime import compiler_options
from lmjax.training.seeds import in_turn
from lmjax.training.trainer import Trainer

LANES = 128  # of the vector registers of a TPU, over which XLA lays the images of a batch: fewer are padded


def introduce(trainer: Trainer) -> None:
    """Say what is trained on what, and compile it."""
    dataset, count = trainer.dataset, trainer.mesh.size
    seeds = f", {len(trainer.seeds)} times" if len(trainer.seeds) > 1 else ""
    name = f"{trainer.config.model.name}, {trainer.scheme}"
    say(f"{name}: {trainer.parameters:,} parameters{seeds} on {devices.describe(count)}")
    say(f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images")
    if text := padding(trainer.config, 1 if trainer.several else count, trainer.mesh.devices.flat[0].platform):
        note(text)
    options = compiler_options(trainer.mesh.devices.flat[0].platform)
    say(" ".join(["compiling ...", *(f"{key}={value}" for key, value in options.items())]))
    trainer.compiled.all()
    say(f"compiled in {trainer.compiled.seconds:.1f} s")


def padding(config: Config, chips: int, platform: str) -> str:
    """A warning, and a cure, where a TPU pads a small batch on each chip; "" where there is nothing to warn of.

    Args:
        config: of the run.
        chips: that a batch is spread over.
        platform: of the chips.
    """
    batch = math.ceil(config.train.batch_size / chips)
    if platform != "tpu" or batch >= LANES:
        return ""
    cure = f"--train.batch-size {LANES * chips}"
    if config.optimizer.reference_batch_size is None:
        cure += f" --optimizer.reference-batch-size {config.train.batch_size} --optimizer.warmup-epochs 5"
    cure = f"{LANES} images on each: {cure} (another recipe)"
    if chips > 1 and not in_turn(config):
        cure = f"one seed on each chip, --seeds 0..{chips - 1}, or {cure}"
    return (
        f"note: {batch} images a chip, which computes with {LANES} at a time: {1 - batch / LANES:.0%} of it is "
        f"padding; train {cure}"
    )


def say_epoch(row: dict, config: Config, name: str, steps: int) -> None:
    """Print the line of an epoch of so many steps, with the name of its run."""
    epochs, rate, trained = config.train.epochs, row["images_per_second"], "no update"
    left = (epochs - row["epoch"]) * steps * config.train.batch_size / rate if rate > 0 else 0
    if row["train_loss"] is not None:
        trained = f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}"
    say(
        f"{name}  epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  "
        f"{trained}  "
        f"test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.2%}  "
        + (f"top-5 {row['test_top5_accuracy']:.2%}  " if "test_top5_accuracy" in row else "")
        + (f"skipped {row['skipped_steps']}  " if row.get("skipped_steps") else "")
        + f"lr {row['learning_rate']:g}  {row['images_per_second']:,.0f} images/s"
        + (f"  about {duration(left)} left" if left else "")
    )


def say_stability(margins: dict[str, list]) -> None:
    """Print how many learned steps are outside the zero-stable range."""
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


@contextlib.contextmanager
def progress_bar(trainer: Trainer) -> Generator[Callable[[int, float, float], None], None, None]:
    """A bar over the images of an epoch, on a terminal alone; yields what `train_epoch` tells its progress."""
    epoch, done = divmod(trainer.step, trainer.steps_per_epoch)
    batch = trainer.config.train.batch_size
    total, later = (trainer.steps_per_epoch - done) * batch, (trainer.total_steps - trainer.step) * batch
    hidden = True if jax.process_index() else None  # None hides it where there is no terminal
    with tqdm(total=total, desc=f"epoch {epoch + 1}", unit=" images", leave=False, disable=hidden) as bar:

        def show(images: int, loss: float, accuracy: float) -> None:
            rate = bar.format_dict["rate"]  # images a second, as soon as it is known
            run = {"run": f"{duration((later - bar.n) / rate)} left"} if rate else {}
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.1%}", **run, refresh=False)
            bar.update(images)

        yield show
