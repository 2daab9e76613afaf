"""`lmjax export`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

import lmjax
from lmjax import command_line, export
from lmjax.console import show


class Export(command_line.Command):
    """The network of a run as a file for other programs.

    stablehlo and onnx are the function from 8-bit images, scaled and cut already, to probabilities; beside the file,
    one with .json at the end of its name has the classes and the size of the images. safetensors are the weights alone.
    """

    folder: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of the run, or a .safetensors file of weights."""
    format: Literal["stablehlo", "onnx", "safetensors"]
    """stablehlo for JAX and XLA, on a CPU, GPU or TPU; onnx for ONNX Runtime and others; safetensors to train on."""
    out: Path | None = None
    """The file to write; else the name of the run and the format: a.onnx for runs/a or a.safetensors."""
    at: str = "latest"
    """The checkpoint: latest, best, or a step."""
    config: Path | None = None
    """A Python file to run first, which registers parts of your own."""

    def run(self) -> None:
        """Write the file."""
        command_line.start_alone(self.config)
        with lmjax.load(self.folder, at=self.at) as trained:
            name = trained.record.directory.resolve().name.removesuffix(".safetensors")
            out = self.out or Path(f"{name}.{self.format}")
            for path in export.save(trained, out, self.format):
                show(f"wrote {path} ({path.stat().st_size / 1000:,.1f} kB)")
