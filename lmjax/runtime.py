"""Preparation of a process before JAX starts: compiler flags, memory, compilation cache, other processes.

A library should not change the process it is imported into, so nothing here happens on import: `lmjax.cli` and the
benchmarks call `start`.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import stat
import sys
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from lmjax import devices
from lmjax.console import warn
from lmjax.errors import InputError

COMPILER_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_allow_excess_precision": False}}
"""XLA's options that the compiled programs were seen to be better with, by platform.

Without excess precision a bfloat16 feature map is one between two kernels, too: otherwise XLA leaves out the rounding
and writes float32, a sixth more bytes for LM-ResNet-20 (docs/performance.md). On a CPU nothing that `python -m
benchmarks --suite cpu --only flags` tries is faster than the defaults.
"""

DETERMINISTIC = ["--xla_gpu_deterministic_ops=true"]
"""Flags with which a GPU repeats itself bit for bit: no atomic additions, and no choice of algorithms by timing them.

Every supported version knows them. What they cost is a row of `python -m benchmarks --suite gpu`. A CPU needs none.
"""

CACHE_BYTES = 4 * 2**30
"""Largest size of the compilation cache, in bytes; beyond it, what was used longest ago is deleted."""

_SETTINGS: Any = jax.config  # whose type lacks most of them
_ADDRESS, _PROCESSES, _PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is lost, and the others end."""

JOIN_SECONDS = 300
"""A process that has not come for so long at the beginning is lost, and the others end."""

LOST = 75  # exit code after the loss of another process: what sysexits.h calls a temporary failure
LOST_PROCESS = "error: another process of this run has ended, or cannot be reached: start all again"


def start(*, deterministic: bool = False, seeds: int = 1) -> list[str]:
    """Prepare this process for a run. To be called once, before JAX is asked for its devices.

    Sets, if wanted, the flags of `DETERMINISTIC`, unless XLA_FLAGS in the environment sets them already; keeps the
    memory of a CPU (`keep_memory`); joins the other processes, if there are several (`join_processes`); keeps compiled
    programs in a folder (`cache_programs`); and quietens Orbax (`quieten_orbax`).

    Args:
        deterministic: have a GPU add up in the same order each time, so that the same run gives the same bits.
        seeds: the number of seeds that may be trained side by side: a CPU becomes as many devices, at most one a core.

    Returns:
        What was done that a reader of the log may want to know.

    Raises:
        InputError: if the other processes cannot be found, or the environment describes them only in part.
    """
    notes = []
    quieten_orbax()
    if flags := set_flags(deterministic=deterministic):
        notes.append(f"XLA_FLAGS: {' '.join(flags)}")
    if cpu_only():
        keep_memory()
    several = join_processes()
    if cpu_only() and seeds > 1 and not several:
        divide_cpu(min(seeds, devices.cores()))
    if several:
        notes.append(f"process {jax.process_index()} of {jax.process_count()}, {jax.local_device_count()} devices here")
    if folder := cache_programs():
        notes.append(f"compiled programs are kept in {folder}")
    return notes


def start_alone() -> None:
    """Prepare this process as `start` does, but without joining other processes: for commands that read runs."""
    quieten_orbax()
    cache_programs()
    if cpu_only():
        keep_memory()


def divide_cpu(devices: int) -> None:
    """Have JAX take the CPU for so many devices, unless XLA_FLAGS says how many, or JAX has started."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices)


def quieten_orbax() -> None:
    """Have Orbax log nothing: `lmjax.training.Checkpoints` reports what matters of it.

    For every file that could not be written, asyncio and the threads of TensorStore print a traceback, too.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    report = sys.unraisablehook
    if getattr(report, "__name__", "") == "without_closed_loops":
        return

    def without_closed_loops(unraisable):
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = without_closed_loops


def set_flags(*, deterministic: bool) -> list[str]:
    """Add the flags of `DETERMINISTIC` to the environment if wanted, and return those it has added."""
    names = _flags_of_the_user()
    added = [flag for flag in DETERMINISTIC if deterministic and flag.partition("=")[0] not in names]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *added]).strip()
    return added


def compiler_options(platform: str) -> dict[str, Any]:
    """`COMPILER_OPTIONS` of a platform ("cpu", "gpu", "tpu"), without those that XLA_FLAGS in the environment sets."""
    names = _flags_of_the_user()
    return {key: value for key, value in COMPILER_OPTIONS.get(platform, {}).items() if f"--{key}" not in names}


def _flags_of_the_user() -> set[str]:
    return {word.partition("=")[0] for word in os.environ.get("XLA_FLAGS", "").split()}


