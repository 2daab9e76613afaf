"""`lmjax report`."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from lmjax import command_line
from lmjax.console import show
from lmjax.errors import InputError
from lmjax.results import report


class Report(command_line.Command):
    """One HTML page about runs, which needs nothing else to be read."""

    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or of several seeds."""
    out: Path = Path("report.html")
    """The file to write."""
    config: Path | None = None
    """A Python file to run first, which registers schemes of your own."""
    data_dir: str | None = None
    """Where the data is now, if it has moved."""
    no_images: bool = False
    """No confusion and no misclassified images."""
    images_of: tuple[str, ...] | None = None
    """Show those of these rows of the table; else of the best six."""

    def run(self) -> None:
        """Write the page."""
        command_line.require_some(self.runs, "RUN")
        if self.no_images and self.images_of is not None:
            raise InputError("--no-images and --images-of: give one of them")
        command_line.start_alone(self.config)
        out = report.write(
            self.runs, self.out, images=not self.no_images, images_of=self.images_of, data_dir=self.data_dir
        )
        show(f"wrote {out} ({out.stat().st_size / 1000:,.0f} kB)")
