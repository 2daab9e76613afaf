"""Devices and what each holds: one run on all of them, or a run of its own seed on each.

Several seeds are a leading axis of every array of their state, divided over the devices of a mesh with the axis "seed".
"""

import contextlib
import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_SMALL = 4096  # numbers; splitting fewer than these saves nothing and costs a message


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (of all processes) along one axis, "data"."""
    devices = jax.devices() if devices is None else devices
    # Auto is written out because the default differs between the versions of jax; sharding is left to the compiler.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def seed_mesh(seeds: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The first devices along one axis, "seed": one for each of so many seeds."""
    # Not make_mesh, which wants the chips of a TPU to fill a box; seeds never communicate.
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices[:seeds]), ("seed",), axis_types=(AxisType.Auto,))


def has_seeds(mesh: Mesh) -> bool:
    """True if each device of a mesh has a seed of its own."""
    return mesh.axis_names == ("seed",)


def seed_array(seeds: Sequence[int], mesh: Mesh) -> np.ndarray:
    """The seeds as a program takes them: uint32, [seeds] on a mesh of seeds, else a single number."""
    return np.array(seeds if has_seeds(mesh) else seeds[0], np.uint32)


def spread(program: Callable[..., Any], mesh: Mesh, specs: tuple[Any, ...]) -> Callable[..., Any]:
    """The program of one seed for the seeds of a mesh, each on its device, without communication between them.

    Args:
        program: takes and gives arrays without the axis of the seeds.
        mesh: from `seed_mesh`.
        specs: of each argument, or of the arrays in it: P("seed"), or P() for what all seeds share.
    """

    def local(*arguments):
        own = jax.tree.map(
            lambda spec, tree: tree if spec == P() else jax.tree.map(lambda x: x[0], tree),
            specs, arguments, is_leaf=lambda spec: isinstance(spec, P),
        )  # fmt: skip
        # The barriers keep what adds and removes the axis out of the fusions, whose sums are those of a run alone then.
        return jax.tree.map(lambda x: x[None], lax.optimization_barrier(program(*lax.optimization_barrier(own))))

    # The check of replication rejects loops that begin with a constant.
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("seed"), check_vma=False)


def stack(trees: Sequence[Any]) -> Any:
    """The trees of several seeds as one, in the memory of this process."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def host() -> contextlib.AbstractContextManager[Any]:
    """Compute on the CPU, where JAX may use it: what is too large for one accelerator."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext()


def shardings(tree: Any, mesh: Mesh, *, split: bool) -> Any:
    """For each array of a state, how it is laid out on the devices.

    Args:
        tree: of arrays, or their shapes.
        mesh: from `data_mesh` or `seed_mesh`.
        split: divide each array over the devices along its longest axis that they divide, if there is one and the
            array is not small ("fully sharded data parallel", Zhao et al. 2023; ZeRO, Rajbhandari et al. 2020);
            otherwise each device has the whole array. Coefficients are never divided: each process records them.
    """
    if has_seeds(mesh):
        return jax.tree.map(lambda _: NamedSharding(mesh, P("seed")), tree)

    def layout(path, x):
        whole = not split or math.prod(x.shape) < _SMALL or jax.tree_util.DictKey("coefficients") in path
        axes = [axis for axis, length in enumerate(x.shape) if length % mesh.size == 0]
        if whole or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, "data"))

    return jax.tree_util.tree_map_with_path(layout, tree)


def put(tree: Any, mesh: Mesh) -> Any:
    """The whole arrays on every device of a mesh; their shapes, where these are descriptions (`lmjax.estimate`)."""
    everywhere = replicated(mesh)
    if all(device.local_hardware_id is None for device in mesh.devices.flat):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)
    return jax.device_put(tree, everywhere)


def over_batches(program: Callable[..., Any], mesh: Mesh, size: int, *arrays: np.ndarray, axis: int = 0) -> Any:
    """Apply a program to batches of rows, in their order, and join what it gives along an axis.

    Args:
        program: takes a batch of each array, divided over the devices.
        mesh: the devices, with the axis "data".
        size: the rows of a batch. Fewer rows are a batch of the next power of two, so that not every number of rows has
            a program of its own. Rounded up to a multiple of the devices.
        arrays: of equal length, at least one row. Copies of its first row fill the last batch, and are cut off again.
        axis: of the rows in what the program gives.
    """
    size = min(size, 1 << (len(arrays[0]) - 1).bit_length())
    size = -(-size // mesh.size) * mesh.size
    parts = []
    for start in range(0, len(arrays[0]), size):
        pieces = [array[start : start + size] for array in arrays]
        count = len(pieces[0])
        filled = [np.concatenate([piece, np.repeat(piece[:1], size - count, axis=0)]) for piece in pieces]
        found = program(*(jax.device_put(piece, NamedSharding(mesh, P("data"))) for piece in filled))
        parts.append(jax.tree.map(lambda x, count=count: np.asarray(x).take(range(count), axis), found))
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def describe(count: int | None = None) -> str:
    """The number (None: all) and kind of devices, as text."""
    first = jax.devices()[0]
    about = f"{cpu()}, {cores()} cores" if first.platform == "cpu" else first.platform
    return f"{count or jax.device_count()} x {first.device_kind} ({about})"


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The model name of the CPU; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
