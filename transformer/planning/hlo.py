"""Optimized HLO, parsed from the text of a compiled program."""

import math
import re
from typing import NamedTuple

BYTES = {
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}

_ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]")
_HEAD = re.compile(r"(ENTRY )?%(\S+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (\(.*?\)(?= [a-z])|\S+) ([a-z][a-z0-9\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"\b(?:calls|to_apply|body|called_computations|branch_computations|true_computation|false_computation)"
    r"=\{?((?:%[\w.\-]+(?:, )?)+)"
)


class Array(NamedTuple):
    """The type of one array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The array's size in memory."""
        return BYTES[self.dtype] * math.prod(self.shape)


class Instruction(NamedTuple):
    """One instruction of a computation. It has several results if its type is a tuple."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    line: str

    @property
    def bytes(self) -> int:
        """The size of all results in memory, in bytes."""
        return sum(array.bytes for array in self.results)

    @property
    def calls(self) -> list[str]:
        """Names of the computations that the instruction runs, without conditions."""
        return [name for group in _CALLS.findall(self.line) for name in _NAME.findall(group)]

    def find(self, pattern: str) -> str:
        """The first group of a pattern in the instruction's line, or an empty string."""
        found = re.search(pattern, self.line)
        return found[1] if found else ""


class Program(NamedTuple):
    """The computations of a program by name, and the name of the one that runs."""

    computations: dict[str, list[Instruction]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often the body of a loop runs, or None if the program does not say.

        XLA annotates loops with the number for a GPU, but not for a TPU. There it is read from the condition, because
        jax counts its scans from 0 up to a constant.
        """
        if known := loop.find(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.find(r"condition=%([\w.\-]+)")]
        constants = {i.name: i.find(r"constant\((\d+)\)") for i in condition if i.opcode == "constant"}
        comparison = condition[-1]
        if comparison.find("direction=(LT)") and (bound := constants.get(comparison.operands[-1])):
            return int(bound)
        return None

    def runs(self, instruction: Instruction) -> int:
        """How often an instruction runs its computations. An unknown number is 1."""
        trips = self.trips(instruction) if instruction.opcode == "while" else None
        return 1 if trips is None else trips


def parse(text: str) -> Program:
    """Parses the text of a program as `compiled.as_text()` returns it.

    Raises: ValueError if the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    entry = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            name, kind, opcode, rest = found.groups()
            operands = tuple(_NAME.findall(rest.split("), ")[0]))
            current.append(Instruction(name, opcode, _arrays(kind), operands, line))
    if entry is None:
        raise ValueError("This is not an HLO program, as compiled.py --save writes it: it has no ENTRY computation.")
    return Program(computations, entry)


def _arrays(kind: str) -> tuple[Array, ...]:
    return tuple(Array(dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in _ARRAY.findall(kind))
