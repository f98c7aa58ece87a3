"""Training steps of PyTorch programs on full rows without padding, in bfloat16 by autocast with fused Adam."""

import time

import numpy as np
import torch
from peers.job import SIZES, Arrays, Job
from peers.torch_training import TorchTraining

from accelerators.record import Record, median_seconds

MEBIBYTE = 2**20


def run(variant: str, record: Record) -> None:
    """Measures a program as it is, then compiled."""
    if not record.tiny and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU.")
    size, (rows, length) = (SIZES["tiny"], (4, 16)) if record.tiny else (SIZES["base"], (390, 64))
    device = "gpu" if torch.cuda.is_available() else "cpu"
    job = Job(size, "bfloat16", device, "", 1, (0,), longest=length, pad_id=0, start_id=1, end_id=2)
    ids = np.random.default_rng(0).integers(3, size.vocabulary, (2, rows, length), dtype=np.int32)
    batch = Arrays(ids[0], None, ids[1], ids[1], np.ones((rows, length), bool), None)
    for compiled in (None, "static"):
        name = f"{variant}, {'eager' if compiled is None else 'compiled'}"
        record.attempt(name, lambda compiled=compiled: measure(start(variant, job, compiled), batch, record.tiny))
        if device == "gpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def start(variant: str, job: Job, compiled: str | None) -> TorchTraining:
    """Builds one of the programs of `training.py`."""
    if variant == "marian":
        from peers.marian import start

        return start(job, compiled)
    from peers.torch_transformer import start

    return start(job, compiled)


def measure(program: TorchTraining, batch: Arrays, tiny: bool) -> dict[str, float | None]:
    begun = time.perf_counter()
    program.step(batch)
    loss = program.wait()
    first = time.perf_counter() - begun
    program.step(batch)
    seconds = median_seconds(lambda: program.step(batch), lambda _: program.wait(), calls=2 if tiny else 10)
    memory = program.device_bytes()
    return {
        "milliseconds": 1e3 * seconds,
        "tokens_per_second": 2 * batch.source.size / seconds,
        "first_step_seconds": first,
        "peak_mebibytes": memory and memory / MEBIBYTE,
        "parameters": program.num_parameters,
        "first_loss": loss,
    }
