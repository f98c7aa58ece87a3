"""Files of tensors: safetensors, and `pytorch_model.bin`."""

from pathlib import Path

import jax  # noqa: F401  (makes bfloat16 known to NumPy by name, as safetensors needs it)
import numpy as np

from transformer.errors import InputError
from transformer.interop.pickled_tensors import read_pickled_tensors
from transformer.runtime import require_package

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a model from `model.safetensors`, or else from `pytorch_model.bin`.

    Args:
        folder: The folder of the model.

    Returns:
        The tensors by name, in the dtype they have in the file.

    Raises:
        InputError: There is no such file, or it is damaged. Also if `pytorch_model.bin` contains anything but tensors.
    """
    if (folder / SAFETENSORS).is_file():
        return read_safetensors(folder / SAFETENSORS)
    if (folder / PICKLED).is_file():
        return read_pickled_tensors(folder / PICKLED)
    split = " It has the weights in several files, which is not supported." if any(folder.glob("*.index.json")) else ""
    raise InputError(f"{folder} has neither {SAFETENSORS} nor {PICKLED}.{split}")


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file.

    Args:
        file: The file.

    Returns:
        The tensors by name, in the dtype they have in the file.

    Raises:
        InputError: The file is damaged, or the package safetensors is missing.
    """
    require_package("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, TypeError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}).") from error
