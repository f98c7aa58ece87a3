"""How training is split over devices, checked before anything is read or compiled."""

from typing import NamedTuple

from transformer.config import ModelConfig, ParallelConfig
from transformer.errors import InputError, require
from transformer.shapes import FSDP, TENSOR


class Arrangement(NamedTuple):
    """The strategy of training, and the number of devices along each axis.

    Attributes:
        strategy: `pmap` or `mesh`. With `pmap`, all devices are along `data`.
        data: Number of devices along the axis `data`; the next two are likewise.
        fsdp: Number of devices along the axis `fsdp`.
        tensor: Number of devices along the axis `tensor`.
    """

    strategy: str
    data: int
    fsdp: int
    tensor: int

    @property
    def num_shards(self) -> int:
        """Number of parts of a batch."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        """`pmap`, or a mesh with its sizes, such as `mesh data=1 fsdp=8 tensor=1`."""
        if self.strategy != "mesh":
            return self.strategy
        return f"mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor}"


def arrange(config: ParallelConfig, model: ModelConfig, devices: int, processes: int = 1) -> Arrangement:
    """Arranges devices as a config says. Several processes always train on a mesh.

    Args:
        config: The settings.
        model: Architecture of the model.
        devices: Number of devices of all processes.
        processes: Number of processes.

    Raises:
        InputError: The sizes do not give this number of devices, or do not divide what they split. Or the strategy is
            `pmap`, and there are several processes.
    """
    require(
        config.strategy != "pmap" or processes == 1,
        f"--parallel.strategy pmap trains in one process, but there are {processes}. Leave it out, or start one "
        "process.",
    )
    data, fsdp, tensor = mesh_sizes(config.data, config.fsdp, config.tensor, devices)
    require_divisible(model, {FSDP: fsdp, TENSOR: tensor})
    on_mesh = config.strategy == "mesh" or not config.fsdp == config.tensor == 1 or processes > 1
    return Arrangement("mesh" if on_mesh else "pmap", data, fsdp, tensor)


def mesh_sizes(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
    """Computes the sizes of a mesh, one of which may be -1.

    Args:
        data: `parallel.data`; the next two are likewise.
        fsdp: `parallel.fsdp`.
        tensor: `parallel.tensor`.
        devices: Number of devices in the mesh.

    Raises:
        InputError: The sizes do not give this number of devices.
    """
    sizes = [data, fsdp, tensor]
    given = 1
    for size in sizes:
        given *= 1 if size == -1 else size
    free = devices // given if -1 in sizes else 1
    require(
        given * free == devices and free > 0,
        f"--parallel.data {data}, --parallel.fsdp {fsdp} and --parallel.tensor {tensor} cannot have {devices} "
        f"device{'s' if devices > 1 else ''}. Choose sizes whose product is {devices}; one of them may be -1.",
    )
    data, fsdp, tensor = (free if size == -1 else size for size in sizes)
    return data, fsdp, tensor


def require_divisible(model: ModelConfig, sizes: dict[str, int]) -> None:
    """Raises InputError unless the mesh divides everything that it splits.

    Args:
        model: Architecture of the model.
        sizes: Number of devices along the axes `fsdp` and `tensor`.
    """
    split = {
        FSDP: {"d_model": model.d_model},
        TENSOR: {
            "num_heads": model.num_heads,
            "d_ff": model.d_ff,
            "vocabulary_size": model.vocabulary_size,
            "target_vocabulary_size": model.target_size,
        },
    }
    for axis, fields in split.items():
        for field, size in fields.items():
            if size % sizes[axis]:
                raise InputError(
                    f"--parallel.{axis} must divide --model.{field.replace('_', '-')}, but {size:,} is not divisible "
                    f"by {sizes[axis]}. Change one of them."
                )
