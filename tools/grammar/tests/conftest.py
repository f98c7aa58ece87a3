import json
import lzma

import pytest

from make import FILE


@pytest.fixture(scope="session")
def corpus():
    """The rows of each split, as the package ships them; test_make.py holds that the generator produces them."""
    found = {}
    for line in lzma.decompress(FILE.read_bytes()).decode().splitlines():
        row = json.loads(line)
        found.setdefault(row["split"], []).append(row)
    return found
