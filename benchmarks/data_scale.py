"""Time and memory of large training sets; sub-commands of `micro.py`."""

import resource
import time

import numpy as np

from transformer.config import TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.tokens import TokenPairs

_CHUNK = 1_000_000


def planning(pairs: int = 100_000_000, batch_tokens: int = 25_000, pack_length: int = 256, batches: int = 200) -> None:
    """Measure the time and memory until batch 0 of a large training set.

    The lengths are those of `padding` (WMT-like), and all tokens are the same. Offsets take 16 bytes per pair.

    Args:
        pairs: number of sentence pairs to draw, before those that do not fit into a row are dropped.
        batch_tokens: tokens of a batch per side.
        pack_length: tokens of a row.
        batches: number of batches to make, spread over three epochs.
    """
    tokens = like_wmt(pairs, pack_length)
    before = peak_memory()
    begun = time.perf_counter()
    made = Batches(tokens, TokenizerConfig(), tokens=batch_tokens, pack_length=pack_length, row_multiple=1, seed=0)
    planned = time.perf_counter() - begun
    made[0]
    ready = time.perf_counter() - begun
    numbers = np.linspace(0, 3 * made.per_epoch - 1, batches).astype(int).tolist()
    begun = time.perf_counter()
    for n in numbers:
        made[n]
    each = (time.perf_counter() - begun) / batches * 1e3
    S, T, rows = made.shape
    print("| pairs | shape | padding | planning | until batch 0 | peak memory | of it before planning | per batch |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {tokens.num_pairs:,} | {S} x {T}, {rows} rows | {made.padding:.2%} | {planned:.1f} s | {ready:.1f} s "
        f"| {peak_memory() / 2**30:.2f} GiB | {before / 2**30:.2f} GiB | {each:.2f} ms |"
    )


def like_wmt(pairs: int, longest: int) -> TokenPairs:
    """Pairs with WMT-like lengths and at most `longest` tokens per side, of one token again and again."""
    offsets, kept = np.zeros((2, pairs + 1), np.int64), 0
    for chunk, start in enumerate(range(0, pairs, _CHUNK)):
        generator, number = np.random.default_rng(chunk), min(_CHUNK, pairs - start)
        source = np.exp(generator.normal(np.log(23), 0.65, number))
        target = 1.03 * source * np.exp(generator.normal(0, 0.2, number))
        lengths = np.clip(np.round([source, target]), 1, 255).astype(np.int64)
        lengths = lengths[:, (lengths < longest).all(axis=0)]  # the end token is counted, too
        ends = kept + lengths.shape[1]
        offsets[:, kept + 1 : ends + 1] = offsets[:, kept : kept + 1] + np.cumsum(lengths, axis=1)
        kept = ends
    source, target = offsets[:, : kept + 1]
    ids = [np.broadcast_to(np.uint16(3), total) for total in (source[-1], target[-1])]
    return TokenPairs(ids[0], source, ids[1], target)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes (Linux counts it in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
