"""Accelerators to compile for: "h100", "h100:8", "v5e", "v5e:4x4", ...; targets.json describes each kind."""

import functools
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from lmjax.errors import InputError, reason, unknown

# Without these, libtpu looks for TPU chips in this machine, and a second process that uses it fails.
_TPU = {
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_LOG_DIR": "disabled",
}  # fmt: skip
_PLUGINS = {
    "tpu": (("libtpu",), "lmjax[tpu]"),
    "cuda": (("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), "lmjax[cuda12]"),
}


class Target(NamedTuple):
    """Accelerators that a program is compiled for.

    Attributes:
        name: as it was asked for: "v5e:4x4".
        platform: "cuda" or "tpu".
        memory: bytes that each device has.
        devices: descriptions, which hold no arrays.
    """

    name: str
    platform: str
    memory: int
    devices: list[jax.Device]


@functools.cache
def known() -> dict[str, dict[str, Any]]:
    """The kinds of accelerators by name."""
    return json.loads(Path(__file__).with_name("targets.json").read_text())


def target(name: str) -> Target:
    """Describe accelerators; none has to be there.

    Args:
        name: a kind of `known`, and how many: "h100", "h100:8", "v5e" (one chip), "v5e:4x4".

    Raises:
        InputError: if the name is not one of a target, or the compiler for it is not installed or rejects it.
    """
    kind, colon, shape = name.partition(":")
    if kind not in known():
        raise unknown("target", kind, known())
    about = known()[kind]
    platform = about["platform"]
    modules, extra = _PLUGINS[platform]
    one = about.get("one", "1")
    shape = shape if colon else one
    if not re.fullmatch("x".join([r"[1-9]\d*"] * len(one.split("x"))), shape):
        form = f"{kind}:{'x'.join('2' * len(one.split('x')))}" if platform == "tpu" else f"{kind}:8"
        raise InputError(f"target {name}: takes a number of devices, as in {form}")
    if not any(map(_installed, modules)):
        raise InputError(f"target {name}: its compiler is not installed: pip install '{extra}'")
    try:
        devices = _gpus(about, shape) if platform == "cuda" else _tpus(kind, shape)
    except Exception as error:  # the compilers raise exceptions of many types
        raise InputError(f"target {name}: its compiler does not know such devices ({reason(error)})") from error
    return Target(name, platform, about["memory"], devices)


def _installed(module: str) -> bool:
    package = module.partition(".")[0]
    return importlib.util.find_spec(package) is not None and importlib.util.find_spec(module) is not None


def _gpus(about: dict[str, Any], count: str) -> list[jax.Device]:
    topology = topologies.get_topology_desc(
        topology_name="", platform="cuda", topology=f"1x1x{count}", target_config=about["description"]
    )
    return list(topology.devices)


def _tpus(kind: str, shape: str) -> list[jax.Device]:
    for key, value in _TPU.items():
        os.environ.setdefault(key, value)
    one = {} if set(shape.split("x")) != {"1"} else {"chips_per_host_bounds": (1, 1, 1)}
    return list(topologies.get_topology_desc(topology_name=f"{kind}:{shape}", platform="tpu", **one).devices)
