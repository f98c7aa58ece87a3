"""The position-wise feed-forward network (section 3.3)."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import jax
from jax import Array
from jaxtyping import Float

from transformer.errors import require_choice
from transformer.ops.linear import linear


def _gelu_sigmoid(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = MappingProxyType(
    {
        "relu": jax.nn.relu,  # max(0, x), as in the paper
        "gelu": partial(jax.nn.gelu, approximate=False),  # x * Phi(x) by erf, as in BERT and MarianMT; not tanh
        "gelu_sigmoid": _gelu_sigmoid,  # x * sigmoid(1.702 x), as in Marian (arXiv 1606.08415, section 2)
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
    relu: Callable[[Array], Array] = jax.nn.relu,
) -> Float[Array, "... D"]:
    """Applies the feed-forward network at every position (section 3.3, Eq. 2).

        FFN(x) = max(0, x W1 + b1) W2 + b2

    Deviates:
        The paper has neither activations other than `relu` nor dropout after the activation.

    Args:
        x: Activations at each position.
        kernel_in: Matrix W1.
        bias_in: Vector b1.
        kernel_out: Matrix W2.
        bias_out: Vector b2.
        activation: Name of the nonlinearity: `relu`, `gelu` (by the error function), `gelu_sigmoid` or `swish`.
        dropout: Function applied to the output of the nonlinearity, [..., F]. None applies no dropout.
        linear: Implementation of x W + b.
        relu: Implementation of max(0, x).

    Returns:
        The output at each position, in the dtype of `x`.

    Raises:
        InputError: There is no activation of this name.
    """
    require_choice("The activation", activation, [*ACTIVATIONS])
    activate = relu if activation == "relu" else ACTIVATIONS[activation]
    # As rows: with a reshape between them, XLA would not fuse product, bias and relu into one kernel on a GPU.
    hidden = activate(linear(x.reshape(-1, x.shape[-1]), kernel_in, bias_in))
    if dropout is not None:
        hidden = dropout(hidden.reshape(*x.shape[:-1], -1)).reshape(hidden.shape)
    return linear(hidden, kernel_out, bias_out).reshape(x.shape)
