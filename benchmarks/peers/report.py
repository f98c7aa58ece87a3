"""The result of `benchmarks/training.py` as tables in Markdown."""

import statistics
from typing import Any

TITLES = {
    "ours": "transformer-jax",
    "plain_linen": "plain linen + optax",
    "torch_transformer": "torch.nn.Transformer",
    "torch_transformer:dynamic": "torch.nn.Transformer, compiled",
    "torch_transformer:static": "torch.nn.Transformer, compiled for each shape",
    "x_transformers_peer": "x-transformers",
    "x_transformers_peer:dynamic": "x-transformers, compiled",
    "marian": "Hugging Face Marian",
    "marian:dynamic": "Hugging Face Marian, compiled",
    "joeynmt_peer": "Joey NMT",
    "without:transposes": "transformer-jax, transposes left to XLA",
    "without:products": "transformer-jax, products' gradients by automatic differentiation",
    "without:norm": "transformer-jax, layer norm's gradient by automatic differentiation",
    "without:hash": "transformer-jax, dropout by jax.random",
    "without:chunks": "transformer-jax, all logits at once",
    "without:everything": "transformer-jax, model.implementation=plain",
}
PAPER_STEPS = {"base": 100_000, "big": 300_000}  # section 5.2
# Dense bfloat16 FLOPs a second without sparsity, from the makers' data sheets, by a part of the device's name.
# The first name that is found counts; of a part of a device (MIG) there is none.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def table(name: str, setting: str, part: dict[str, Any], result: dict[str, Any]) -> str:
    """One part, programs by speed, and what is to be known beside it."""
    steps, dtype, data = result["steps"], result["dtype"], part["data"]
    tokens, flops = (per_turn(data[key], steps) for key in ("tokens", "flops"))
    runs = {program: run for program, run in part["programs"].items() if "failed" not in run}
    seconds = {program: [turn["seconds"] for turn in run["turns"]] for program, run in runs.items()}
    speeds = {program: divide(tokens, times) for program, times in seconds.items()}
    limits = limit_of_turns(part["limit"], dtype, result["machine"]["device"], len(tokens))
    peak = peak_of(result["machine"]["device"], dtype)
    of_what = "share of the limit" if peak is None else "model FLOP utilization"
    how = "each program as it starts by itself" if setting == "alone" else "the same allocator settings for all"
    lines = [
        f"**{name}**, {dtype}, {setting}: {how}",
        "",
        f"| program | tokens/s (quartiles) | ours is faster by | {of_what} | peak memory | first step | warm "
        "| parameters | computes in |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for program in sorted(speeds, key=lambda program: -statistics.median(speeds[program])):
        run, last = runs[program], runs[program]["turns"][-1]
        low, middle, high = quartiles(speeds[program])
        faster = share = "-"
        if "ours" in speeds:
            faster = f"{statistics.median(divide(speeds['ours'], speeds[program])):.2f}"
        if limits is not None:
            share = f"{statistics.median(divide(divide(flops, seconds[program]), limits)):.0%}"
        memory = last["peak_bytes"] if last["device_bytes"] is None else last["device_bytes"]
        cells = (
            TITLES[program],
            f"{middle:,.0f} ({low:,.0f} to {high:,.0f})",
            faster,
            share,
            f"{memory / 2**30:.2f} GiB",
            f"{run['first_step_seconds']:.1f} s",
            f"{run['warm_seconds']:.1f} s",
            f"{run['parameters']:,}",
            run["note"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    failed = {program: run["failed"] for program, run in part["programs"].items() if "failed" in run}
    lines += [f"| {TITLES[program]} | not measured: {why} |{' |' * 7}" for program, why in failed.items()]
    lines += ["", *remarks(part)]
    if peak is not None and "ours" in seconds:
        measured = limit_of_turns(part["limit"], dtype, "", len(tokens))
        own = (
            ""
            if measured is None
            else (
                f" Of the measured matmul limit ours reaches "
                f"{statistics.median(divide(divide(flops, seconds['ours']), measured)):.0%}."
            )
        )
        lines.append(f"Model FLOP utilization is of {peak / 1e12:,.0f} TFLOP/s, padding included.{own}")
    if result["device"] == "gpu" and "ours" in seconds and name in PAPER_STEPS:
        hours = PAPER_STEPS[name] * statistics.median(seconds["ours"]) / steps / 3600
        lines.append(f"The paper's {PAPER_STEPS[name]:,} steps would take ours {hours:,.1f} hours.")
    return "\n".join(lines)


def remarks(part: dict[str, Any]) -> list[str]:
    """The limit, the batches, and whether the programs slept while it was not their turn."""
    data, lines = part["data"], []
    if "failed" in part["limit"]:
        lines.append(f"The machine's matmul limit was not measured: {part['limit']['failed']}")
    else:
        rates = [turn["limits"] for turn in part["limit"]["turns"]]
        medians = {dtype: statistics.median(rate[dtype] for rate in rates) for dtype in rates[0]}
        shown = ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in medians.items())
        lines.append(f"The machine's matmul limit (the best of jax and PyTorch): {shown}.")
    lines.append(f"{data['pairs']:,} pairs; batches of {data['shapes']} shapes, {data['padding']:.1%} padding.")
    idle = [turn["idle_cpu_seconds"] for run in part["programs"].values() if "turns" in run for turn in run["turns"]]
    if idle:
        lines.append(
            f"A waiting program used {max(idle) * 1e3:.0f} ms of processor time at the most between two turns."
        )
    return lines


def limit_of_turns(limit: dict[str, Any], dtype: str, device: str, turns: int) -> list[float] | None:
    """FLOPs a second that a turn's are a share of: a GPU's peak where it is known, else the matmul limit measured."""
    peak = peak_of(device, dtype)
    if peak is not None:
        return [peak] * turns
    if "failed" in limit:
        return None
    kinds = {"float32", dtype}  # bfloat16 need not be the faster one
    return [max(turn["limits"][kind] for kind in kinds) for turn in limit["turns"]]


def peak_of(device: str, dtype: str) -> float | None:
    """FLOPs a second that the maker says of a device; None for what the table has not."""
    if dtype != "bfloat16" or "MIG" in device:
        return None
    return next((value for name, value in PEAKS.items() if name in device), None)


def per_turn(values: list[int], steps: int) -> list[float]:
    return [float(sum(values[first : first + steps])) for first in range(0, len(values), steps)]


def divide(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