def cpu_only() -> bool:
    """True if JAX will find nothing but a CPU here, as far as can be told without starting it."""
    chosen = _SETTINGS.jax_platforms or os.environ.get("JAX_PLATFORMS")
    if chosen:
        return chosen == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not (plugins or importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu"))


def keep_memory() -> None:
    """Have the C library keep freed memory for the next step instead of returning it to the system.

    On a CPU, XLA asks for the memory of all activations anew at every step. By default that comes as fresh pages each
    time, which the system fills with zeros first: up to a fifth of a step's time. Does nothing where the library is not
    glibc. The process then holds on to the most memory it ever had.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # the names are those of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # One arena for all threads: further ones cannot grow beyond 64 MiB, and then use fresh pages.
    for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20)):
        mallopt(option, value)


def cache_programs() -> Path | None:
    """Have JAX keep compiled programs in the user's cache folder, so that the second run of a config starts at once.

    The folder is lmjax/programs below XDG_CACHE_HOME or ~/.cache, with one folder in it for each kind of CPU, since
    what is compiled for one may not run on another that shares the home. It grows to at most `CACHE_BYTES`; deleting
    it is safe at any time. JAX's own settings come first: JAX_COMPILATION_CACHE_DIR chooses another folder,
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.

    The folder is private: one that another user owns or can write to is not used, and a line says so.

    Returns:
        The folder; None if there is none, or if it was chosen elsewhere.
    """
    if _SETTINGS.jax_compilation_cache_dir is not None or not _SETTINGS.jax_enable_compilation_cache:
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        base.mkdir(parents=True, exist_ok=True)
        folder = base
        for name in ("lmjax", "programs", _kind_of_cpu()):
            folder = folder / name
            folder.mkdir(mode=0o700, exist_ok=True)
            _require_private(folder)
    except InputError as error:
        warn(f"note: {error}: compiled programs are not kept")
        return None
    except (OSError, RuntimeError):  # no home, or one that cannot be written to: every run compiles
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    return folder


def _require_private(folder: Path) -> None:
    """Raise InputError if another user could write to a folder: what is compiled is run as it is found there."""
    status = folder.stat()
    if hasattr(os, "getuid") and status.st_uid != os.getuid():  # not on Windows
        raise InputError(f"{folder}: belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(f"{folder}: others can write to it: delete it, and a new one is made")


def _kind_of_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def join_processes(environment: Mapping[str, str] = os.environ) -> bool:
    """Join the other processes of a run, if the environment says that there are any.

    Found are: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three, for
    any machines; SLURM (`srun`, one task a GPU); Open MPI (`mpirun`); the hosts of a TPU pod.

    Returns:
        Whether there are several processes.

    Raises:
        InputError: if only some of the three variables are given, or no connection can be made.
    """
    given = [name for name in (_ADDRESS, _PROCESSES, _PROCESS) if environment.get(name)]
    arguments: dict[str, Any] = {}
    if _PROCESSES in given or _PROCESS in given:
        if missing := {_ADDRESS, _PROCESSES, _PROCESS} - set(given):
            raise InputError(f"{', '.join(given)} given without {', '.join(sorted(missing))}: give all three or none")
        try:
            arguments = {"num_processes": int(environment[_PROCESSES]), "process_id": int(environment[_PROCESS])}
        except ValueError as error:
            raise InputError(f"{_PROCESSES} and {_PROCESS} must be whole numbers: {error}") from error
        arguments["coordinator_address"] = environment[_ADDRESS]
    elif not _several(environment):
        if given:
            raise InputError(f"{_ADDRESS} given without {_PROCESSES}, {_PROCESS}: give all three or none")
        return False
    # When JAX's own timeout is reached, it aborts the process.
    waiting = threading.Timer(JOIN_SECONDS, _end_alone)
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **arguments, initialization_timeout=JOIN_SECONDS + 60, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"cannot join the other processes: {error}") from error
    finally:
        waiting.cancel()
    return jax.process_count() > 1


def _end_alone() -> None:
    warn(f"{LOST_PROCESS}\n(not all have come within {JOIN_SECONDS} s)")
    os._exit(LOST)


def is_loss_of_another_process(error: BaseException) -> bool:
    """True if an error of JAX's runtime means that this process is well, and another one does not answer."""
    if not jax.distributed.is_initialized():
        return False
    if error.__cause__ is not None and is_loss_of_another_process(error.__cause__):
        return True  # Orbax reports it as a checkpoint that took too long
    words = ("gloo", "nccl", "peer", "heartbeat", "coordination")
    return any(word in str(error).lower() for word in words)


def _several(environment: Mapping[str, str]) -> bool:
    """True if a launcher that JAX knows by itself has started more than one process."""
    # SLURM's variable for an srun step; those of the allocation are also set in its batch shell, which is no task.
    counts = (environment.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if any(count.isdigit() and int(count) > 1 for count in counts):
        return True
    return _hosts_of_tpu(environment) > 1


def _hosts_of_tpu(environment: Mapping[str, str]) -> int:
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environment.get(name):
            return environment[name].count(",") + 1
    if environment.get("TPU_SKIP_MDS_QUERY") or importlib.util.find_spec("libtpu") is None:
        return 1
    request = urllib.request.Request(
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode().count(",") + 1
    except OSError:  # not a machine of Google Cloud
        return 1
