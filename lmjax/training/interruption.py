"""Signals that stop a run: Ctrl-C, preemption, a lost connection."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from lmjax import console


class Interruption:
    """While this is entered, SIGINT, SIGTERM and SIGHUP ask a run to stop where it can go on from; call it to know.

    A second SIGINT ends the process at once. Of several processes, each has to ask at the same points of the run: they
    are told to stop at the same one of them, whichever of them the signal has reached (the preemption service of
    `jax.distributed` sees to that). Entered in another thread than the main one, it changes nothing.

    Attributes:
        signal: that has stopped the run; None until a call has said so.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._received: signal.Signals | None = None
        self._distributed = jax.distributed.is_initialized()
        self._asked = 0
        self._before = {}

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal has ended, as a shell has it: 130, 143, or 129 after SIGHUP."""
        return 128 + (self.signal or signal.SIGTERM)

    def __call__(self) -> bool:
        """True if the run is to stop now."""
        if self.signal is None and self._agreed():
            self.signal = self._received or signal.SIGTERM  # none received: another process was signaled
        return self.signal is not None

    def _agreed(self):
        if not self._distributed:
            return self._received is not None
        # All stop at one more than the highest number that any process has called with: each calls with 1, 2, 3, ...
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def __enter__(self) -> "Interruption":
        # With several processes SIGTERM belongs to the preemption service of `jax.distributed`, which tells the others.
        wanted = [signal.SIGINT, getattr(signal, "SIGHUP", None), None if self._distributed else signal.SIGTERM]
        for number in filter(None, wanted):  # Windows has no SIGHUP
            if signal.getsignal(number) is signal.SIG_IGN:  # as nohup and shells in scripts want it
                continue
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # only the main thread may
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)
            console.tell("\ninterrupted: saving (Ctrl-C ends it at once)\n")
            if self._distributed:
                os.kill(os.getpid(), signal.SIGTERM)
        elif number == signal.SIGINT:
            console.tell("interrupted again: what has not been saved is lost\n")
            os._exit(128 + number)
