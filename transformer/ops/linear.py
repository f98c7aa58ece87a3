"""Linear maps (sections 3.2.2, 3.3 and 3.4)."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from transformer.ops.precision import MatmulPrecision


def linear(
    x: Float[Array, "*batch D"],
    kernel: Float[Array, "D F"],
    bias: Float[Array, " F"] | None = None,
    *,
    precision: MatmulPrecision = "float32",
) -> Float[Array, "*batch F"]:
    """Computes a linear projection in float32 (sections 3.2.2 and 3.3).

        y = x W + b

    Args:
        x: Activations.
        kernel: Matrix W. Its gradient has the dtype of `kernel`, whatever the dtype of `x`.
        bias: Vector b; None adds nothing.
        precision: Precision of the product.

    Returns:
        The projected activations, in the dtype of `x`.
    """
    y = jnp.einsum("...d,df->...f", x.astype(jnp.float32), kernel, precision=precision)
    return (y if bias is None else y + bias).astype(x.dtype)


def output_logits(
    hidden: Float[Array, "*batch D"],
    embedding: Float[Array, "V D"],
    bias: Float[Array, " V"] | None = None,
    *,
    precision: MatmulPrecision = "float32",
) -> Float[Array, "*batch V"]:
    """Computes the logits of the output layer (section 3.4).

        logits = h W^T + b

    Args:
        hidden: Output h of the decoder.
        embedding: Output embedding W, one row for each token of the vocabulary.
        bias: Bias b of the logits; None for the paper's model, which has none.
        precision: Precision of the product.

    Returns:
        The logits in float32.
    """
    logits = jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), embedding, precision=precision)
    return logits if bias is None else logits + bias
