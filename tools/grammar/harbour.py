"""Write a corpus of sentences with words that the quickstart has not seen.

Each pair has at least one noun of harbour.tsv. Everything else is the grammar of the quickstart, and the same keys are
held out, so that the test set has combinations that training has not (see `splits`).

python tools/grammar/harbour.py harbour.jsonl               # all splits, for --data.corpus harbour.jsonl
python tools/grammar/harbour.py mixed.jsonl --old 2500      # with training pairs of the quickstart
"""

import argparse
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import syntax

syntax.LEXICON = syntax.read_lexicon("lexicon.tsv", "harbour.tsv")  # before `sampling` makes its lists of words

import english  # noqa: E402
import german  # noqa: E402
from make import FILE  # noqa: E402
from splits import SEEDS, Split, phenomena, spell, split_of  # noqa: E402
from templates import TEMPLATES, Pick  # noqa: E402

SIZES: dict[Split, int] = {"train": 5_000, "validation": 500, "test": 1_000}
"""Pairs of each split, all distinct."""
NEW = {noun.english for noun in syntax.read_lexicon("harbour.tsv").noun}


def generate(split: Split) -> Iterator[dict[str, object]]:
    """Yields the distinct pairs of a split, identically on every machine."""
    pick, found = Pick(SEEDS[split]), set[str]()
    while len(found) < SIZES[split]:
        template = pick(TEMPLATES)
        key, tree = template(pick)
        new = any(isinstance(node, syntax.Phrase) and node.noun.english in NEW for node in tree.nodes())
        source = spell(english.sentence(tree))
        if new and source not in found and split_of((template.__name__, *key)) == split:
            found.add(source)
            yield {"split": split, "en": source, "de": spell(german.sentence(tree)), "tags": phenomena(tree)}


def old(number: int) -> list[dict[str, object]]:
    """The first training pairs of the quickstart."""
    rows = [json.loads(line) for line in lzma.decompress(FILE.read_bytes()).decode().splitlines()]
    return [row for row in rows if row["split"] == "train"][:number]


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write, ending in .jsonl")
    parser.add_argument("--old", type=int, default=0, metavar="N", help="add N training pairs of the quickstart")
    arguments = parser.parse_args()
    file = arguments.file
    rows = [row for split in SIZES for row in generate(split)] + old(arguments.old)
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    print(f"Wrote {len(rows):,} pairs to {file}.")


if __name__ == "__main__":
    main()
