"""Precision of matrix products of float32 numbers."""

from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

MatmulPrecision = Literal["float32", "tensorfloat32"]
"""A name of `jax.lax.Precision`. `float32` is exact to float32 on every backend. By default, JAX would use TF32 on a
GPU and bfloat16 on a TPU. `tensorfloat32` multiplies numbers rounded to TF32 (10 bits of fraction) on a GPU, and in
three passes of bfloat16 on a TPU. A CPU always uses float32."""


def product_precision(precision: MatmulPrecision, *operands: Array) -> lax.Precision | None:
    """Returns the precision for a product, or None for one of bfloat16 numbers.

    Those products are exact in float32, so a precision could only make them slower.
    """
    return lax.Precision(precision) if all(x.dtype == jnp.float32 for x in operands) else None
