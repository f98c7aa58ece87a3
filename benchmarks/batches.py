"""Padding, number of shapes and host time of the batches: on given files, and on lengths as those of WMT.

    python benchmarks/batches.py [--source train.en --target train.de]

The synthetic lengths stand in for WMT's, and are an assumption: log-normal, a source of median 23 pieces and mean 28
(sigma 0.65), and a target of 1.05 times as many on average with a spread of 20 % of its own; at most 256 pieces a side,
as in training.
"""

import argparse
import sys
import time
from typing import Any

import numpy as np

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches, TokenPairs, tokenize
from transformer.data.corpus import read_pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError

LAYOUTS = [(4, None), (8, None), (12, None), (16, None), (24, None), (8, 32), (8, 48), (8, 64)]
"""Shapes at the most, and the length of packed rows."""


def like_wmt(pairs: int) -> TokenPairs:
    """Pairs of random ids with such lengths."""
    generator = np.random.default_rng(0)
    source = np.exp(generator.normal(np.log(23), 0.65, pairs))
    target = 1.03 * source * np.exp(generator.normal(0, 0.2, pairs))
    lengths = [np.clip(np.round(x), 1, 255).astype(np.int64) for x in (source, target)]
    offsets = [np.concatenate([[0], np.cumsum(x)]) for x in lengths]
    ids = [np.full(x[-1], 3, np.int32) for x in offsets]
    return TokenPairs(ids[0], offsets[0], ids[1], offsets[1])


def describe(name: str, pairs: TokenPairs, tokens: int) -> None:
    """One row of the table for each layout."""
    special: Any = {"pad_id": 0, "start_id": 1, "end_id": 2}
    for most, packed in LAYOUTS:
        batches = Batches(pairs, tokens=tokens, num_shapes=most, pack_length=packed, row_multiple=1, seed=0, **special)
        number = min(200, batches.per_epoch)
        batches[0]  # lays out the epoch
        start = time.perf_counter()
        for n in range(number):
            batches[n]
        milliseconds = (time.perf_counter() - start) / number * 1e3
        print(
            f"| {name} | {pairs.num_pairs:,} | {tokens:,} | {most} | {packed or ''} | {len(batches.shapes)} "
            f"| {batches.padding:.2%} | {milliseconds:.2f} ms |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--source", help="source sentences, one a line (.gz, .xz and .zst too)")
    parser.add_argument("--target", help="their translations")
    parser.add_argument("--pieces", type=int, default=8_000, help="of the tokenizer that is trained on the files")
    options = parser.parse_args()
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    print(
        "| pairs of | number | tokens a batch | shapes at most | packed into | shapes | padding | a batch on the host |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    try:
        if options.source is not None:
            pairs, report = read_pairs(DataConfig(train=(options.source, options.target)), "train")
            tokenizer = Tokenizer.train([*pairs.sources, *pairs.targets], options.pieces, TokenizerConfig())
            describe("the files", tokenize(pairs, tokenizer, DataConfig(), report, filter=True), 4_096)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    describe("synthetic lengths", like_wmt(200_000), 4_096)
    describe("synthetic lengths", like_wmt(200_000), 25_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
