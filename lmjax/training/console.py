"""What a run says while it is made."""

import sys

import jax
import numpy as np

from lmjax import machine
from lmjax.config import Config
from lmjax.training.trainer import Trainer


def say(text: str) -> None:
    """A line on the standard output, of the first process alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


def warn(text: str) -> None:
    """A line on the standard error, of any process."""
    print(text.translate(_CONTROLS), file=sys.stderr, flush=True)


# A file may be named as a terminal's commands are.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def device() -> str:
    """How many devices of what kind there are."""
    devices = jax.devices()
    kind, platform = devices[0].device_kind, devices[0].platform
    return f"{len(devices)} x {kind} ({f'{machine.cpu()}, {machine.cores()} cores' if platform == 'cpu' else platform})"


def say_epoch(row: dict, config: Config, name: str) -> None:
    """The line of an epoch of a run, beside which others may be made."""
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
    """Whether the learned coefficients have left the zero-stable range, and where by most."""
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
