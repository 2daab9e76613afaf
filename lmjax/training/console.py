"""What a run says while it is made."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from lmjax import machine
from lmjax.config import Config
from lmjax.output import warn
from lmjax.training.trainer import Trainer

_QUIET = [False]


@contextlib.contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """While this is entered, `say` prints results alone."""
    before, _QUIET[0] = _QUIET[0], wanted
    try:
        yield
    finally:
        _QUIET[0] = before


def say(text: str, *, result: bool = False) -> None:
    """Print a line on the standard output, in the first process alone.

    Args:
        text: the line.
        result: it is a result of the program, which is printed even where it is to be `quiet`.
    """
    if jax.process_index() == 0 and (result or not _QUIET[0]):
        print(text, flush=True)


_LANES = 128  # of a TPU's vector registers, which the images of a batch fill


def introduce(trainer: Trainer) -> None:
    """Say what is trained on what, and compile it."""
    dataset, devices = trainer.dataset, trainer.mesh.size
    seeds = f", {len(trainer.seeds)} times" if len(trainer.seeds) > 1 else ""
    say(f"{trainer.config.model.name}, {trainer.scheme}: {trainer.parameters:,} parameters{seeds} on {device(devices)}")
    say(f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images")
    batch = trainer.config.train.batch_size // (1 if trainer.several else devices)
    if note := padding(batch, trainer.mesh.devices.flat[0].platform):
        warn(note)
    trainer.compiled.all()
    say(f"compiled in {trainer.compiled.seconds:.1f} s")


def padding(batch: int, platform: str) -> str:
    """A warning where a TPU pads a small batch on each chip; "" where there is nothing to warn of."""
    if platform != "tpu" or batch >= _LANES:
        return ""
    return (
        f"note: {batch} images a chip, which computes with {_LANES} at a time: {1 - batch / _LANES:.0%} of it is "
        "padding; train several seeds side by side (--seeds), or a larger --train.batch-size"
    )


def device(count: int | None = None) -> str:
    """The number (None: all) and kind of devices, as text."""
    first = jax.devices()[0]
    kind, platform = first.device_kind, first.platform
    about = f"{machine.cpu()}, {machine.cores()} cores" if platform == "cpu" else platform
    return f"{count or jax.device_count()} x {kind} ({about})"


def say_epoch(row: dict, config: Config, name: str) -> None:
    """Print the line of an epoch, with the name of its run."""
    epochs = config.train.epochs
    say(
        f"{name}  epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        f"test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.2%}  "
        + (f"top-5 {row['test_top5_accuracy']:.2%}  " if "test_top5_accuracy" in row else "")
        + (f"skipped {row['skipped_steps']}  " if row.get("skipped_steps") else "")
        + f"lr {row['learning_rate']:g}  {row['images_per_second']:,.0f} images/s"
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
