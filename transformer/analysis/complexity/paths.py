"""The longest path between two positions (Table 1), found in the graph of what depends on what."""

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
"""Sequence lengths that show how a path grows."""

Edges = Bool[np.ndarray, "n n"]
"""True where the position of the row depends on that of the column."""


def path_lengths(n: int, kernel: int, neighbourhood: int) -> dict[str, int]:
    """For each row of Table 1 the edges between the two positions that are farthest apart in the graph.

    An edge goes where an element of a layer's Jacobian is not zero. Layers are stacked until every output depends on
    every input, or with convolutions, which are causal, on every input up to its own position: that many edges is the
    longest of the shortest paths. A recurrent layer is one layer, and its path leads through its own state: edges go
    where the Jacobian of its step is not zero, and they are followed until they connect all that the Jacobian of the
    whole layer does.

    Convolutions are causal, as in ByteNet, which the paper cites for them: the zeros around a sequence would cut off
    paths of centred kernels with gaps that leave it for a while.

    Args:
        n: positions; at most 64, or float32 is not enough to see the end of a recurrent layer depend on its beginning.
        kernel: positions under the kernel of the convolutions, at least 2. Layer i of those with gaps has dilation
            kernel^i.
        neighbourhood: positions that restricted self-attention looks at, odd and at least 3.
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
    """How many edges it takes until every pair that is wanted is connected.

    Args:
        graphs: the edges that may be the first of a path, the second, and so on; a path may also be shorter.
        wanted: the pairs.

    Raises:
        ValueError: with n edges they are still not connected.
    """
    reached = np.zeros_like(wanted)
    for length, edges in enumerate(islice(graphs, len(wanted)), 1):
        reached = edges if length == 1 else reached | (edges @ reached)
        if reached[wanted].all():
            return length
    raise ValueError("These edges do not connect what is wanted.")


def dependencies(layer: Layer) -> Edges:
    """Which outputs of a layer depend on which inputs."""
    return _nonzero(lambda x: layer.apply(layer.params, x[None])[0], layer.x[0])


def step_dependencies(layer: Layer) -> tuple[Edges, Edges]:
    """Which states of a recurrent layer depend directly on which inputs, and which on which states."""
    assert layer.step is not None
    step = layer.step
    states = jnp.asarray(np.random.default_rng(2).normal(size=layer.x[0].shape), layer.x.dtype)

    def next_states(states: Array, x: Array) -> Array:
        before = jnp.concatenate([step.state, states[:-1]])  # the state behind position t is that before t + 1
        return step.apply(layer.params, before, x)[1]

    of_x = _nonzero(lambda x: next_states(states, x), layer.x[0])
    return of_x, _nonzero(lambda states: next_states(states, layer.x[0]), states)


def _nonzero(function: Callable[[Array], Array], x: Array) -> Edges:
    """Where the Jacobian of a function [n, d] -> [n, d] is not zero, all features of a position taken together."""
    form = jnp.asarray(np.random.default_rng(3).normal(size=x.shape[-1]), x.dtype)  # one number for each position
    jacobian = jax.jit(jax.jacobian(lambda x: function(x) @ form))(x)
    return np.asarray((jacobian != 0).any(-1))
