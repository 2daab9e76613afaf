"""`lmjax predict`."""

import csv
import glob
import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.conf import Positional

import lmjax
from lmjax import command_line
from lmjax.console import show, warn
from lmjax.data.folder import is_image
from lmjax.data.threads import in_threads
from lmjax.errors import InputError
from lmjax.training import TrainedNetwork

_BATCH = 128

Best = list[tuple[str, float]]
"""The most probable classes of an image, each with its probability."""


class Predict(command_line.Command):
    """The most probable classes of images, by the network of a run.

    Images are scaled, cut and normalized as in the evaluation of the run. What cannot be read or decoded is named on
    the standard error, and left out; the exit code is then 1.
    """

    folder: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of the run, or a .safetensors file of weights."""
    files: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE")]
    """Images, folders of images, or patterns such as "photos/**/*.jpg"."""
    top: int = 5
    """How many classes to print for each image."""
    format: Literal["table", "csv", "json"] = "table"
    """A line for each image; or comma-separated values, or JSON, with a row for each image and class."""
    at: str = "latest"
    """The checkpoint: latest, best, or a step."""
    config: Path | None = None
    """A Python file to run first, which registers parts of your own."""

    def run(self) -> int:
        """Print the classes; returns 1 if an image is broken."""
        command_line.require_some(self.files, "FILE")
        if self.top < 1:
            raise InputError(f"--top: must be at least 1, got {self.top}")
        command_line.start_alone(self.config)
        broken = []
        with lmjax.load(self.folder, at=self.at) as trained:
            _WRITERS[self.format](_predicted(trained, list(_found(self.files)), self.top, broken))
        return 1 if broken else 0


def _found(places: Sequence[str]) -> Iterator[str]:
    """The files that are meant, in order. What is not there stays as it is, for a message."""
    for place in places:
        if os.path.isdir(place):
            inside = [os.path.join(path, name) for path, _, names in os.walk(place) for name in names if is_image(name)]
            yield from sorted(inside) or [place]
        elif not os.path.lexists(place) and glob.has_magic(place):
            yield from sorted(glob.glob(place, recursive=True)) or [place]
        else:
            yield place


def _predicted(trained: TrainedNetwork, paths: list[str], top: int, broken: list[str]) -> Iterator[tuple[str, Best]]:
    """Each image with its best classes. What is broken is named, and added to a list."""

    def prepared(path):
        try:
            if os.path.isdir(path):
                raise InputError(f"{path}: has no images in it")
            return trained.prepare(path)
        except InputError as error:
            return error

    images = zip(paths, in_threads(prepared, paths), strict=True)
    while found := list(itertools.islice(images, _BATCH)):
        for path, error in found:
            if isinstance(error, InputError):
                broken.append(path)
                warn(f"error: {error}")
        good = [(path, pixels) for path, pixels in found if not isinstance(pixels, InputError)]
        if good:
            shares = trained.predict(np.stack([pixels for _, pixels in good])).probabilities
            best = np.argsort(-shares, axis=-1, kind="stable")[:, :top]
            for (path, _), row, labels in zip(good, shares, best, strict=True):
                yield path, [(trained.classes[label], float(row[label])) for label in labels]


def _write_table(rows: Iterator[tuple[str, Best]]) -> None:
    for path, best in rows:
        show("  ".join([path, *(f"{name} {share:.2%}" for name, share in best)]))


def _write_csv(rows: Iterator[tuple[str, Best]]) -> None:
    show("file,rank,class,probability")
    for path, best in rows:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows((path, rank, name, f"{share:.6g}") for rank, (name, share) in enumerate(best, start=1))
        show(text.getvalue().removesuffix("\n"))


def _write_json(rows: Iterator[tuple[str, Best]]) -> None:
    found = [
        {"file": path, "classes": [{"class": name, "probability": share} for name, share in best]}
        for path, best in rows
    ]
    show(json.dumps(found, indent=2))


_WRITERS = {"table": _write_table, "csv": _write_csv, "json": _write_json}
