"""Files of token ids, which are appended to and memory-mapped."""

import os
from pathlib import Path

import numpy as np

from transformer.data.tokens import TokenPairs


class TokenFiles:
    """The files of the arrays of `TokenPairs` in a folder."""

    def __init__(self, folder: Path, vocabulary_size: int) -> None:
        """Takes the folder, and the number of tokens in the larger vocabulary."""
        ids = "<u2" if vocabulary_size <= 2**16 else "<i4"
        self.dtypes = {
            "source_ids": ids,
            "source_offsets": "<i8",
            "target_ids": ids,
            "target_offsets": "<i8",
            "numbers": "<i8",
        }
        self._files = {name: folder / f"{name}.bin" for name in self.dtypes}

    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {name: file.stat().st_size for name, file in self._files.items()}

    def begin(self) -> None:
        """Creates the files, without any pair."""
        for name, file in self._files.items():
            file.unlink(missing_ok=True)
            file.write_bytes(bytes(8) if name.endswith("_offsets") else b"")

    def truncate(self, sizes: dict[str, int]) -> bool:
        """Removes what was written after the files had these sizes; False if a file is missing or smaller."""
        if any(not file.is_file() or file.stat().st_size < sizes[name] for name, file in self._files.items()):
            return False
        for name, file in self._files.items():
            os.truncate(file, sizes[name])
        return True

    def load(self, pair_sizes: tuple[int, ...]) -> TokenPairs:
        """Maps the files.

        Args:
            pair_sizes: Number of pairs of each corpus.

        Raises: OSError if a file is missing, or ValueError if the arrays do not belong together.
        """
        maps = {name: np.memmap(self._files[name], dtype, "r") for name, dtype in self.dtypes.items()}
        tokens = TokenPairs(**maps, sizes=pair_sizes)
        for ids, offsets in ((tokens.source_ids, tokens.source_offsets), (tokens.target_ids, tokens.target_offsets)):
            if len(offsets) != sum(pair_sizes) + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
                raise ValueError("the offsets do not fit the ids")
        if len(maps["numbers"]) != tokens.num_pairs:
            raise ValueError("the numbers do not fit the pairs")
        return tokens

    def append(self, tokens: TokenPairs) -> None:
        """Appends pairs to the files."""
        for name, dtype in self.dtypes.items():
            values = getattr(tokens, name)
            if name.endswith("_offsets"):
                ids = name.replace("offsets", "ids")
                before = self._files[ids].stat().st_size // np.dtype(self.dtypes[ids]).itemsize - values[-1]
                values = values[1:] + before
            with self._files[name].open("ab") as file:
                values.astype(dtype).tofile(file)

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        for file in self._files.values():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
