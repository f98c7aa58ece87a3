"""FLOPs of the products in a kernel, and the names of kernels that are not part of XLA."""

import math

from transformer.planning.hlo import Instruction, Program

RAN = dict.fromkeys(("attention_forward", "attention_backward", "attention_backward_query"), "NVIDIA H200, 2026-11-28")
"""Pallas kernels that have run on a card, each with the card and the date."""

# Products of the queries' by the keys' number that a kernel of `ops.attention_gpu` computes, by the kernel's name and
# the number of its results. The scores are computed again in each backward kernel, and the gradient of the weights too.
PALLAS = {
    ("attention_forward", 2): 2,
    ("attention_backward", 3): 5,  # all gradients, if the queries and the keys are one block each
    ("attention_backward", 2): 4,  # of keys and values
    ("attention_backward_query", 1): 3,
}
CUDNN = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}


def kernel_name(instruction: Instruction) -> str:
    """The name of a Pallas kernel or of an attention of cuDNN, or an empty string for any other instruction."""
    target = _target(instruction)
    if "triton" in target or "mosaic" in target:
        return instruction.find(r'op_name="(?:[^"]*/)?([^"/]+)/pallas_call') or "a kernel without a name"
    return target.removeprefix("__") if "$fmha" in target else ""


def never_run(program: Program) -> list[str]:
    """Names of the Pallas kernels of a program that have not run on a card."""
    names = {kernel_name(instruction) for body in program.computations.values() for instruction in body}
    return sorted(name for name in names - {""} - RAN.keys() if not name.startswith("cudnn"))


def flops(program: Program, instruction: Instruction, operands: list[Instruction]) -> float:
    """FLOPs of all products that one launch of a kernel computes. A multiply-add is two FLOPs.

    Attention counts every query and key, although a causal kernel skips up to half of them. A Pallas kernel that is not
    one of ours counts as no products.

    Args:
        program: The program that the instruction belongs to.
        instruction: A fusion or a custom call.
        operands: The instructions whose results it reads.
    """
    if instruction.opcode == "fusion":
        return _in_fusion(program, instruction.calls[0])
    target = _target(instruction)
    if "matmul" in target or "gemm" in target:
        contracted = int(instruction.find(r'"lhs_contracting_dimensions":\["?(\d+)') or -1)
        return 2.0 * math.prod(instruction.results[0].shape) * operands[0].results[0].shape[contracted]
    products = CUDNN.get(target) or PALLAS.get((kernel_name(instruction), len(instruction.results)), 0)
    if not products:
        return 0.0
    batch, queries, heads, size = operands[0].results[0].shape
    return 2.0 * products * batch * heads * queries * operands[1].results[0].shape[1] * size


def _target(instruction: Instruction) -> str:
    return instruction.find(r'custom_call_target="([^"]*)"') if instruction.opcode == "custom-call" else ""


def _in_fusion(program: Program, computation: str) -> float:
    """FLOPs of a fused computation, which may be a Triton product, or a product of a library with its slices."""
    body, found = {i.name: i for i in program.computations[computation]}, 0.0
    for instruction in body.values():
        if instruction.opcode in ("fusion", "custom-call"):
            found += flops(program, instruction, [body[name] for name in instruction.operands])
        elif instruction.opcode == "dot":
            left = body[instruction.operands[0]].results[0].shape
            axes = instruction.find(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
            contracted = math.prod(left[int(axis)] for axis in axes if axis)
            found += 2.0 * math.prod(instruction.results[0].shape) * contracted
    return found
