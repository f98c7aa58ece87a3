"""Sums, maxima and shares over a mapped axis of devices, for functions that one device may also compute alone.

The name of the axis is None there, and each function returns what a single device has.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Shaped

AxisName = str | tuple[str, ...] | None


def total(x: Float[Array, "..."], axis_name: AxisName) -> Float[Array, "..."]:
    """Computes the sum over the devices."""
    return x if axis_name is None else lax.psum(x, axis_name)


def highest(x: Float[Array, "..."], axis_name: AxisName) -> Float[Array, "..."]:
    """Computes the maximum over the devices, which has no gradient."""
    x = lax.stop_gradient(x)
    return x if axis_name is None else lax.pmax(x, axis_name)


def once(x: Shaped[Array, "..."], axis_name: AxisName) -> Shaped[Array, "..."]:
    """Returns `x` on the first device and zeros on the others, so that a sum over the devices counts it once."""
    return x if axis_name is None else jnp.where(lax.axis_index(axis_name) == 0, x, 0)


def num_parts(axis_name: AxisName) -> int:
    """Returns the number of devices."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def own_rows(
    ids: Int[Array, "..."], rows: int, axis_name: AxisName
) -> tuple[Int[Array, "..."], Bool[Array, "..."] | None]:
    """Finds the rows of a table that is split over the devices.

    Args:
        ids: Row numbers of the entire table.
        rows: Number of rows of each device.
        axis_name: Name of the mapped axis of devices.

    Returns:
        Row numbers of the device's own part of the table, and whether the part has such a row: None for always.
    """
    if axis_name is None:
        return ids, None
    own = ids - rows * lax.axis_index(axis_name)
    return own, (own >= 0) & (own < rows)
