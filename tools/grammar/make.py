"""Write the corpus of the quickstart, or check the file in the package.

Each line of the file is a pair with its split and tags. Test pairs also have the antecedents of "it" and "its".

python tools/grammar/make.py            # writes transformer/data/quickstart.jsonl.xz
python tools/grammar/make.py --check    # exits with status 1 if the file differs from what the generator produces
"""

import argparse
import json
import lzma
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from antecedents import antecedents
from splits import SIZES, generate_trees
from transformer.data.pairs import ANTECEDENTS, TAGS

FILE = Path(__file__).parents[2] / "transformer" / "data" / "quickstart.jsonl.xz"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def lines() -> Iterator[str]:
    """Yields the lines of the file, one per pair, in the order of generation."""
    for split in SIZES:
        for sentence, tree in generate_trees(split):
            row = {"split": split, "en": sentence.source, "de": sentence.target, TAGS: sentence.tags}
            if split == "test" and (found := antecedents(sentence.source, tree)):
                row[ANTECEDENTS] = [antecedent._asdict() for antecedent in found]
            yield json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def compress(text: str) -> bytes:
    """Compresses the text.

    The result depends only on the text and on the version of liblzma.
    """
    return lzma.compress(text.encode(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=FILTERS)


def difference(file: Path) -> str | None:
    """Describes the first line in which a file differs from the generated one.

    The decompressed texts are compared, because versions of liblzma may compress the same text to different bytes.

    Args:
        file: The file to check.

    Returns: A sentence that says what to do, or None if the file is up to date.
    """
    try:
        text = lzma.decompress(file.read_bytes()).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        return f"Could not read {file} ({error}). Write it with python tools/grammar/make.py."
    *there, end = text.split("\n")
    for number, (line, expected) in enumerate(zip_longest(there, lines()), 1):
        if line != expected:
            return f"{file}, line {number} differs from what the generator produces. Run python tools/grammar/make.py."
    return f"{file} ends in the middle of a line. Run python tools/grammar/make.py." if end else None


def main() -> int:
    """Writes the file or checks it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the file with what the generator produces")
    if not parser.parse_args().check:
        FILE.write_bytes(compress("".join(f"{line}\n" for line in lines())))
        print(f"Wrote {FILE} ({FILE.stat().st_size:,} bytes).")
    elif (found := difference(FILE)) is not None:
        print(found, file=sys.stderr)
        return 1
    else:
        print(f"{FILE} is what the generator produces.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
