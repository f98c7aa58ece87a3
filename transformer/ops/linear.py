"""Linear maps (sections 3.2.2, 3.3 and 3.4)."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def linear(
    x: Float[Array, "*batch D"], kernel: Float[Array, "D F"], bias: Float[Array, " F"] | None = None
) -> Float[Array, "*batch F"]:
    """x W + b, the projections of sections 3.2.2 and 3.3, computed in float32.

    Args:
        x: activations; the result has their type.
        kernel: W; its gradient has its own type, whatever the type of x.
        bias: b, or None for none.
    """
    y = jnp.einsum("...d,df->...f", x.astype(jnp.float32), kernel)
    return (y if bias is None else y + bias).astype(x.dtype)


def output_logits(
    hidden: Float[Array, "*batch D"], embedding: Float[Array, "V D"], bias: Float[Array, " V"]
) -> Float[Array, "*batch V"]:
    """h W^T + b, the output layer of section 3.4, in float32.

    Args:
        hidden: h, the decoder's output.
        embedding: W, the output embedding.
        bias: b, the final logits bias (zeros for the paper's model).
    """
    return jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), embedding) + bias
