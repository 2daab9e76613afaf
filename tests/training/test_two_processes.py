"""Two processes with four devices each compute what one process with eight does."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from lmjax import InputError, data
from lmjax.config import Config, DataConfig, ModelConfig, to_dict
from lmjax.training import Trainer, data_mesh, evaluate, processes, train_epoch
from tests.data.photos import write_folder
from tests.tiny import ROOT, changed


@pytest.mark.parametrize(
    ("key", "alike"),
    [
        ("checkpoint.steps", False),
        ("train.eval_batch_size", False),
        ("train.nan_limit", False),
        ("data.on_error", False),
        ("model.unroll", False),
        ("data.dir", True),
        ("data.workers", True),
    ],
)
def test_what_processes_may_have_of_their_own(monkeypatch, key, alike):
    config = Config(DataConfig("photographs(16)", dir="there", augment=()), ModelConfig("resnet20"), workdir="run")
    section, name = key.split(".")
    value = {"dir": "here", "unroll": False, "on_error": "skip"}.get(name, 7)
    other = changed(config, **{section: {name: value}})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", np.atleast_1d)
    monkeypatch.setattr(processes, "_of_the_first", lambda ours: {"config": to_dict(config), "others": ours["others"]})
    with contextlib.nullcontext() if alike else pytest.raises(InputError, match=rf"{key} is .* in the first process"):
        processes.require_alike(other)


WORKER = """
import json, os, sys
# Without LLVM's optimization, which takes longer than the steps.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from lmjax.config import from_dict
from lmjax.training import Trainer, evaluate, train_epoch
import tests.tiny  # which registers its network
config = from_dict(json.loads(sys.argv[3]))
dataset = config.data.load()
with Trainer(config, dataset) as trainer:
    assert trainer.mesh.size == 8 and jax.local_device_count() == 4
    row = train_epoch(trainer) | evaluate(trainer) | {"k": trainer.coefficients()}
    if config.data.origin.streamed:
        train, test = trainer.feed.arrays(0, [1]), trainer.test_feed.arrays()
        seen = [[shard.data.tolist() for _, labels in batches for shard in labels.addressable_shards]
                for batches in (train, test)]
        row |= {"seen": [sum(shards, []) for shards in seen]}
print(json.dumps(row))
"""


def in_two_processes(config):
    """What each of the two prints."""
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
    return first, second


def require_close(row, trainer):
    one = train_epoch(trainer) | evaluate(trainer)
    for key, value in row.items():
        if key == "k":
            for stage, k in value.items():
                assert k == pytest.approx(trainer.coefficients()[stage], abs=1e-6)
        else:
            assert value == pytest.approx(one[key], rel=1e-3), key


@pytest.mark.slow
def test_two_processes_read_disjoint_shares_whose_union_is_the_data_set(config, tmp_path):
    pytest.importorskip("grain")
    # A class of its own for every image, so that labels tell which were read.
    root = write_folder(tmp_path, train=40, val=40, classes=40)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, name="photographs(16)", dir=str(root), augment=("default",), workers=1),
        train=dataclasses.replace(config.train, batch_size=40, eval_batch_size=16),
    )
    first, second = in_two_processes(config)
    for mine, other in zip(first.pop("seen"), second.pop("seen"), strict=True):
        mine, other = (sorted(label for label in labels if label >= 0) for labels in (mine, other))
        assert not set(mine) & set(other)
        assert sorted(mine + other) == list(range(40))
    assert first == second
    with Trainer(config, data.load("photographs(16)", directory=root), data_mesh()) as trainer:
        images, labels = next(iter(trainer.feed.arrays(0, [1])))
        assert sorted(np.asarray(labels).tolist()) == list(range(40))
        assert images.shape == (40, 16, 16, 3)
        require_close(first, trainer)
