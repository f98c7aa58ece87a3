"""JSON files of a model from elsewhere."""

import json
from pathlib import Path
from typing import Any

from transformer.errors import InputError

_LARGEST = 2**26  # bytes; the vocabulary of the largest models has 4 MB


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Args:
        file: The file.

    Raises:
        InputError: The file is missing, is larger than 64 MB, or holds anything else.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file} has more than {_LARGEST / 2**20:.0f} MB, which no file of its kind needs.")
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} must hold a JSON object.")
    return values
