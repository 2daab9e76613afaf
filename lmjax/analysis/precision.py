"""float64 for the analysis of schemes, whatever JAX is set to elsewhere."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Within the block, and in this thread alone, JAX computes in float64 and complex128, on the CPU if there is one.

    Accelerators are slow at float64, or do not know complex128 at all.
    """
    if hasattr(jax, "enable_x64"):
        wide = jax.enable_x64(True)
    else:  # before jax 0.8
        from jax.experimental import enable_x64

        wide = enable_x64()
    with wide, jax.default_device(_cpu()):
        yield


def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None
