"""Weights of PyTorch's ResNets in networks of lmjax, and back.

A table for each program translates the paths of the variables into its names. PyTorch has kernels as OIHW, Flax as
HWIO; here the variables of the steps of a stage are stacked.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr

from lmjax import files
from lmjax.console import few
from lmjax.errors import InputError, optional_import, reason, unknown
from lmjax.networks.branches import Activation, Convolutions, Projection
from lmjax.networks.named import create, get
from lmjax.networks.network import Architecture, Network
from lmjax.networks.normalization import relu
from lmjax.networks.stage import Entry

Program = Literal["torchvision", "resnetv2", "lm_resnet"]
"""Whose names the weights have: torchvision's (timm has the same), timm's resnetv2, the code of Lu et al."""


class _Names(NamedTuple):
    """The names of a program.

    Attributes:
        placement: of normalization and activation in its networks.
        first: a name that only its weights have.
        modules: by the path of a module in a network or in a step, its name. {i} is its number in the branch, {stage}
            and {block} are counted from 1 and 0 over the network, {step} from 0 in the stage.
        unused: what may be there besides.
    """

    placement: str
    first: str
    modules: dict[str, str]
    unused: str = r".*\.num_batches_tracked"


_PROGRAMS: dict[str, _Names] = {
    "torchvision": _Names(
        "post",
        "layer1.0.conv1.weight",
        {
            "stem.conv": "conv1",
            "stem.act.norm": "bn1",
            "branches.0.conv{i}": "layer{stage}.{step}.conv{i}",
            "branches.0.norm{i}": "layer{stage}.{step}.bn{i}",
            "shortcuts.0.conv": "layer{stage}.{step}.downsample.0",
            "shortcuts.0.norm": "layer{stage}.{step}.downsample.1",
            "head": "fc",
        },
    ),
    "resnetv2": _Names(
        "pre",
        "stages.0.blocks.0.conv1.weight",
        {
            "stem.conv": "stem.conv",
            "branches.0.act{i}.norm": "stages.{stage0}.blocks.{step}.norm{i}",
            "branches.0.conv{i}": "stages.{stage0}.blocks.{step}.conv{i}",
            "shortcuts.0.act.norm": "stages.{stage0}.blocks.{step}.norm1",  # one for both
            "shortcuts.0.conv": "stages.{stage0}.blocks.{step}.downsample.conv",
            "activation.norm": "norm",
            "head": "head.fc",
        },
    ),
    "lm_resnet": _Names(
        "pre",
        "blocks.0.conv1.weight",
        {
            "stem.conv": "conv1",
            "branches.0.act{i}.norm": "blocks.{block}.bn{i}",
            "branches.0.conv{i}": "blocks.{block}.conv{i}",
            "shortcuts.0.act.norm": "downsample{change}.downsample.0",
            "shortcuts.0.conv": "downsample{change}.downsample.2",
            "coefficients": "ks",
            "activation.norm": "bn",
            "head": "fc",
        },
        # Its networks have a normalization and, with basic blocks, a shortcut that they do not call; and a k for the
        # first step of a stage, which is one of Euler.
        r".*\.num_batches_tracked|bn1\..*|downsample1\..*|ks\..*",
    ),
}
_VARIABLES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_STEP = re.compile(r"stages\.(\d+)\.(entry|steps\.item)\.")
_NUMBERED = re.compile(r"(conv|act|norm)(\d)")
_FROM_WEIGHTS = ("classes", "cin", "placement", "normalization")


def from_torch(weights: str | os.PathLike[str] | Mapping[str, Any], name: str, **options: Any) -> nnx.Module:
    """A network with the weights of one of PyTorch: `from_torch("resnet50.pth", "resnet50")`.

    Takes those of torchvision's and timm's ResNets and ResNeXts (post-activated), of timm's resnetv2 with batch
    normalization (pre-activated), and of the LM-ResNets of the code of Lu et al. (2018). The names of the weights say
    which. In evaluation mode the logits are the same, to rounding, for images that are normalized in the same way,
    unless `options` have another scheme, activation, shortcut or stride.

    In a resnetv2, one normalization serves the branch and the shortcut where the shape changes; here each has its own,
    which begins as a copy: logits are equal, but training moves the two apart.

    Args:
        weights: a .safetensors file; one that torch.save has written, such as .pth, which needs torch; or the
            state_dict itself, of tensors or of NumPy arrays.
        name: of the network, as of `create`: "resnet50", "resnext50_32x4d"; "resnet20" for MResNet20.
        **options: see `Options`; not the classes, the channels of the images, and the placement of normalization and
            activation, which follow from the weights. LM-ResNets need a stepper: "lm", "lm(per_channel=True)" for
            MResNetC, or "euler" if they were trained with pretrain=True; their k is 1 - k here.

    Returns:
        The network, in training mode, like any other.

    Raises:
        InputError: if the file cannot be read, or if the weights are not those of the network: what is missing, what
            is left over, and what has another shape.
    """
    if given := [key for key in _FROM_WEIGHTS if key in options]:
        raise InputError(f"from_torch: {', '.join(given)}: follows from the weights: leave it out")
    if not isinstance(get(name), Architecture):
        raise InputError(f"from_torch: takes ResNets and ResNeXts, not {name}")
    arrays = _arrays(weights)
    source = str(weights) if isinstance(weights, (str, os.PathLike)) else "weights"
    names = next((names for names in _PROGRAMS.values() if names.first in arrays), None)
    if names is None:
        known = ", ".join(f"{names.first} ({program})" for program, names in _PROGRAMS.items())
        raise InputError(f"{source}: has none of {known}, but {few(list(arrays))}: is no ResNet that can be read")
    if "ks.0" in arrays and "stepper" not in options:
        raise InputError(
            f"{source}: has k of an LM-ResNet (ks): give stepper='lm', or 'euler' if it was trained with pretrain=True"
        )
    sizes = {
        "classes": _size(arrays, f"{names.modules['head']}.weight", 0),
        "cin": _size(arrays, f"{names.modules['stem.conv']}.weight", 1),
    }
    options = sizes | {"placement": names.placement} | options
    try:
        network = nnx.eval_shape(lambda: create(name, rngs=nnx.Rngs(0), **options))
    except InputError as error:
        raise InputError(f"{source}: are weights of a ResNet, which do not fit {name}: {error}") from error
    variables = dict(_variables(network, names))
    wanted = {torch: _as_torch(path, x, names).shape for path, steps in variables.items() for torch, x in steps}
    _require_same(wanted, arrays, names, f"{source}: the weights are not those of {name}")

    def value(path, x):
        dotted = keystr(path, simple=True, separator=".")
        steps = [_from_torch(dotted, arrays[torch]).reshape(one.shape) for torch, one in variables[dotted]]
        return jnp.asarray(np.stack(steps).reshape(x.shape), x.dtype)

    graph, state = nnx.split(network)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, nnx.to_pure_dict(state)))


def to_torch(network: nnx.Module, program: Program = "torchvision") -> dict[str, np.ndarray]:
    """The state_dict of a network, as NumPy arrays: the reverse of `from_torch`.

    The buffers num_batches_tracked are not in it, which load_state_dict does not miss.

    Args:
        network: a ResNet or ResNeXt of Euler's steps, or LM's for lm_resnet, with batch normalization, ReLU, and the
            shortcut projection.
        program: whose names it gets: "torchvision" for post-activated networks, which timm takes, too; "resnetv2"
            (timm) or "lm_resnet" (the code of Lu et al.) for pre-activated ones. What the latter has and does not use
            is not in it: load it with strict=False.

    Raises:
        InputError: if the program has no such scheme or part, or no name for a variable, or, for a resnetv2, the
            two normalizations of a first step have been trained and differ.
    """
    if program not in _PROGRAMS:
        raise unknown("program of to_torch", str(program), _PROGRAMS)
    found, names = {}, _PROGRAMS[program]
    _require_same_function(network, program)
    for path, steps in _variables(network, names):
        for torch, x in steps:
            value = np.array(_as_torch(path, x, names))
            if torch in found and not np.array_equal(found[torch], value):
                raise InputError(
                    f"to_torch: {program} has one {torch} for the branch and the shortcut, which differ here"
                )
            found[torch] = value
    return found


def _require_same_function(network: nnx.Module, program: Program) -> None:
    """Raise InputError for a network with the variables of a program's, which computes something else from them."""
    schemes = ("euler", "lm", "lm_per_channel") if program == "lm_resnet" else ("euler",)
    if isinstance(network, Network) and network.stepper.name not in schemes:
        others = " or lm" if len(schemes) > 1 else ""
        raise InputError(f"to_torch: networks of {program} take steps of euler{others}, not of {network.stepper.name}")
    for _, module in nnx.iter_graph(network):
        if isinstance(module, (Activation, Convolutions)) and module.function is not relu:
            raise InputError(f"to_torch: networks of {program} have the activation relu")
        if isinstance(module, Entry) and any(type(shortcut) is not Projection for shortcut in module.shortcuts):
            raise InputError(f"to_torch: networks of {program} have the shortcut projection")
        if isinstance(module, Convolutions) and module.layers == 3 and vars(module)["conv1"].strides not in (1, (1, 1)):
            raise InputError(f"to_torch: bottlenecks of {program} have their stride in the 3x3 convolution")


