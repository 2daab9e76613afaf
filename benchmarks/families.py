"""One epoch of every family of networks, as a table: parameters, accuracy, speed and memory.

python -m benchmarks.families                 # all rows of configs/families.py
python -m benchmarks.families revnet resnet   # some of them

Speed is relative to the first row, in the same process; compilation is not counted. The memory is what the compiled
training step needs besides its arguments and results: activations, and what the convolutions work with.
"""

import sys
import time
from pathlib import Path

import jax
from tyro.conf import Positional

from lmjax import command_line, data
from lmjax.training import Trainer, evaluate, train_epoch

CONFIGS = Path(__file__).parent.parent / "configs" / "families.py"


def measure(row: str) -> dict[str, float]:
    """Trains one row for its epoch."""
    config = command_line.load(f"{CONFIGS}:{row}")
    trainer = Trainer(config, data.load(config.data.name))
    trainer.compiled.all()
    metrics = train_epoch(trainer) | evaluate(trainer)
    return {
        "parameters": trainer.parameters,
        "accuracy": metrics["test_accuracy"],
        "images_per_second": metrics["images_per_second"],
        "temporary_bytes": trainer.compiled.train(1).memory_analysis().temp_size_in_bytes,
        "compile_seconds": trainer.compiled.seconds,
    }


class Families(command_line.Command):
    """One epoch of every family of networks, as a table."""

    rows: Positional[tuple[str, ...]] = ()
    """Of configs/families.py; all if none is given."""

    def run(self) -> None:
        """Print a line for each row."""
        began = time.perf_counter()
        print(f"one epoch of digits on {len(jax.devices())} x {jax.devices()[0].device_kind}")
        print(
            f"{'family':30}{'parameters':>12}{'accuracy':>10}{'images/s':>10}{'relative':>10}{'memory, MB':>12}"
            f"{'compiled':>10}"
        )
        first = None
        for row in self.rows or command_line.rows(CONFIGS):
            found = measure(row)
            first = first or found["images_per_second"]
            print(
                f"{row:30}{found['parameters']:>12,}{found['accuracy']:>10.1%}{found['images_per_second']:>10,.0f}"
                f"{found['images_per_second'] / first:>10.2f}{found['temporary_bytes'] / 1e6:>12.1f}"
                f"{found['compile_seconds']:>8.0f} s",
                flush=True,
            )
        print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    sys.exit(command_line.exit_code(lambda: Families.start(sys.argv[1:], "python -m benchmarks.families")))
