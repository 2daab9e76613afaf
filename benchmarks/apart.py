"""A function in a process of its own: for compiler flags, caches, and limits that belong to a whole process."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Died(RuntimeError):
    """The process ended without a result; the message is the end of what it said."""


def apart(function: str, *, env: dict[str, str] | None = None, timeout: float | None = None, **given):
    """What `function`, "module:name", returns for keyword arguments that JSON can carry.

    Args:
        function: its result is JSON, too.
        env: variables of the environment, besides those of this process.
        timeout: seconds after which the process is ended.

    Raises:
        Died: if the function fails or the process does.
        subprocess.TimeoutExpired: after the timeout.
    """
    # A program given with -c is no file, so that what it starts does not import this one's main module again.
    command = [sys.executable, "-c", "from benchmarks import apart; apart.main()", function, json.dumps(given)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, check=False, timeout=timeout
    )
    if result.returncode:
        raise Died(result.stderr.strip()[-2000:] or f"ended with status {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    module, name = sys.argv[1].split(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))))
