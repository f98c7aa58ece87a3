"""The machine's matmul limit, the speed of the fastest matrix product.

The products are computed by jax and by PyTorch, in float32 and in bfloat16. Like a program, the limit is measured in
turns. At the start, it tries the products of the model's feed-forward layers and a large square product. In each turn
it runs the two fastest again, and the faster one is the limit.
"""

import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from peers.job import Job, Size

SECONDS = 0.3  # duration of each measurement

Product = Callable[[], object]


def shapes(size: Size) -> list[tuple[int, int, int]]:
    """The sizes (rows, inner, columns) of the products to try."""
    rows, square = size.batch_tokens, min(4096, 8 * size.d_model)
    return [(rows, size.d_model, size.d_ff), (rows, size.d_ff, size.d_model), (square, square, square)]


def jax_products(size: Size, dtype: str) -> dict[str, tuple[Product, int]]:
    """Products computed by jax, by name, and the FLOPs of each."""
    products = {}
    multiply = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
    for rows, inner, columns in shapes(size):
        a, b = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
        products[f"jax {rows}x{inner}x{columns}"] = (
            lambda a=a, b=b: jax.block_until_ready(multiply(a, b)),
            2 * rows * inner * columns,
        )
    return products


def torch_products(size: Size, dtype: str, device: str) -> dict[str, tuple[Product, int]]:
    """Products computed by PyTorch, by name, and the FLOPs of each.

    Empty if PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        return {}
    products, where = {}, "cuda" if device == "gpu" else "cpu"
    for rows, inner, columns in shapes(size):
        a = torch.ones(rows, inner, dtype=getattr(torch, dtype), device=where)
        b = torch.ones(inner, columns, dtype=getattr(torch, dtype), device=where)

        def product(a=a, b=b) -> None:
            torch.matmul(a, b)
            if device == "gpu":
                torch.cuda.synchronize()

        products[f"torch {rows}x{inner}x{columns}"] = (product, 2 * rows * inner * columns)
    return products


def flops_a_second(product: Product, flops: int, seconds: float = SECONDS) -> float:
    """The speed of the fastest run within the given number of seconds, in FLOP/s."""
    product()
    end, best = time.perf_counter() + seconds, 0.0
    while (start := time.perf_counter()) < end:
        product()
        best = max(best, flops / (time.perf_counter() - start))
    return best


def serve(job: Job, answer: Callable) -> None:
    """Answers like a program.

    The first answer has the measurements at the start. Each command gets one more measurement.
    """
    best: dict[str, list[tuple[Product, int]]] = {}
    found: dict[str, dict[str, float]] = {}
    for dtype in ("float32", "bfloat16"):
        products = jax_products(job.size, dtype) | torch_products(job.size, dtype, job.device)
        found[dtype] = {name: flops_a_second(*product) for name, product in products.items()}
        ranked = sorted(found[dtype], key=found[dtype].__getitem__, reverse=True)
        best[dtype] = [products[name] for name in ranked[:2]]
    answer(first_step=time.time())
    answer(warm=time.time(), found=found)
    idle_since = time.process_time()
    for line in sys.stdin:
        json.loads(line)
        idle = time.process_time() - idle_since
        limits = {dtype: max(flops_a_second(*product) for product in best[dtype]) for dtype in best}
        answer(limits=limits, idle_cpu_seconds=idle)
        idle_since = time.process_time()
