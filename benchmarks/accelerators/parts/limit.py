"""The largest speed of matrix products, and of a copy in memory."""

import jax
import jax.numpy as jnp

from accelerators.parts.model import require_accelerator
from accelerators.record import Record, median_seconds

PRODUCTS = {"bfloat16": ("bfloat16", None), "TF32": ("float32", "tensorfloat32"), "float32": ("float32", "highest")}


def run(variant: str, record: Record) -> None:
    require_accelerator(record)
    side = 256 if record.tiny else 8192
    for name, (dtype, precision) in PRODUCTS.items():
        record.attempt(f"product {name}", lambda dtype=dtype, precision=precision: product(side, dtype, precision))
    record.attempt("copy", lambda: copy(2**20 if record.tiny else 2**30))
    record.add("device", kind=jax.devices()[0].device_kind)


def product(side: int, dtype: str, precision: str | None) -> dict[str, float]:
    """A product of two square matrices of random numbers."""
    a, b = (jax.random.normal(jax.random.key(n), (side, side), dtype) for n in range(2))
    multiply = jax.jit(lambda a, b: jnp.dot(a, b, precision=precision))
    seconds = median_seconds(lambda: multiply(a, b), jax.block_until_ready, calls=10)
    return {"side": side, "milliseconds": 1e3 * seconds, "teraflops": 2e-12 * side**3 / seconds}


def copy(elements: int) -> dict[str, float]:
    """A copy of random bytes with one addition, which reads and writes each element once."""
    x = jax.random.bits(jax.random.key(0), (elements,), "uint32")
    add = jax.jit(lambda x: x + 1)
    seconds = median_seconds(lambda: add(x), jax.block_until_ready, calls=10)
    return {"bytes": 8 * elements, "milliseconds": 1e3 * seconds, "terabytes_per_second": 8e-12 * elements / seconds}
