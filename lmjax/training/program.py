"""A program that trains: what it does when it is interrupted, and its exit code."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from lmjax import console, runtime
from lmjax.console import say, warn
from lmjax.errors import InputError
from lmjax.training.loop import Stopped


def run(work: Callable[[], None]) -> int:
    """Do the work of a command that trains.

    Returns:
        Its exit code: 0; 128 + the number of the signal after `Stopped`; 75 if another process of the run is lost.
    """
    with contextlib.ExitStack() as stack:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in a notebook or under nohup
            signal.signal(signal.SIGINT, _leave)
            stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
        try:
            work()
            return 0
        except InputError:
            raise
        except Stopped as stop:
            say(str(stop))
            return stop.code
        except Exception as error:
            if not runtime.is_loss_of_another_process(error):
                raise
            warn(f"{runtime.LOST_PROCESS}\n({error})")
            return runtime.LOST


def _leave(*_) -> None:
    """End at Ctrl-C while there is nothing to save: an exception would be lost in a callback of JAX."""
    console.tell("interrupted\n")
    os._exit(128 + signal.SIGINT)
