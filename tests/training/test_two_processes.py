"""Two processes with four devices each compute what one process with eight does."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lmjax import data
from lmjax.config import to_dict
from lmjax.training import Trainer, data_mesh

ROOT = Path(__file__).parent.parent.parent

WORKER = """
import json, os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from lmjax import data
from lmjax.config import to_dict
from lmjax.config import from_dict
from lmjax.training import Trainer
trainer = Trainer(from_dict(json.loads(sys.argv[3])), data.load("digits"))
assert trainer.mesh.size == 8 and jax.local_device_count() == 4
row = trainer.train_epoch() | trainer.evaluate()
print(json.dumps(row | {"k": trainer.coefficients()}))
"""


def test_two_processes_compute_what_one_does(config):
    # One step: after several, the rounding of the first has grown to whatever chaos makes of it.
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=1024))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", WORKER, address]
    workers = [
        subprocess.Popen(
            [*arguments, str(i), json.dumps(to_dict(config))],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        results = [worker.communicate(timeout=180) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, results, strict=True):
        assert worker.returncode == 0, errors
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in results)
    first.pop("images_per_second"), second.pop("images_per_second")
    assert first == second

    trainer = Trainer(config, data.load("digits"), data_mesh())
    one = trainer.train_epoch() | trainer.evaluate()
    for key, value in first.items():
        if key == "k":
            for stage, k in value.items():
                assert k == pytest.approx(trainer.coefficients()[stage], abs=1e-6)
        else:
            assert value == pytest.approx(one[key], rel=1e-3), key
