"""JSON files of a model from elsewhere."""

from pathlib import Path
from typing import Any

from transformer.errors import require
from transformer.files import read_json


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Args:
        file: The file.

    Raises:
        InputError: The file is missing, is larger than 64 MB, or holds anything else.
    """
    values = read_json(file)
    require(isinstance(values, dict), f"{file} must hold a JSON object.")
    return values