def _variables(network: nnx.Module, names: _Names) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Each variable by its dotted path, as its name in PyTorch and its value for each step that it has.

    The values of a network of shapes alone are zeros that take no memory.
    """
    if not isinstance(network, Network):
        raise InputError(f"to_torch: takes ResNets and ResNeXts, not {type(network).__name__}")
    others = (nnx.GroupNorm, nnx.LayerNorm, nnx.RMSNorm)
    if any(isinstance(module, others) for _, module in nnx.iter_graph(network)):
        raise InputError("weights of PyTorch: takes networks with batch normalization alone")
    depths = [stage.depth for stage in network.stages]
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(network))):
        dotted = keystr(path, simple=True, separator=".")
        values = np.broadcast_to(np.float32(0), x.shape) if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x)
        inside = _STEP.match(dotted)
        if inside is None:
            yield dotted, [(_name(dotted, names), values)]
            continue
        stage, entry = int(inside[1]), inside[2] == "entry"
        first, values = (0, values[None]) if entry else (depths[stage] - len(values), values)
        where = {"stage": stage + 1, "stage0": stage, "change": f"{stage + 1}1" if stage else "1"}
        yield (
            dotted,
            [
                (_name(dotted[inside.end() :], names, **where, step=n, block=sum(depths[:stage]) + n), one)
                for n, one in enumerate(values, start=first)
            ],
        )


def _name(path: str, names: _Names, **where: Any) -> str:
    """The name in PyTorch of a variable."""
    module, _, variable = path.rpartition(".")
    number = _NUMBERED.search(module)
    key = _NUMBERED.sub(r"\1{i}", module)
    if key not in names.modules or (key != "coefficients" and variable not in _VARIABLES):
        raise InputError(
            f"weights of PyTorch: {path} has no counterpart: takes post-activated ResNets as torchvision, "
            "pre-activated ones as resnetv2 or lm_resnet, with one branch a step, and coefficients of lm_resnet alone"
        )
    end = where["block"] if key == "coefficients" else _VARIABLES[variable]
    return f"{names.modules[key].format(i=number and number[2], **where)}.{end}"


def _as_torch(path: str, x: np.ndarray, names: _Names) -> np.ndarray:
    if ".coefficients." in path:
        return (1 - x).reshape((*x.shape, 1, 1) if x.ndim else 1)
    if x.ndim == 4:
        return x.transpose(3, 2, 0, 1)
    if x.ndim == 2:
        return x.T if names is not _PROGRAMS["resnetv2"] else x.T[:, :, None, None]
    return x


def _from_torch(path: str, x: np.ndarray) -> np.ndarray:
    """The reverse of `_as_torch`, but for axes of length 1."""
    if ".coefficients." in path:
        return 1 - x
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def _require_same(wanted: dict[str, tuple[int, ...]], arrays: dict[str, np.ndarray], names: _Names, what: str) -> None:
    missing = [name for name in wanted if name not in arrays]
    more = [name for name in arrays if name not in wanted and not re.fullmatch(names.unused, name)]
    shapes = [
        f"{name} is {arrays[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name].shape != shape
    ]
    lists = {"missing": missing, "unexpected": more, "of another shape": shapes}
    if any(lists.values()):
        raise InputError(f"{what}: {'; '.join(f'{kind}: {few(each)}' for kind, each in lists.items() if each)}")


def _size(arrays: dict[str, np.ndarray], name: str, axis: int) -> int:
    """The length of an axis, or 1 if there is none: that is reported with all else that is missing."""
    shape = arrays[name].shape if name in arrays else ()
    return shape[axis] if len(shape) > axis else 1


def _arrays(weights: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file or a state_dict by name, also of one inside of a checkpoint, or of `DataParallel`."""
    found = _read(files.local(Path(weights), "from_torch:")) if isinstance(weights, (str, os.PathLike)) else weights
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise InputError(f"from_torch: needs a state_dict, as model.state_dict() gives it, got {type(found).__name__}")
    return {str(name).removeprefix("module."): _numpy(x) for name, x in found.items()}


def _numpy(x: Any) -> np.ndarray:
    return x.detach().cpu().float().numpy() if hasattr(x, "detach") else np.asarray(x)


def _read(path: Path) -> Any:
    """The content of a .safetensors file, or of one that torch.save has written."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        load, hint = optional_import("safetensors.numpy", package="safetensors", purpose=f"{path}: it").load_file, ""
    else:
        torch = optional_import("torch", package="torch", purpose=f"{path}: it")
        # The pickle of a whole model is a program, and is not run.
        load = lambda path: torch.load(path, map_location="cpu", weights_only=True)  # noqa: E731
        hint = "; of a network, save its state_dict()"
    try:
        return load(path)
    except Exception as error:  # of many kinds, if the file is damaged
        why = reason(error) if not hint or isinstance(error, OSError) else "it is damaged, or holds more than arrays"
        raise InputError(f"{path}: cannot be read ({why}){hint}") from error
