"""Markdown tables and CSV rows of the result of `benchmarks/training.py`."""

import statistics
from collections.abc import Sequence
from typing import Any

from results import Measured, Row, quartiles, rows_of

TITLES = {
    "ours": "transformer-jax",
    "ours:plain": "transformer-jax, model.implementation=plain",
    "plain_linen": "plain linen + optax",
    "torch_transformer": "torch.nn.Transformer",
    "torch_transformer:dynamic": "torch.nn.Transformer, compiled",
    "torch_transformer:static": "torch.nn.Transformer, compiled for each shape",
    "marian": "Hugging Face Marian",
    "marian:dynamic": "Hugging Face Marian, compiled",
    "joeynmt_peer": "Joey NMT",
}
PAPER_STEPS = {"base": 100_000, "big": 300_000}  # section 5.2
# Dense bfloat16 FLOP/s (without sparsity) from the makers' data sheets. The keys are parts of device names, and the
# first match counts. For a partition of a device (MIG) there is no data.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}

SPEED, RATIO = ("speed", "tokens/s"), ("time relative to transformer-jax", "times")
LIMIT_SHARE, PEAK_SHARE = ("share of the matmul limit", "%"), ("model FLOP utilization", "%")
MEMORY, FIRST_STEP = ("peak memory", "GiB"), ("first step", "s")


def measured(part: dict[str, Any], result: dict[str, Any]) -> dict[str, Measured]:
    """The measurements of each program that did not fail, turn by turn."""
    steps, dtype, data = result["steps"], result["dtype"], part["data"]
    tokens, flops = (per_turn(data[key], steps) for key in ("tokens", "flops"))
    peak = peak_of(result["machine"]["device"], dtype)
    kinds = {"float32", dtype}  # float32 may be faster than bfloat16
    limits = [max(turn["limits"][kind] for kind in kinds) for turn in part["limit"].get("turns", [])]
    runs = {program: run for program, run in part["programs"].items() if "failed" not in run}
    seconds = {program: [turn["seconds"] for turn in run["turns"]] for program, run in runs.items()}
    found: dict[str, Measured] = {}
    for program, run in runs.items():
        last, rates = run["turns"][-1], divide(flops, seconds[program])
        memory = last["peak_bytes"] if last["device_bytes"] is None else last["device_bytes"]
        values: dict[tuple[str, str], Sequence[float]] = {SPEED: divide(tokens, seconds[program])}
        if "ours" in seconds and program != "ours":
            values[RATIO] = divide(seconds[program], seconds["ours"])
        if limits:
            values[LIMIT_SHARE] = [100 * x for x in divide(rates, limits)]
        if peak is not None:
            values[PEAK_SHARE] = [100 * rate / peak for rate in rates]
        found[program] = values | {MEMORY: [memory / 2**30], FIRST_STEP: [run["first_step_seconds"]]}
    return found


def rows(name: str, setting: str, part: dict[str, Any], result: dict[str, Any]) -> list[Row]:
    """The CSV rows of one part, including the matmul limit of the same turns."""
    command, data = part.get("command", result["command"]), part["data"]
    batches = f"{data['shapes']} shapes with {data['padding']:.1%} padding"
    found = []
    for program, values in measured(part, result).items():
        chosen = f"{name}; allocators {setting}; {batches}; {part['programs'][program]['note']}"
        found += rows_of(result, command, "training", chosen, TITLES[program], values)
    if limits := [turn["limits"][result["dtype"]] / 1e9 for turn in part["limit"].get("turns", [])]:
        chosen = f"{name}; allocators {setting}; {result['dtype']}"
        values: Measured = {("matmul limit", "GFLOP/s"): limits}
        found += rows_of(result, command, "training", chosen, "the faster of jax and PyTorch", values)
    return found


