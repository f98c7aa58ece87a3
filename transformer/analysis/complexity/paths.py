"""Maximum path lengths between positions (Table 1), measured from Jacobians."""

from collections.abc import Callable, Iterable
from itertools import chain, count, islice, repeat

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from transformer.analysis.complexity.formulas import Size
from transformer.analysis.complexity.layers import (
    ATTENTION,
    CONVOLUTION,
    GRU,
    RESTRICTED,
    Layer,
    convolution,
    make_layers,
)

LENGTHS = (16, 32, 64)
"""Sequence lengths at which paths are measured."""

Edges = Bool[np.ndarray, "n n"]
"""True where the position of the row depends on the position of the column."""


def path_lengths(n: int, kernel: int, neighbourhood: int) -> dict[str, int]:
    """The maximum path length between two positions for each row of Table 1.

    There is an edge wherever an element of a layer's Jacobian is not zero. Layers are stacked until every output
    depends on every input, or for causal convolutions on every input up to its own position. The number of layers is
    the longest of all shortest paths.

    A recurrent layer is not stacked: its path leads through its own state. Its edges come from the Jacobian of one
    step, and are followed until they connect what the Jacobian of the whole layer connects.

    Convolutions are causal, as in ByteNet, which the paper cites. A centred, dilated kernel would reach into the
    padding around the sequence, where its paths end.

    Args:
        n: sequence length, at most 64. In longer recurrent layers the dependence on the first position vanishes in
            float32.
        kernel: kernel width of the convolutions, at least 2. The i-th dilated convolution has dilation kernel^i.
        neighbourhood: positions that restricted self-attention attends to, odd and at least 3.

    Returns:
        Path lengths in edges, by the name of the row.
    """
    layers = make_layers(Size(n, 4, kernel, neighbourhood))
    attention, restricted, contiguous = (dependencies(layers[name]) for name in (ATTENTION, RESTRICTED, CONVOLUTION))
    dilated = (dependencies(convolution(kernel, kernel**depth, layers[CONVOLUTION].x)) for depth in count())
    from_input, from_states = step_dependencies(layers[GRU])
    everything = np.ones((n, n), bool)
    before = np.tril(everything)
    return {
        "self-attention": path_length(repeat(attention), everything),
        "recurrent": path_length(chain([from_input], repeat(from_states)), dependencies(layers[GRU])),
        "convolutional": path_length(dilated, before),
        "convolutional, contiguous": path_length(repeat(contiguous), before),
        "self-attention, restricted": path_length(repeat(restricted), everything),
    }


def path_length(graphs: Iterable[Edges], wanted: Edges) -> int:
    """The number of edges that connects every wanted pair of positions.

    Args:
        graphs: the edges allowed as the first of a path, as the second, and so on. Paths may be shorter.
        wanted: the pairs to connect.

    Raises:
        ValueError: some pair is not connected by n edges.
    """
    reached = np.zeros_like(wanted)
    for length, edges in enumerate(islice(graphs, len(wanted)), 1):
        reached = edges if length == 1 else reached | (edges @ reached)
        if reached[wanted].all():
            return length
    raise ValueError("These edges do not connect every wanted pair.")


def dependencies(layer: Layer) -> Edges:
    """Which outputs of a layer depend on which inputs."""
    return _nonzero(lambda x: layer.apply(layer.params, x[None])[0], layer.x[0])


def step_dependencies(layer: Layer) -> tuple[Edges, Edges]:
    """Which states of a recurrent layer depend directly on which inputs and states.

    Returns:
        The dependencies on inputs, and the dependencies on states.
    """
    assert layer.step is not None
    step = layer.step
    states = jnp.asarray(np.random.default_rng(2).normal(size=layer.x[0].shape), layer.x.dtype)

    def next_states(states: Array, x: Array) -> Array:
        before = jnp.concatenate([step.state, states[:-1]])  # the state after position t is the one before t + 1
        return step.apply(layer.params, before, x)[1]

    of_x = _nonzero(lambda x: next_states(states, x), layer.x[0])
    return of_x, _nonzero(lambda states: next_states(states, layer.x[0]), states)


def _nonzero(function: Callable[[Array], Array], x: Array) -> Edges:
    """Where the Jacobian of a function [n, d] -> [n, d] is not zero, by position."""
    form = jnp.asarray(np.random.default_rng(3).normal(size=x.shape[-1]), x.dtype)  # makes one number of each position
    jacobian = jax.jit(jax.jacobian(lambda x: function(x) @ form))(x)
    return np.asarray((jacobian != 0).any(-1))
