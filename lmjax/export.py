"""Trained networks as files for programs that do not have lmjax.

A file is one function: images, uint8 [N, H, W, C] for any N, scaled and cut already, to the probabilities of the
classes, float32 [N, classes]. Normalization and softmax are inside.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend.core
import numpy as np
from flax import nnx
from jax import export

import lmjax
from lmjax import files, weights
from lmjax.console import no_logging
from lmjax.errors import InputError, optional_import, reason, unknown
from lmjax.training import TrainedNetwork
from lmjax.training.state import initialize

PLATFORMS = ("cpu", "cuda", "tpu")
_CLOSE = {"float32": 1e-4, "bfloat16": 1e-2}  # probabilities, between the file and the network
_IMAGES = 3  # that are compared


def stablehlo(trained: TrainedNetwork) -> bytes:
    """A network as StableHLO for a CPU, NVIDIA GPUs and TPUs, which `jax.export.deserialize` reads.

    Raises:
        InputError: if the package flatbuffers is missing, or the file does not compute what the network does.
    """
    optional_import("flatbuffers", package="flatbuffers", purpose="StableHLO")
    _traced(trained)  # names what takes a given number of images alone
    made = export.export(jax.jit(_function(trained)), platforms=PLATFORMS)(_images(trained))
    content = bytes(made.serialize())
    _compare(trained, "StableHLO", lambda images: export.deserialize(bytearray(content)).call(images))
    return content


def onnx(trained: TrainedNetwork) -> bytes:
    """A network as ONNX, input "images" and output "probabilities", which computes in float32.

    Raises:
        InputError: if the package jax2onnx or onnxruntime is missing, jax2onnx does not know an operation of the
            network, or the file does not compute what the network does.
    """
    jax2onnx = optional_import("jax2onnx", package="jax2onnx", purpose="ONNX")
    onnxruntime = optional_import("onnxruntime", package="onnxruntime", purpose="ONNX")
    trained, images = _in_float32(trained), _images(trained)
    # Traced here: jax2onnx would trace with functions of its own in the place of those of Flax and jax.numpy.
    traced = jax.extend.core.jaxpr_as_fun(_traced(trained))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        with no_logging():
            names = {"input_names": ["images"], "output_names": ["probabilities"]}
            model = jax2onnx.to_onnx(lambda x: traced(x)[0], [images], model_name="lmjax", **names)
            content = model.SerializeToString()
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # jax2onnx raises whatever an operation that it does not know made it stumble over
        raise InputError(f"{trained.name}: cannot be written as ONNX ({reason(error)}): take stablehlo") from error
    _compare(trained, "ONNX", lambda images: session.run(None, {"images": images})[0])
    return content


FORMATS: dict[str, Callable[[TrainedNetwork], bytes]] = {"stablehlo": stablehlo, "onnx": onnx}


def save(trained: TrainedNetwork, path: str | Path, format: str) -> list[Path]:
    """Write a network to a file.

    Args:
        trained: the network.
        path: of the file, in a folder that is there.
        format: "stablehlo" or "onnx", beside which a file PATH.json says the classes and what images are to be; or
            "safetensors", the weights alone, as `lmjax.weights.save` writes them.

    Returns:
        The files.

    Raises:
        InputError: if a package is missing, the format cannot express the network, or a file cannot be written.
    """
    path = files.local(path, "--out")
    files.require_place(path, "--out")
    if format == "safetensors":
        weights.save(path, trained.weights())
        return [path]
    if format not in FORMATS:
        raise unknown("format", format, (*FORMATS, "safetensors"))
    about = path.with_name(f"{path.name}.json")
    with files.writing(path):
        files.write(path, FORMATS[format](trained))
        files.write(about, json.dumps(_about(trained), indent=2) + "\n")
    return [path, about]


def _about(trained: TrainedNetwork) -> dict[str, Any]:
    return {
        "lmjax": lmjax.__version__, "network": trained.name, "step": trained.step, "classes": trained.classes,
        "images": {"dtype": "uint8", "shape": [None, *trained.shape], "shorter_side": trained.prepare.shorter},
        "probabilities": {"dtype": "float32", "shape": [None, len(trained.classes)]},
    }  # fmt: skip


def _function(trained: TrainedNetwork) -> Callable[[jax.Array], jax.Array]:
    """From images to probabilities, with the state as constants of this process: they are on no device."""
    graph, state = nnx.split(trained.model())
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
    return lambda images: jax.nn.softmax(trained.logits(nnx.merge(graph, state), images))


def _images(trained: TrainedNetwork) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *trained.shape), np.uint8)


def _traced(trained: TrainedNetwork) -> jax.extend.core.ClosedJaxpr:
    """A network for any number of images; InputError if one of the user's own takes only a given number."""
    function = _function(trained)
    try:
        return jax.make_jaxpr(function)(_images(trained))
    except InputError:
        raise
    except Exception as error:  # those of JAX for symbolic numbers are of several types
        # A network that cannot be traced for a given number either ends in its own error here.
        jax.eval_shape(function, jax.ShapeDtypeStruct((_IMAGES, *trained.shape), np.uint8))
        raise InputError(
            f"{trained.name}: cannot be traced for any number of images ({reason(error)}): let it take the number from "
            "images.shape[0], not from len(images), and decide nothing by it"
        ) from error


def _in_float32(trained: TrainedNetwork) -> TrainedNetwork:
    """The same network, computing in float32: onnxruntime has no convolution in bfloat16 on a CPU."""
    config = dataclasses.replace(trained.config, model=dataclasses.replace(trained.config.model, dtype="float32"))
    model, _ = initialize(config, len(trained.classes), trained.shape[-1], None, None)
    return dataclasses.replace(trained, config=config, graph=nnx.graphdef(model))


def _compare(trained: TrainedNetwork, name: str, function: Callable[[np.ndarray], Any]) -> None:
    """Raise InputError if a file computes something else than the network."""
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *trained.shape), np.uint8)
    difference = float(np.abs(np.asarray(function(images)) - trained.predict(images).probabilities).max())
    if not difference <= _CLOSE[trained.config.model.dtype]:
        raise InputError(f"{trained.name}: as {name} gives other probabilities, by {difference:g}: take another format")
