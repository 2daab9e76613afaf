"""The content of a compiled program: kernels, traffic, feature maps, collectives, and what XLA estimates."""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from lmjax.estimate.hlo import Instruction, Module

# Executed without a kernel: names for arrays, and ends of what was started before.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency",
    "partition-id", "replica-id", "copy-done", "async-done", "async-update", "domain",
}  # fmt: skip
_COLLECTIVES = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$")
_UNKNOWN = 2**62  # cycles from here on stand for "not known"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of one program on one device, for one step of training or one batch of an evaluation.

    Attributes:
        kernels: launches.
        traffic: bytes that these read and write.
        convolutions: by the type of their result: {"bf16": 62}.
        wide_maps: feature maps that are written in float32 where the network computes in bfloat16.
        moved_maps: copies and transpositions of feature maps that are kernels of their own.
        collectives: by kind, how many and the bytes of their results: {"all-reduce": (39, 1234)}.
        cycles: XLA's estimate by kind of kernel; {} where it makes none.
        memory: bytes on a device, of the arguments, results, what is in between, and the donated.
    """

    kernels: float
    traffic: float
    convolutions: dict[str, float]
    wide_maps: float
    moved_maps: float
    collectives: dict[str, tuple[float, float]]
    cycles: dict[str, float]
    memory: dict[str, int]


def summarize(
    compiled: jax.stages.Compiled, *, batch: int, steps: int, bfloat16: bool, size: tuple[int, int]
) -> Summary:
    """Read what a compiled program is made of.

    Args:
        compiled: for a GPU or a TPU.
        batch: images on one device in a step.
        steps: that the program makes; all figures but the memory are of one.
        bfloat16: the network computes in it.
        size: height and width of the images; feature maps have these, or are smaller by a power of 2.
    """
    module = Module(compiled.as_text() or "")
    sizes = [(-(-size[0] // 2**k), -(-size[1] // 2**k)) for k in range(8)]
    kernels = traffic = wide = moved = 0
    convolutions, collectives, cycles = collections.Counter(), {}, collections.Counter()
    for instruction, computation, times in module.executed():
        if instruction.opcode in _FREE:
            continue
        if kind := _COLLECTIVES.match(instruction.opcode):
            count, moved_bytes = collectives.get(kind[1], (0, 0))
            collectives[kind[1]] = count + times, moved_bytes + times * _results(instruction, computation)
            continue
        kernels += times
        traffic += times * module.traffic(instruction, computation)
        if count := module.convolutions(instruction):
            convolutions[instruction.outputs[0].dtype] += times * count
        maps = [x for x in instruction.outputs if any(_is_map(x.shape, batch, *size) for size in sizes)]
        if bfloat16:
            wide += times * sum(x.dtype == "f32" for x in maps)
        if maps and _only_moves(module, instruction):
            moved += times
        if (estimate := int(instruction.config.get("window_config", {}).get("estimated_cycles", 0))) < _UNKNOWN:
            cycles[_kind(module, instruction)] += times * estimate
    memory: Any = compiled.memory_analysis()
    return Summary(
        kernels / steps, traffic / steps, {key: x / steps for key, x in convolutions.items()}, wide / steps,
        moved / steps,
        {key: (count / steps, size / steps) for key, (count, size) in collectives.items()},
        {key: x / steps for key, x in cycles.most_common() if x},
        {
            "arguments": memory.argument_size_in_bytes, "results": memory.output_size_in_bytes,
            "between": memory.temp_size_in_bytes, "donated": memory.alias_size_in_bytes,
        },
    )  # fmt: skip


def _results(collective: Instruction, computation: dict[str, Instruction]) -> int:
    """The bytes of what a collective gives; what is started gives its operands, too, except for an all-reduce."""
    given = sum(x.bytes for x in collective.outputs)
    if not collective.opcode.endswith("-start") or collective.opcode == "all-reduce-start":
        return given
    return given - sum(x.bytes for name in collective.operands for x in computation[name].outputs)


def _is_map(shape: Sequence[int], *lengths: int) -> bool:
    """True if there is an axis of each of these lengths, above 1, in any order, and channels besides."""
    missing = collections.Counter(n for n in lengths if n > 1) - collections.Counter(shape)
    return not missing and max(lengths[1:]) > 1 and math.prod(shape) > math.prod(lengths)


def _kind(module: Module, instruction: Instruction) -> str:
    if module.convolutions(instruction):
        return "convolutions"
    opcodes = {x.opcode for name in instruction.called for x in module.computations.get(name, {}).values()}
    if "reduce" in opcodes | {instruction.opcode}:
        return "reductions"
    if "gather" in opcodes or "dynamic-slice" in opcodes:
        return "gathers"
    return "copies" if _only_moves(module, instruction) else "elementwise"


def _only_moves(module: Module, instruction: Instruction) -> bool:
    """True for a copy, and for a fusion that only transposes, pads or copies."""
    moving = {"copy", "copy-start", "transpose", "bitcast", "reshape", "parameter", "slice"}
    if instruction.opcode in ("copy", "transpose", "copy-start"):
        return True
    inside = [x.opcode for name in instruction.called for x in module.computations.get(name, {}).values()]
    return instruction.opcode == "fusion" and set(inside) <= moving and bool({"copy", "transpose"} & set(inside))
