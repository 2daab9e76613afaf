"""Weights as a .safetensors file: the network again from the file alone, and files that are none."""

import dataclasses
import json
import os
import struct
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

import lmjax
from lmjax import InputError, weights
from lmjax.config import ModelConfig
from lmjax.data import normalize

pytest.importorskip("safetensors")


def data(classes=3, shape=(4, 4, 1)):
    channels = shape[-1:]
    return {
        "classes": tuple(map(str, range(classes))), "shape": shape,
        "mean": np.full(channels, 0.1, np.float32), "std": np.full(channels, 1 / 3, np.float32),
    }  # fmt: skip


@pytest.fixture
def few():
    return weights.Weights({"head.kernel": np.ones((2, 3), np.float32)}, ModelConfig("tiny"), **data())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


@pytest.mark.versions
def test_a_network_from_its_file_alone(runs, path):
    with lmjax.load(runs["lm"] / "seed1") as trained:
        weights.save(path, trained.weights())
        images, _ = trained.test_sample(20)
        wanted = jax.jit(trained.logits)(trained.model(), images)
        read = weights.read(path)
        assert (read.model, read.classes) == (trained.config.model, trained.classes)
        assert (read.shape, read.shorter_side) == ((8, 8, 1), 8)
    np.testing.assert_array_equal(read.mean, trained.mean)
    np.testing.assert_array_equal(read.std, trained.std)
    network = read.network()
    got = jax.jit(lambda model, x: model(normalize(x, read.mean, read.std, np.float32)))(network, images)
    np.testing.assert_array_equal(got, wanted)
    assert {"stem.conv.kernel", "stage1.steps.item.branches.0.conv1.kernel", "head.bias"} <= read.arrays.keys()
    assert "stage1.steps.item.branches.0.act1.norm.mean" in read.arrays  # running statistics, too
    assert all(x.dtype == np.float32 for x in read.arrays.values())


def test_a_file_is_replaced_whole(few, path, monkeypatch):
    weights.save(path, few)
    before = path.read_bytes()
    other = weights.Weights({}, few.model, **data())
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", mock.Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="cannot be written"):
            weights.save(path, other)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(InputError, match="nowhere"):
        weights.save(path.parent / "nowhere" / "a.safetensors", few)


@pytest.mark.parametrize("how", ["missing", "folder", "text", "empty", "cut", "metadata"])
def test_a_broken_file(few, path, how):
    weights.save(path, few)
    whole = path.read_bytes()
    if how == "folder":
        path = path.parent
    elif how == "missing":
        path = path.with_name("b.safetensors")
    else:
        path.write_bytes(
            {"text": b"hello, this is no such file", "empty": b"", "cut": whole[:-4], "metadata": whole[:40]}[how]
        )
    with pytest.raises(InputError, match=r"is a folder|there is no such file|is no \.safetensors file, or a"):
        weights.read(path)


def test_a_file_of_another_program(few, path):
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(InputError, match="of another program than lmjax"):
        weights.read(path)
    weights.save(path, few)
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    for key, value in {
        "model": '{"depth": 3}', "classes": '["a", 3]', "mean": "[1, 2]", "shape": '"444"', "std": "nothing",
    }.items():  # fmt: skip
        broken = header | {"__metadata__": header["__metadata__"] | {key: value}}
        text = json.dumps(broken).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
        with pytest.raises(InputError, match="does not say what network it is of"):
            weights.read(path)


def test_weights_of_another_network(few):
    with pytest.raises(InputError, match=r"than tiny: activation\.norm\.bias is missing, not of shape \(8,\)"):
        few.network()
    with pytest.raises(InputError, match="its mean is not that of 3 channels"):
        weights.Weights({}, few.model, **data() | {"shape": (4, 4, 3)})
    with pytest.raises(InputError, match="its std must be finite, and a std positive"):
        weights.Weights({}, few.model, **data() | {"std": [0.0]})
    with pytest.raises(InputError, match="shorter_side must be a whole number, at least the height"):
        weights.Weights({}, few.model, **data(), shorter_side=3)


def test_the_config_of_another_network_is_refused_before_it_is_written(few):
    network = few.model.build(classes=3, cin=1, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="weights of another network than tiny"):
        weights.Weights.of(network, dataclasses.replace(few.model, placement="post"), **data())
    found = weights.Weights.of(
        network, few.model, **data() | {"shape": tuple(np.array((4, 4, 1)))}, shorter_side=np.int64(5)
    )
    assert (type(found.shape[0]), type(found.shorter_side)) == (int, int)


def test_the_package_is_named(few, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: weights.save(path, few), lambda: weights.read(path)):
        with pytest.raises(InputError, match="pip install safetensors"):
            call()
