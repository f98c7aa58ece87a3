"""Estimates of how long a program would run on an H100, from its optimized HLO.

Each kernel costs max(bytes / bandwidth, FLOPs / peak) plus a launch, and the body of a loop counts as often as it runs.
A fusion that slices a large operand, or writes a slice into one, is charged for the slice only.

The estimate ignores overlap and the links between cards. Collectives are charged only for their bytes in memory, and
every kernel as if it were as fast as memory and the peak allow (`products.py` counts the FLOPs). For three programs of
this project without kernels of its own, the estimate was 11 to 14 % below the time measured on an H100.
"""

import functools
import operator
from collections import Counter
from typing import NamedTuple

from transformer.planning.hlo import Instruction, Program
from transformer.planning.products import flops, kernel_name

BANDWIDTH = 0.9 * 3.35e12  # bytes/s, of which 0.9 is the share that a plain copy reaches
PEAK = 793e12  # bfloat16 FLOP/s, measured for a product of two 8192 x 8192 matrices
LAUNCH = 2e-6  # seconds per kernel

KERNELS = {
    "concatenate",
    "convert",
    "copy",
    "custom-call",
    "dynamic-slice",
    "dynamic-update-slice",
    "fusion",
    "gather",
    "reduce",
    "reduce-window",
    "scatter",
    "select-and-scatter",
    "sort",
    "transpose",
}
# In the targets of custom calls that launch kernels.
KERNEL_LIBRARIES = ("matmul", "gemm", "cudnn", "triton", "mosaic", "cub")
WORKSPACES = ("s8", "u8")  # a result of one axis of this type is memory for the products of a library
COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}


class Kernel(NamedTuple):
    """One kernel of a program. Seconds, bytes and FLOPs are sums over its launches."""

    seconds: float
    bytes: int
    flops: float
    launches: int
    opcode: str
    name: str
    origin: str
    """The operation of the model that it computes, from the metadata."""


def collectives(program: Program, computation: str | None = None) -> Counter[str]:
    """Counts the collectives that one run of a program, or of a computation, starts.

    Loops, calls and fusions are followed. For a conditional, each kind counts as in the branch with most of them. A
    loop of unknown length counts once.
    """
    counts = Counter[str]()
    for instruction in program.computations[computation or program.entry]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            counts[kind] += 1
        elif not kind.endswith(("-done", "-update")):  # these name the computation of their start again
            called = [collectives(program, name) for name in instruction.calls]
            once = functools.reduce(operator.or_ if kind == "conditional" else operator.add, called, Counter[str]())
            counts += Counter({name: program.runs(instruction) * count for name, count in once.items()})
    return counts


def kernels(program: Program, computation: str | None = None, times: int = 1) -> list[Kernel]:
    """Lists the kernels of a program, or of a computation that runs `times` times.

    Loops and calls are followed. A conditional counts with its slowest branch, and a loop of unknown length runs once.
    """
    found: list[Kernel] = []
    results: dict[str, Instruction] = {}
    for instruction in program.computations[computation or program.entry]:
        results[instruction.name] = instruction
        opcode = instruction.opcode
        if opcode in ("while", "call", "conditional"):
            called = [kernels(program, name, times * program.runs(instruction)) for name in instruction.calls]
            found += max(called, key=lambda branch: total(branch).seconds, default=[])
        elif opcode in KERNELS or opcode.removesuffix("-start") in COLLECTIVES:
            operands = [results[name] for name in instruction.operands if name in results]
            if (cost := _cost(program, instruction, operands)) is not None:
                moved, products = cost
                seconds = max(moved / BANDWIDTH, products / PEAK) + LAUNCH
                totals = times * seconds, times * moved, times * products, times
                kind = kernel_name(instruction) or ("product" if products else opcode)
                found.append(Kernel(*totals, kind, instruction.name, _origin(program, instruction)))
    return found


def total(group: list[Kernel]) -> Kernel:
    """The sums over several kernels, with the opcode of the first one."""
    seconds, launches = sum(kernel.seconds for kernel in group), sum(kernel.launches for kernel in group)
    moved, flops = sum(kernel.bytes for kernel in group), sum(kernel.flops for kernel in group)
    return Kernel(seconds, moved, flops, launches, group[0].opcode if group else "", "", "")


def _origin(program: Program, instruction: Instruction) -> str:
    """The operation in a kernel's metadata. A library's product that is fused with its slices has it inside."""
    fused = program.computations[instruction.calls[0]] if instruction.opcode == "fusion" else []
    products = [inner for inner in fused if inner.opcode in ("custom-call", "dot")]
    return next(filter(None, (each.find(r'op_name="([^"]+)"') for each in (instruction, *products))), "")


def _cost(program: Program, instruction: Instruction, operands: list[Instruction]) -> tuple[int, float] | None:
    """The bytes and FLOPs of one launch, or None if a custom call launches no kernel."""
    results = instruction.bytes
    if instruction.opcode == "custom-call" or "kind=kCustom" in instruction.line:
        results -= sum(
            array.bytes for array in instruction.results if array.dtype in WORKSPACES and len(array.shape) == 1
        )
    if instruction.opcode == "fusion":
        moved = fusion_bytes(program.computations[instruction.calls[0]], operands, results)
        return moved, flops(program, instruction, operands)
    products = 0.0
    if instruction.opcode == "custom-call":
        target = instruction.find(r'custom_call_target="([^"]*)"')
        if not any(library in target for library in KERNEL_LIBRARIES):
            return None
        products = flops(program, instruction, operands)
    return sum(operand.bytes for operand in operands) + results, products


def fusion_bytes(body: list[Instruction], operands: list[Instruction], results: int) -> int:
    """The number of bytes that a fusion moves.

    For an operand that is only sliced, the slices count, at most as much as the operand. A result that updates a slice
    of an operand is written in place, so only the update counts.

    Args:
        body: The fused computation.
        operands: The instructions whose results the fusion reads.
        results: Size of the fusion's results in bytes.
    """
    fused = {instruction.name: instruction for instruction in body}
    parameters = {i.name: int(i.find(r"parameter\((\d+)\)")) for i in body if i.opcode == "parameter"}
    read = dict.fromkeys(parameters.values(), 0)
    written = results
    for instruction in body:
        first = instruction.operands[0] if instruction.operands else ""
        if instruction.opcode in ("bitcast", "copy", "reshape") and first in parameters:
            parameters[instruction.name] = parameters[first]  # another name of the parameter
            continue
        for index, name in enumerate(instruction.operands):
            if name not in parameters:
                continue
            number = parameters[name]
            whole = operands[number].bytes if number < len(operands) else 0
            moved = whole
            if index == 0 and instruction.opcode in ("slice", "dynamic-slice", "gather"):
                moved = instruction.bytes
            elif index == 0 and instruction.opcode == "dynamic-update-slice":
                written += fused[instruction.operands[1]].bytes - instruction.bytes
                moved = 0
            read[number] = min(read[number] + moved, whole)
    return sum(read.values()) + max(written, 0)
