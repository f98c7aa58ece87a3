"""Compile the training step for hardware that this machine does not have.

    pip install -e '.[cuda12]'    # for an H100; '.[tpu]' for a TPU
    python benchmarks/compiled.py --target h100 --config base --batch 390x64
    python benchmarks/compiled.py --target v5e:2x2 --config multi30k --layers 12 --json

Other options are as in `transformer train`, and make the same config. The program is the step of one device, as
training maps it. For an H100, its time is estimated as well (`transformer/planning/kernels.py`). Autotuning and Triton
products are off for it, because they need the card.
"""

import argparse
import dataclasses
import datetime
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from peers.children import command, cpu_name

from transformer.cli.train import parse_config
from transformer.config import Config
from transformer.errors import InputError, require
from transformer.planning.hlo import parse
from transformer.planning.kernels import collectives, kernels, total
from transformer.planning.products import never_run
from transformer.planning.targets import PLUGINS, devices_of, parse_target, prepare
from transformer.starts import versions

PACKAGES = ("jax", "jaxlib", "flax", "optax", *PLUGINS["gpu"], "nvidia-cuda-nvcc-cu12", *PLUGINS["tpu"])
MEBIBYTE = 2**20


def main() -> int:
    try:
        run(*parse_options())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_options() -> tuple[argparse.Namespace, Config]:
    """Parses the options of this script, and the config from all other options."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0],
        epilog="All options of transformer train are accepted as well.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--target", required=True, help="local, h100, h100xN (N cards in one machine), or a TPU like v5e:2x2"
    )
    parser.add_argument("--batch", metavar="ROWSxLENGTH", help="batch of each part (default: from the config)")
    parser.add_argument("--layers", type=int, help="number of encoder layers, and also of decoder layers")
    parser.add_argument("--unroll", type=int, help="value of --model.scan-unroll")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    parser.add_argument("--save", type=Path, metavar="PROGRAM.hlo", help="write the compiled program to this file")
    options, others = parser.parse_known_args()
    config = parse_config(others)
    changes: dict[str, Any] = {}
    if options.layers is not None:
        changes |= {"num_encoder_layers": options.layers, "num_decoder_layers": options.layers}
    if options.unroll is not None:
        changes["scan_unroll"] = options.unroll
    return options, dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def run(options: argparse.Namespace, config: Config) -> None:
    """Compiles the step and prints the measurements.

    Raises: InputError if the target is unknown, if its plugin is missing, or if XLA cannot compile the step for it.
    """
    target = parse_target(options.target)
    environment = prepare(target)

    import jax

    from transformer.planning.program import arrangement, lower_step

    dtype = "float32" if config.model.dtype == "float32" else "bfloat16"
    devices = devices_of(target)
    try:
        shards = arrangement(config, devices).num_shards
        rows, length = batch_shape(options.batch, config, shards)
        print(f"compiling for {len(devices)} x {devices[0].device_kind} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        lowered = lower_step(config, dtype, devices, rows, length, length)
        lower_seconds = time.perf_counter() - start
        start, cpu_start = time.perf_counter(), sum(os.times()[:4])
        compiled = lowered.compile()
        compile_seconds, cpu_seconds = time.perf_counter() - start, sum(os.times()[:4]) - cpu_start
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"Cannot compile for {options.target}. XLA says: {str(error).splitlines()[0]}") from error
    text = compiled.as_text() or ""
    if options.save is not None:
        options.save.write_text(text, encoding="utf-8")
    result = {
        "target": options.target,
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "batch": f"{rows}x{length}",
        "layers": [config.model.num_encoder_layers, config.model.num_decoder_layers],
        "dtype": dtype,
        "lower_seconds": round(lower_seconds, 2),
        "compile_seconds": round(compile_seconds, 2),
        "compile_cpu_seconds": round(cpu_seconds, 2),  # over all threads and children, hardly affected by other load
        "stablehlo_kilobytes": round(len(lowered.as_text()) / 1e3),
        **memory(compiled),
        **contents(text, target.backend),
        "versions": versions(PACKAGES),
        "environment": environment,
        "topology": target.topology,
        "machine": {"processor": cpu_name(), "cores": len(os.sched_getaffinity(0))},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "config": dataclasses.asdict(config),
    }
    print(json.dumps(result) if options.json else table(result))


def batch_shape(given: str | None, config: Config, devices: int) -> tuple[int, int]:
    """Rows of each part of a batch, and tokens per row on each side.

    Args:
        given: ROWSxLENGTH, or None for the largest batch that the config allows.
        config: The experiment.
        devices: Number of devices that each have a part of the batch: on a mesh, those along `data` and `fsdp`.

    Raises: InputError if the config allows no batch, or if `given` is malformed or does not fit the config.
    """
    training = config.training
    if given is None:
        length = training.pack_length or config.data.max_length
        rows = training.batch_tokens // devices // length
        rows -= rows % training.accumulation_steps
        require(
            rows > 0,
            f"--training.batch-tokens {training.batch_tokens} is too small for {devices} devices, "
            f"{training.accumulation_steps} accumulation steps and rows of {length} tokens. Raise it or give --batch.",
        )
        return rows, length
    numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", given)
    require(numbers is not None, f"--batch must be ROWSxLENGTH, such as 390x64, but is {given}.")
    assert numbers is not None
    rows, length = int(numbers[1]), int(numbers[2])
    require(
        rows % training.accumulation_steps == 0,
        f"--batch must have a multiple of {training.accumulation_steps} rows (--training.accumulation-steps), but has "
        f"{rows}.",
    )
    require(
        length <= config.model.max_positions,
        f"--batch has rows of {length} tokens, but --model.max-positions is {config.model.max_positions}. Raise it.",
    )
    return rows, length


def memory(compiled: Any) -> dict[str, float | None]:
    """The memory of a compiled program on one device, in MiB.

    XLA does not report the size of the program itself on GPUs.
    """
    plan = compiled.memory_analysis()
    program = plan.generated_code_size_in_bytes
    return {
        "program_mebibytes": round(program / MEBIBYTE, 1) if program else None,
        "serialized_mebibytes": round(len(compiled.runtime_executable().serialize()) / MEBIBYTE, 1),
        "argument_mebibytes": round(plan.argument_size_in_bytes / MEBIBYTE, 1),
        "temporary_mebibytes": round(plan.temp_size_in_bytes / MEBIBYTE, 1),
    }


def contents(text: str, backend: str) -> dict[str, Any]:
    """Counts the collectives of a program and, except for a TPU, its kernels."""
    program = parse(text)
    launched = total(kernels(program)) if backend == "gpu" else None
    loops = [i for body in program.computations.values() for i in body if i.opcode == "while"]
    return {
        "kernels": launched and launched.launches,
        "gigabytes_moved": launched and round(launched.bytes / 1e9, 1),
        "estimated_milliseconds": launched and round(launched.seconds * 1e3, 2),
        "kernels_never_run": never_run(program) if backend == "gpu" else None,  # on a card
        "collectives": dict(collectives(program)),
        "loops_of_unknown_length": sum(program.trips(loop) is None for loop in loops),
    }


def table(result: dict[str, Any]) -> str:
    """Formats a result as aligned lines, each with its unit."""
    encoder, decoder = result["layers"]
    counts = [f"{count} {name}" for name, count in result["collectives"].items()]
    rows = [
        ("tracing and lowering", result["lower_seconds"], "s"),
        ("compiling", result["compile_seconds"], "s"),
        ("compiling, CPU time", result["compile_cpu_seconds"], "s"),
        ("StableHLO", result["stablehlo_kilobytes"], "kB"),
        ("program", result["program_mebibytes"], "MiB"),
        ("program, serialized", result["serialized_mebibytes"], "MiB"),
        ("arguments per device", result["argument_mebibytes"], "MiB"),
        ("temporary memory", result["temporary_mebibytes"], "MiB"),
        ("kernels", result["kernels"], ""),
        ("memory traffic", result["gigabytes_moved"], "GB"),
        ("estimated time", result["estimated_milliseconds"], "ms"),
        ("loops of unknown length", result["loops_of_unknown_length"] or None, "(counted as one run)"),
    ]
    lines = [
        f"{result['devices']} x {result['device_kind']}, {result['batch']} on each, {encoder} + {decoder} layers, "
        f"{result['dtype']}, jax {result['versions']['jax']}",
        *(f"  {name:24}{value:>10,} {unit}".rstrip() for name, value, unit in rows if value is not None),
        f"  {'collectives':24}{', '.join(counts) or 'none':>10}",
    ]
    if result["kernels_never_run"]:
        names = ", ".join(result["kernels_never_run"])
        lines.append(f"The estimate depends on kernels that have not run on a card: {names}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
