import json
import lzma

import pytest

from make import FILE


@pytest.fixture(scope="session")
def corpus():
    """The rows of each split in the package's file.

    test_make.py checks that the generator produces them.
    """
    found = {}
    for line in lzma.decompress(FILE.read_bytes()).decode().splitlines():
        row = json.loads(line)
        found.setdefault(row["split"], []).append(row)
    return found
