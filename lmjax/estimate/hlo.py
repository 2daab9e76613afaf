"""XLA's text of a compiled program, read: computations, instructions, and how often each is executed.

The form is that of `jax.stages.Compiled.as_text()` on GPUs and TPUs: scheduled, one line an instruction.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # others end in their number of bits
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\-0-9]*)\((.*)$")
_PICKS = ("slice", "dynamic-slice", "gather", "dynamic-update-slice")  # of their first operand, a part is read
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)"
)


class Array(NamedTuple):
    """The type of an array: "bf16" and its lengths."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size in bytes, without padding."""
        found = re.match(r"[a-z]+(\d+)", self.dtype)
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(found[1]) if found else 8
        return -(-math.prod(self.shape) * bits // 8)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name, opcode: such as "loop_add_fusion.34" and "fusion".
        outputs: one array, or those of a tuple.
        operands: names; of a parameter its number, of a constant its value.
        rest: the text behind the operands.
        root: what the computation gives.
    """

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the computations that it calls."""
        found = _CALLED.findall(self.rest)
        return tuple(name.strip(" %") for names in found for name in names.split(",") if name.strip(" %"))

    @property
    def target(self) -> str:
        """The name of what a custom call calls; "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def config(self) -> dict[str, Any]:
        """The notes of the backend, such as its estimate of cycles; {} if there are none."""
        at = self.rest.find("backend_config={")
        if at < 0:
            return {}
        try:
            return json.JSONDecoder().raw_decode(self.rest[at + len("backend_config=") :])[0]
        except ValueError:
            return {}


class Module:
    """A compiled program.

    Args:
        text: from `jax.stages.Compiled.as_text()`.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif found := _LINE.match(line):
                inside, rest = _split(found[4])
                outputs = tuple(
                    Array(dtype, tuple(map(int, filter(None, shape.split(",")))))
                    for dtype, shape in _ARRAY.findall(found[2])
                )
                literal = found[3] in ("parameter", "constant")
                operands = (inside,) if literal else tuple(re.findall(r"%([\w.\-]+)", inside))
                current[found[1]] = Instruction(
                    found[1], found[3], outputs, operands, rest, line.lstrip().startswith("ROOT ")
                )

    def executed(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """The instructions that are executed one by one, each with its computation and how often: loops are unfolded.

        What is inside of a fusion is no step of its own. Of branches each counts once.
        """
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        computation = self.computations[name]
        for instruction in computation.values():
            if instruction.opcode in ("while", "conditional", "call", "async-start"):
                trips = self._trips(instruction) if instruction.opcode == "while" else 1
                for called in instruction.called:
                    if called in self.computations:
                        yield from self._executed(called, times * trips)
            else:
                yield instruction, computation, times

    def _trips(self, loop: Instruction) -> int:
        """Find the number of times that the body of a loop is executed: as noted, or by n < constant; else 1."""
        if noted := loop.config.get("known_trip_count", {}).get("n"):
            return int(noted)
        name = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        condition = self.computations.get(name[1], {}) if name else {}
        root = next((x for x in condition.values() if x.root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return 1
        limit = condition.get(root.operands[1])
        return int(limit.operands[0]) if limit is not None and limit.opcode == "constant" else 1

    @functools.cached_property
    def _convolving(self) -> dict[str, int]:
        return {
            name: sum(x.opcode == "convolution" for x in computation.values())
            for name, computation in self.computations.items()
        }

    def convolutions(self, instruction: Instruction) -> int:
        """The number of convolutions in an instruction that is executed."""
        if instruction.opcode == "custom-call":
            return int("cudnn$conv" in instruction.target)
        inside = sum(self._convolving.get(name, 0) for name in instruction.called)
        return int(instruction.opcode == "convolution") + inside

    def traffic(self, instruction: Instruction, computation: dict[str, Instruction]) -> int:
        """The bytes that an instruction reads and writes; of what it picks from, or updates in place, that part."""
        written = sum(x.bytes for x in instruction.outputs)
        read = 0
        inside = self.computations.get(instruction.called[0]) if instruction.opcode == "fusion" else None
        parameters = _parameters(inside) if inside else {}
        for number, name in enumerate(instruction.operands):
            source = computation.get(name)
            whole = sum(x.bytes for x in source.outputs) if source else 0
            read += min(whole, _picked(inside, parameters.get(number), whole)) if inside else whole
        if inside:
            root = next(x for x in inside.values() if x.root)
            if root.opcode == "dynamic-update-slice":
                update = inside.get(root.operands[1])
                written = 2 * sum(x.bytes for x in update.outputs) if update else written
        elif instruction.opcode in ("dynamic-slice", "gather"):
            read = written
        return read + written


def _split(text: str) -> tuple[str, str]:
    """Split a text at the end of the parentheses that are open at its beginning."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:i], text[i + 1 :]
    return text, ""


def _parameters(computation: dict[str, Instruction]) -> dict[int, str]:
    return {int(x.operands[0]): x.name for x in computation.values() if x.opcode == "parameter"}


def _picked(computation: dict[str, Instruction], name: str | None, whole: int) -> int:
    """The bytes of one parameter that a fusion reads, under this name or reshaped."""
    users = [x for x in computation.values() if name in x.operands]
    if not users:
        return whole
    read = 0
    for user in users:
        if user.opcode == "bitcast":
            read += _picked(computation, user.name, whole)
        elif user.opcode in _PICKS and user.operands[0] == name:
            read += sum(x.bytes for x in user.outputs) if user.opcode != "dynamic-update-slice" else 0
        else:
            return whole
    return read
