"""Event files for TensorBoard, in the folder "tensorboard" of a run."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from lmjax import files
from lmjax.config import Config, flatten, to_dict
from lmjax.errors import optional_import
from lmjax.training.trackers.tracker import histograms, scalars


class TensorBoard:
    """Scalars, histograms, the config and the hyper-parameters: see `Tracker`.

    `tensorboard --logdir runs` then shows all runs. Everything is drawn against the training step.

    The files are made with TensorBoard's own record writer and summaries, which need no TensorFlow. They are written at
    once and in this thread: a full disk is an OSError here. (tensorboardX is smaller, but imports torch where there is
    one, and its thread ends when the disk is full, after which the eleventh event waits for ever.)
    """

    def __init__(self, directory: Path, config: Config):
        self._directory, self._config = directory / "tensorboard", config
        self._note = self._directory / "step"  # the last one that was written
        self._file: Any = None
        self._told: int | None = None

    @staticmethod
    def require() -> None:
        _import("tensorboard")

    def begin(self, rows: list[dict[str, Any]]) -> None:
        if self._file is None:
            self._open()
            self._told = json.loads(files.read(self._note)) if self._note.exists() else None
        session = self._event_pb2.SessionLog
        # After a START event, readers discard the events that they have from this step on.
        after = rows[-1]["step"] + 1 if rows else 0
        self._write(after, session_log=session(status=session.START))
        if self._told is None or not rows:
            self._describe()
        self._remember(min(after - 1, -1 if self._told is None else self._told))
        for row in rows:  # those of the run while it was not logged to TensorBoard
            if row["step"] > self._told:
                self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in scalars(row).items()]
        summaries = [self._histogram(name, values) for name, values in histograms(row).items()]
        self._write(row["step"], self._summary(value=values), *summaries)
        self._remember(row["step"])

    def saved(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        if self._file is not None:
            self._file.close()

    def _remember(self, step: int) -> None:
        self._told = step
        files.write(self._note, f"{step}\n")

    def _open(self) -> None:
        self._event_pb2 = _import("tensorboard.compat.proto.event_pb2")
        self._summary = _import("tensorboard.compat.proto.summary_pb2").Summary
        self._histogram = _import("tensorboard.plugins.histogram.summary_v2").histogram_pb
        self._directory.mkdir(parents=True, exist_ok=True)
        # A file of its own for each process, since a killed one may have left half an event. Readers take them in the
        # order of their names: nanoseconds keep that of two started within a second.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = _import("tensorboard.summary.writer.record_writer").RecordWriter(
            (self._directory / name).open("xb")
        )
        self._write(0, file_version="brain.Event:2")

    def _describe(self) -> None:
        """The config as text, and as the hyper-parameters by which runs can be compared."""
        text = _import("tensorboard.plugins.text.summary_v2").text_pb
        hparams = _import("tensorboard.plugins.hparams.summary_v2").hparams_pb
        values = to_dict(self._config)
        lines = json.dumps(values, indent=2).splitlines()
        indented = "\n".join(f"    {line}" for line in lines)  # what Markdown shows as it is
        flat = {key: x if isinstance(x, (bool, int, float, str)) else str(x) for key, x in flatten(values).items()}
        self._write(0, text("config", indented), hparams(flat))

    def _write(self, step: int, *summaries: Any, **content: Any) -> None:
        event = self._event_pb2.Event(wall_time=time.time(), step=step, **content)
        for summary in summaries:
            event.summary.MergeFrom(summary)
        self._file.write(event.SerializeToString())
        self._file.flush()


def _import(module: str) -> Any:
    return optional_import(module, package="tensorboard", purpose="--log tensorboard")
