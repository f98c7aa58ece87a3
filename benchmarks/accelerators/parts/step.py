"""Steady training steps."""

import dataclasses
import time
from typing import Any

import jax
from peers.job import Size

from accelerators.parts.model import batch_shape, make_step, packed_batch, require_accelerator, size_of
from accelerators.record import Record, median_seconds
from transformer.config import ModelConfig, OptimizerConfig
from transformer.planning.hlo import parse
from transformer.planning.kernels import kernels, total
from transformer.shapes import Batch
from transformer.training import parallel
from transformer.training.step import create_state
from transformer.training.utilization import PEAKS, step_flops

PEAK = PEAKS["NVIDIA H100 80GB HBM3"]  # 989 TFLOP/s
STEPS = 10  # of a window; the median is over three windows
MEBIBYTE = 2**20


def run(variant: str, record: Record) -> None:
    """Measures the variant `SIZE ATTENTION UNROLL`. If memory runs out, the rows are halved."""
    require_accelerator(record)
    name, attention, unroll = variant.split()
    size = size_of(name, record)
    changes: Any = {"attention": attention, "scan_unroll": size.num_layers if unroll == "all" else int(unroll)}
    config = dataclasses.replace(size.config(), **changes)
    rows, length = batch_shape(record)
    while True:
        batch = packed_batch(size.vocabulary, rows, length)
        try:
            measure(variant, config, size, batch, record)
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or rows < 2:
                raise
        record.add(variant, **{f"memory_exhausted_with_{rows}_rows": True})
        rows //= 2


def measure(variant: str, config: ModelConfig, size: Size, batch: Batch, record: Record) -> None:
    """Compiles the step of a batch and measures it."""
    rows, length = batch.source.shape
    model, optimizer, step = make_step(config, OptimizerConfig())
    state = parallel.replicate(create_state(model, optimizer, 0))
    split = parallel.split(batch, 1)
    start = time.perf_counter()
    lowered = step.lower(state, split)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - traced
    plan = compiled.memory_analysis()
    record.add(
        variant,
        rows=rows,
        length=length,
        trace_seconds=traced - start,
        compile_seconds=compile_seconds,
        temporary_mebibytes=plan.temp_size_in_bytes / MEBIBYTE,
    )

    def advance() -> Any:
        nonlocal state
        state, metrics = compiled(state, split)
        return metrics

    jax.block_until_ready(advance())
    seconds = median_seconds(advance, jax.block_until_ready, calls=2 if record.tiny else STEPS)
    metrics = advance()
    tokens = int(batch.source_mask.sum() + batch.target_mask.sum())
    flops = step_flops(config, length, length, rows)  # of all products, padding and masked scores included
    limit, statistics = record.limit(), jax.local_devices()[0].memory_stats() or {}
    peak_bytes = statistics.get("peak_bytes_in_use")
    record.add(
        variant,
        milliseconds=1e3 * seconds,
        tokens_per_second=tokens / seconds,
        positions_per_second=2 * rows * length / seconds,
        padding=1 - tokens / (2 * rows * length),
        teraflop_per_step=1e-12 * flops,
        teraflops=1e-12 * flops / seconds,
        share_of_limit=limit and flops / seconds / limit,
        share_of_989_teraflops=flops / seconds / PEAK,
        peak_mebibytes=peak_bytes and peak_bytes / MEBIBYTE,
        loss=float(metrics["loss_sum"] / metrics["target_tokens"]),
    )
    if jax.default_backend() == "gpu":
        record.attempt(f"{variant}, estimated", lambda: estimate(compiled.as_text() or ""))


def estimate(program: str) -> dict[str, float]:
    """What the estimator of programs says about the one that was measured."""
    estimated = total(kernels(parse(program)))
    return {"milliseconds": 1e3 * estimated.seconds, "kernels": estimated.launches}
