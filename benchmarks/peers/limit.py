"""The machine's matmul limit: the fastest product that jax or PyTorch reaches here, in float32 and in bfloat16.

Measured in turns with the programs. The products of the model's feed-forward layers and a large square one are tried at
the start; in its turns the two best run again, and the limit is the faster of them.
"""

import json
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from peers.job import Job, Size

SECONDS = 0.3  # of each measurement

Product = Callable[[], object]


def shapes(size: Size) -> list[tuple[int, int, int]]:
    """Rows, inner and columns of the products that are tried."""
    rows, square = size.batch_tokens, min(4096, 8 * size.d_model)
    return [(rows, size.d_model, size.d_ff), (rows, size.d_ff, size.d_model), (square, square, square)]


def jax_products(size: Size, dtype: str) -> dict[str, tuple[Product, int]]:
    """Products by name, each with its FLOPs."""
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
    """The same by PyTorch; none where it is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    products, place = {}, "cuda" if device == "gpu" else "cpu"
    for rows, inner, columns in shapes(size):
        a = torch.ones(rows, inner, dtype=getattr(torch, dtype), device=place)
        b = torch.ones(inner, columns, dtype=getattr(torch, dtype), device=place)

        def product(a=a, b=b) -> None:
            torch.matmul(a, b)
            if device == "gpu":
                torch.cuda.synchronize()

        products[f"torch {rows}x{inner}x{columns}"] = (product, 2 * rows * inner * columns)
    return products


def flops_a_second(product: Product, flops: int, seconds: float = SECONDS) -> float:
    """The fastest of as many runs as fit into the time."""
    product()
    end, best = time.perf_counter() + seconds, 0.0
    while (start := time.perf_counter()) < end:
        product()
        best = max(best, flops / (time.perf_counter() - start))
    return best


def serve(job: Job, answer: Callable) -> None:
    """Answers as the programs do: first what was found at the start, then one measurement a command."""
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