def table(name: str, setting: str, part: dict[str, Any], result: dict[str, Any]) -> str:
    """The Markdown table of one part, fastest program first, with remarks."""
    dtype, device, found = result["dtype"], result["machine"]["device"], measured(part, result)
    peak = peak_of(device, dtype)
    of_what = "share of the limit" if peak is None else "model FLOP utilization"
    how = "each program with its own settings" if setting == "alone" else "the same allocator settings for all"
    lines = [
        f"**{name}**, {dtype}, {setting}: {how}",
        "",
        f"| program | tokens/s (quartiles) | time relative to ours | {of_what} | peak memory | first step | warm "
        "| parameters | compute dtype |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for program in sorted(found, key=lambda program: -statistics.median(found[program][SPEED])):
        run, values = part["programs"][program], found[program]
        low, middle, high = quartiles(values[SPEED])
        cells = (
            TITLES[program],
            f"{middle:,.0f} ({low:,.0f} to {high:,.0f})",
            median_of(values, RATIO, "{:.2f}"),
            median_of(values, LIMIT_SHARE if peak is None else PEAK_SHARE, "{:.0f}%"),
            median_of(values, MEMORY, "{:.2f} GiB"),
            median_of(values, FIRST_STEP, "{:.1f} s"),
            f"{run['warm_seconds']:.1f} s",
            f"{run['parameters']:,}",
            run["note"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    failed = {program: run["failed"] for program, run in part["programs"].items() if "failed" in run}
    lines += [f"| {TITLES[program]} | not measured: {why} |{' |' * 7}" for program, why in failed.items()]
    lines += ["", *remarks(part)]
    if peak is not None and "ours" in found:
        share = median_of(found["ours"], LIMIT_SHARE, "{:.0f}%")
        lines.append(f"Model FLOP utilization is relative to {peak / 1e12:,.0f} TFLOP/s and includes padding.")
        lines.append(f"Ours reaches {share} of the measured matmul limit.")
    if result["device"] == "gpu" and "ours" in found and name in PAPER_STEPS:
        seconds = statistics.median(turn["seconds"] for turn in part["programs"]["ours"]["turns"])
        hours = PAPER_STEPS[name] * seconds / result["steps"] / 3600
        lines.append(f"The paper's {PAPER_STEPS[name]:,} steps would take ours {hours:,.1f} hours.")
    return "\n".join(lines)


def median_of(values: Measured, quantity: tuple[str, str], form: str) -> str:
    """The formatted median of a quantity, or a dash if it was not measured."""
    return form.format(statistics.median(values[quantity])) if quantity in values else "-"


def remarks(part: dict[str, Any]) -> list[str]:
    """Remarks about the matmul limit, the batches and waiting programs."""
    data, lines = part["data"], []
    if "failed" in part["limit"]:
        lines.append(f"The machine's matmul limit was not measured: {part['limit']['failed']}")
    else:
        rates = [turn["limits"] for turn in part["limit"]["turns"]]
        medians = {dtype: statistics.median(rate[dtype] for rate in rates) for dtype in rates[0]}
        shown = ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in medians.items())
        lines.append(f"The machine's matmul limit (the faster of jax and PyTorch): {shown}.")
    lines.append(f"{data['pairs']:,} pairs; batches of {data['shapes']} shapes, {data['padding']:.1%} padding.")
    idle = [turn["idle_cpu_seconds"] for run in part["programs"].values() if "turns" in run for turn in run["turns"]]
    if idle:
        lines.append(f"Waiting programs used at most {max(idle) * 1e3:.0f} ms of processor time between two turns.")
    return lines


def peak_of(device: str, dtype: str) -> float | None:
    """The peak FLOP/s in the maker's data sheet, or None if it is not known."""
    if dtype != "bfloat16" or "MIG" in device:
        return None
    return next((value for name, value in PEAKS.items() if name in device), None)


def per_turn(values: list[int], steps: int) -> list[float]:
    """The sums of the values of each turn, which has `steps` of them."""
    return [float(sum(values[first : first + steps])) for first in range(0, len(values), steps)]


def divide(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The quotients of corresponding elements."""
    return [a / b for a, b in zip(above, below, strict=True)]
