"""`lmjax prepare`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from lmjax.command_line import Command
from lmjax.console import show, warn
from lmjax.data import Photographs, load
from lmjax.data.resize import count, resize
from lmjax.prepare import imagenet, validation

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]


class ImageNet(Command):
    """Prepare ImageNet from ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.

    tensorflow-datasets does it, for which it needs TensorFlow; training does not.
    """

    archives: Folder
    """Folder of the archives."""
    data_dir: Folder
    """Folder in which imagenet2012/ is made."""
    check: bool = False
    """Only say what is needed and what is there."""

    def run(self) -> None:
        """Prepare it."""
        imagenet.prepare(self.archives, self.data_dir, check=self.check)


class SortValidation(Command):
    """Sort ImageNet's validation images into a folder for each class.

    Moves val/ILSVRC2012_val_00000001.JPEG and so on to val/<class>/, by the official labels. Can be interrupted and run
    again.
    """

    images: Folder
    """The folder of the images, DIR/val."""

    def run(self) -> None:
        """Sort them."""
        validation.sort(self.images)


class Resize(Command):
    """Write a smaller copy of a set of photographs, which decodes faster.

    Writes a folder train/<class>/, val/<class>/ in which no image is larger than it needs to be. It trains a little
    differently, since small crops are scaled up. Can be interrupted and run again; a copy that is finished is left as
    it is.
    """

    images: Folder
    """The folder that --data.dir would be."""
    to: Folder
    """The folder to write."""
    shorter_side: int = 256
    """Shorter side of the copies, in pixels: 256, 512, ..."""
    quality: int = 90
    """Quality of their JPEG files."""
    on_error: Literal["stop", "skip"] = "stop"
    """Reaction to an image that cannot be copied."""

    def run(self) -> None:
        """Write the copy, and say how far it is."""
        photographs, target = load("photographs", directory=self.images), self.to
        assert isinstance(photographs, Photographs)
        total = len(photographs.train) + len(photographs.test)
        show(f"{photographs.name}: {total:,} images, to {target}")
        with _Progress(total) as progress:
            left_out = resize(
                photographs, target, self.shorter_side, quality=self.quality, skip=self.on_error == "skip",
                progress=progress,
            )  # fmt: skip
        if left_out is None:
            show(f"{target}: was finished before, and is left as it is")
        else:
            for problem in left_out:
                warn(f"left out: {problem}")
        show(f"{count(target):,} images are in {target}: train with --data.dir {target}")


class _Progress:
    """A bar on a terminal; a line now and then elsewhere."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, unit=" images") if sys.stderr.isatty() else None
        self._next = 0.1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done >= self._next * total:
            show(f"  {done:,} of {total:,}")
            self._next += 0.1


COMMANDS = {"imagenet2012": ImageNet, "sort-validation": SortValidation, "resize": Resize}
