"""One device's part of a model that several devices share.

A model may be split over two axes of a mesh of devices. Over the axis `tensor`, each device has its own heads, its own
features of the feed-forward layer and its own rows of the vocabulary. Over the axis `fsdp`, parameters are stored in
shards, and are gathered where they are used.

The step is differentiated on each device, and the objective is the sum of what all devices return. A number that all
devices of the axis `tensor` know must therefore be counted by one of them only (`Axes.once`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from transformer.ops.mapped import once, own_rows, total
from transformer.shapes import TENSOR, Params


class Axes(NamedTuple):
    """The axes of devices over which a model is split.

    By default there are none: one device has the entire model, and every method returns what it is given.

    Attributes:
        tensor: Number of devices that share heads, d_ff and vocabulary.
        gather_params: Function of a tree of parameters. It gathers the shards of each leaf, except for those of layers
            when it is given more than one layer. None if parameters are not stored in shards.
    """

    tensor: int = 1
    gather_params: Callable[[Params], Params] | None = None

    @property
    def name(self) -> str | None:
        """Name of the mapped axis over which the model is split; None if it is not."""
        return None if self.tensor == 1 else TENSOR

    def part(self, size: int) -> int:
        """Returns this device's share of a number of heads, features or tokens."""
        return size // self.tensor

    def first(self, part: int) -> Array | int:
        """Returns the index of this device's first head, feature or token, of which each device has `part`."""
        return 0 if self.name is None else part * lax.axis_index(self.name)

    def sum(self, x: Array) -> Array:
        """Sums the parts of a product that the devices have computed."""
        return total(x, self.name)

    def once(self, x: Array) -> Array:
        """Returns `x` on one of the devices and zeros on the others, for what a sum over them counts once."""
        return once(x, self.name)

    def lookup(self, table: Array, tokens: Array) -> Array:
        """Looks up the embeddings of tokens in this device's rows of the table; others' tokens have zeros.

        An id that no token has is read as the last token.
        """
        if self.name is None:
            return table.at[tokens].get(mode="clip")
        rows = table.shape[0]
        own, is_own = own_rows(jnp.clip(tokens, 0, self.tensor * rows - 1), rows, self.name)
        assert is_own is not None
        return jnp.where(is_own[..., None], table.at[own].get(mode="clip"), 0)

    def gather(self, params: Params) -> Params:
        """Gathers the shards of parameters."""
        return params if self.gather_params is None else self.gather_params(params)


ALONE = Axes()
"""One device has the entire model."""
