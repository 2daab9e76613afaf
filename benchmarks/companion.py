"""A side of a comparison that lives in a process of its own, and makes steps when it is told to.

For what must be set before a library starts: PyTorch's OpenMP threads, left to the system, were seen to share one core
of two, and a step of LM-ResNet-20 at batch 32 then took 2200 to 3700 ms instead of 64, with nothing else in its
process. Bound to a core each (`OMP_PROC_BIND`), they took 63 to 77 ms. Between its turns the process waits for a line
to read, and takes no time from the other sides.
"""

import importlib
import json
import os
import subprocess
import sys

from benchmarks.apart import ROOT, Died


class Companion:
    """A side whose steps are made by `function`, "module:name", of another process.

    Args:
        function: returns a side for keyword arguments that JSON can carry, and what it says of itself.

    Attributes:
        about: what that is.
    """

    steps = 1

    def __init__(self, function: str, **given):
        program = "from benchmarks import companion; companion.main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, function, json.dumps(given)],
            cwd=ROOT, env=os.environ | {"OMP_PROC_BIND": "true"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.about = self._reply()

    def _reply(self):
        line = self._process.stdout.readline()
        if not line:
            raise Died(f"the process of the peer ended with status {self._process.wait()}")
        return json.loads(line)

    def __call__(self) -> None:
        self._process.stdin.write("step\n")

    def wait(self) -> None:
        self._process.stdin.write("wait\n")
        self._reply()

    def __enter__(self) -> "Companion":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    module, name = sys.argv[1].split(":")
    side, about = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        if line == "step\n":
            side()
        else:
            side.wait()
            print("{}", flush=True)
