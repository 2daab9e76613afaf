"""Which device holds what: the mesh of all devices, and the state of a run on it."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_SMALL = 4096  # numbers; splitting fewer than these saves nothing and costs a message


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (of all processes) along one axis, "data"."""
    devices = jax.devices() if devices is None else devices
    # Auto is written out because the default differs between the versions of jax; sharding is left to the compiler.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def shardings(tree: Any, mesh: Mesh, *, split: bool) -> Any:
    """For each array of a state, how it is laid out on the devices.

    Args:
        tree: of arrays, or their shapes.
        mesh: from `data_mesh`.
        split: divide each array over the devices along its longest axis that they divide, if there is one and the
            array is not small ("fully sharded data parallel", Zhao et al. 2023; ZeRO, Rajbhandari et al. 2020);
            otherwise each device has all of it.
    """

    def layout(x):
        axes = [axis for axis, length in enumerate(x.shape) if length % mesh.size == 0]
        if not split or not axes or math.prod(x.shape) < _SMALL:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * longest, "data"))

    return jax.tree.map(layout, tree)


def place(tree: Any, layout: Any) -> Any:
    """Arrays of this process, equal in all processes, brought to the devices."""
    # From NumPy: an array that lives on one process's device cannot become one that spans several processes.
    return jax.tree.map(lambda x, sharding: jax.device_put(np.asarray(x), sharding), tree, layout)
