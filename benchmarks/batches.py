"""Padding and host time of packed batches, on given files and on lengths like those of WMT.

    python benchmarks/batches.py [--source train.en --target train.de]

The synthetic lengths stand in for WMT's, and are an assumption: log-normal, a source of median 23 tokens and mean 28
(sigma 0.65), and a target of 1.05 times as many on average with a spread of 20 % of its own; at most 256 tokens a side,
as in training.
"""

import argparse
import copy
import sys
import time
from typing import Any

import numpy as np

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches, TokenPairs, tokenize
from transformer.data.corpus import read_pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError

PACK_LENGTHS = (32, 48, 64, 100, 256)


def like_wmt(pairs: int, longest: int) -> TokenPairs:
    """Pairs of random ids with such lengths; those with more than `longest` tokens on a side are left out."""
    generator = np.random.default_rng(0)
    source = np.exp(generator.normal(np.log(23), 0.65, pairs))
    target = 1.03 * source * np.exp(generator.normal(0, 0.2, pairs))
    lengths = np.clip(np.round([source, target]), 1, 255).astype(np.int64)
    lengths = lengths[:, (lengths < longest).all(axis=0)]  # the end id is counted, too
    offsets = [np.concatenate([[0], np.cumsum(x)]) for x in lengths]
    ids = [np.full(x[-1], 3, np.int32) for x in offsets]
    return TokenPairs(ids[0], offsets[0], ids[1], offsets[1])


def describe(name: str, pairs: TokenPairs, dropped: int, tokens: int, pack_length: int) -> None:
    """One row of the table."""
    special: Any = {"pad_id": 0, "start_id": 1, "end_id": 2}
    batches = Batches(pairs, tokens=tokens, pack_length=pack_length, row_multiple=1, seed=0, **special)
    number = min(200, batches.per_epoch)
    batches[0]  # lays out the epoch
    start = time.perf_counter()
    for n in range(number):
        batches[n]
    milliseconds = (time.perf_counter() - start) / number * 1e3
    S, T, rows = batches.shape
    print(
        f"| {name} | {tokens:,} | {pack_length} | {pairs.num_pairs:,} | {dropped:,} | {S} x {T}, {rows} rows "
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
    print("| pairs of | tokens a batch | pack_length | pairs | too long | shape | padding | a batch on the host |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    try:
        if options.source is not None:
            config = DataConfig(train=(options.source, options.target))
            pairs, report = read_pairs(config, "train")
            tokenizer = Tokenizer.train([*pairs.sources, *pairs.targets], options.pieces, TokenizerConfig())
            for length in PACK_LENGTHS:
                own = copy.deepcopy(report)
                tokens = tokenize(pairs, tokenizer, config, own, filter=True, max_length=length)
                describe("the files", tokens, report.kept - own.kept, 4_096, length)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for batch_tokens in (4_096, 25_000):
        for length in PACK_LENGTHS:
            kept = like_wmt(200_000, length)
            describe("synthetic lengths", kept, 200_000 - kept.num_pairs, batch_tokens, length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
