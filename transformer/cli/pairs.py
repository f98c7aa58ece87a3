"""The sentence pairs that a command is given as two files, `--source` and `--reference`."""

import dataclasses
from typing import TYPE_CHECKING

from transformer.config import DataConfig
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs


def given_pairs(source: str | None, reference: str | None, data: DataConfig) -> "Pairs | None":
    """The pairs of the two files, read as the run's own; None where neither is given.

    Raises: InputError if only one is given, or as `data.corpus.read_files` does.
    """
    if (source is None) != (reference is None):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    if source is None or reference is None:
        return None
    from transformer.data.corpus import read_files

    return read_files((source, reference), dataclasses.replace(data, tags=None))[0]
