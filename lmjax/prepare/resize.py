"""A smaller copy of a set of photographs, which decodes faster."""

import sys
from pathlib import Path
from typing import Any

from lmjax import files
from lmjax.data import load
from lmjax.data.resize import count, resize


def add(commands: Any) -> None:
    """Add the command to those of an argparse parser."""
    parser = commands.add_parser(
        "resize",
        help="write a smaller copy of a set of photographs",
        description="Writes a folder train/<class>/, val/<class>/ in which no image is larger than it needs to be. It "
        "decodes faster and trains a little differently, since small crops are scaled up. Can be interrupted "
        "and run again; a copy that is finished is left as it is.",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="what --data.dir would be")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--shorter-side", type=int, default=256, metavar="PIXELS", help="of the copies: 256 (the default), 512, ..."
    )
    parser.add_argument("--quality", type=int, default=90, help="of their JPEG files (90)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="when an image cannot be copied")
    parser.set_defaults(run=_run)


def _run(options: Any) -> None:
    images, target = files.local(options.images, "--images"), files.local(options.to, "--to").expanduser()
    photographs = load("photographs", directory=images)
    total = len(photographs.train) + len(photographs.test)
    print(f"{photographs.name}: {total:,} images, to {target}", flush=True)
    with _Progress(total) as progress:
        left_out = resize(
            photographs, target, options.shorter_side, quality=options.quality, skip=options.on_error == "skip",
            progress=progress,
        )  # fmt: skip
    if left_out is None:
        print(f"{target}: was finished before, and is left as it is")
    else:
        for problem in left_out:
            print(f"left out: {problem}", file=sys.stderr)
    print(f"{count(target):,} images are in {target}: train with --data.dir {target}")


class _Progress:
    """A bar on a terminal; a line now and then elsewhere, or where tqdm is missing."""

    def __init__(self, total: int):
        try:
            from tqdm import tqdm
        except ImportError:
            tqdm = None
        self._bar = tqdm(total=total, unit=" images") if tqdm and sys.stderr.isatty() else None
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
            print(f"  {done:,} of {total:,}", flush=True)
            self._next += 0.1
