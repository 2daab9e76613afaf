"""Devices that tests ask for; not in tiny.py, which programs load before they have joined the others."""

import jax

from lmjax.devices import data_mesh

ONE = data_mesh(jax.devices()[:1])
