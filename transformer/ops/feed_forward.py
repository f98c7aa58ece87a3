"""The position-wise feed-forward network (section 3.3)."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import jax
from jax import Array
from jaxtyping import Float

from transformer.errors import require_choice
from transformer.ops.linear import linear

ACTIVATIONS = MappingProxyType(
    {
        "relu": jax.nn.relu,  # max(0, x), the paper's
        "gelu": partial(jax.nn.gelu, approximate=False),  # x * Phi(x) by erf, as in BERT and Marian; not tanh
        "swish": jax.nn.swish,  # x * sigmoid(x)
    }
)


def feed_forward(
    x: Float[Array, "... D"],
    kernel_in: Float[Array, "D F"],
    bias_in: Float[Array, " F"],
    kernel_out: Float[Array, "F D"],
    bias_out: Float[Array, " D"],
    activation: str = "relu",
    dropout: Callable[[Array], Array] | None = None,
    linear: Callable[[Array, Array, Array], Array] = linear,
) -> Float[Array, "... D"]:
    """Two linear maps with a nonlinearity between them, the same at every position (section 3.3, Eq. 2).

    FFN(x) = max(0, x W1 + b1) W2 + b2

    Deviates: activations other than relu, and dropout after the activation, are not in the paper.

    Args:
        x: Input at each position.
        kernel_in: W1.
        bias_in: b1.
        kernel_out: W2.
        bias_out: b2.
        activation: A name in `ACTIVATIONS`.
        dropout: Applied to the activations [..., F] if given.
        linear: The implementation of x W + b.

    Returns:
        The output at each position, in the type of `x`.

    Raises:
        InputError: there is no such activation.
    """
    require_choice("The activation", activation, [*ACTIVATIONS])
    hidden = ACTIVATIONS[activation](linear(x, kernel_in, bias_in))
    if dropout is not None:
        hidden = dropout(hidden)
    return linear(hidden, kernel_out, bias_out)
