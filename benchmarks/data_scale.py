"""Time and memory of large training sets; sub-commands of `micro.py`."""

import contextlib
import io
import itertools
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from transformer.config import Config, DataConfig, ModelConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.text import read_lines
from transformer.data.tokens import TokenPairs
from transformer.errors import InputError
from transformer.inputs import read_inputs

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


def starts(source: str, target: str, pairs: int = 1_000_000, vocabulary_size: int = 8_000) -> None:
    """Measure the data part of a run's first and second start.

    It trains the tokenizer, tokenizes, and packs; the second start finds the tokenizer and the tokens. Each start is a
    process of its own, and its peak memory includes the libraries. The corpus repeats the given lines, with a number
    added to each repetition.

    Args:
        source: source sentences, one per line (also .gz, .xz or .zst).
        target: translations of the sources, one per line.
        pairs: number of pairs of the corpus.
        vocabulary_size: number of tokens to learn.
    """
    with tempfile.TemporaryDirectory(prefix="starts-") as folder:
        files = str(Path(folder) / "train.source"), str(Path(folder) / "train.target")
        for given, file in zip((source, target), files, strict=True):
            _repeat(given, Path(file), pairs)
        run_dir = Path(folder) / "run"
        data, model = DataConfig(train=files), ModelConfig(vocabulary_size=vocabulary_size)
        config = Config(run_dir=str(run_dir), data=data, model=model)
        print("| start | pairs | data part | of it packing | peak memory |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for number in ("first", "second", "third"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, packing, memory = pool.apply(_start, (config,))
            print(
                f"| {number} | {pairs:,} | {seconds:.2f} s | {packing:.2f} s | {memory / 2**30:.2f} GiB |", flush=True
            )


def _start(config: Config) -> tuple[float, float, int]:
    """The seconds of the data part, the seconds of packing, and the peak memory in bytes."""
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        inputs = read_inputs(config)
    read = time.perf_counter()
    length = config.data.max_length
    made = Batches(inputs.tokens["train"], config.tokenizer, tokens=25_000, row_multiple=1, seed=0, pack_length=length)
    made[0]
    ended = time.perf_counter()
    inputs.tokenizer.save(Path(config.run_dir) / "tokenizer.json")
    return ended - begun, ended - read, peak_memory()


def _repeat(given: str, file: Path, number: int) -> None:
    lines = [*read_lines(given)]
    with file.open("w", encoding="utf-8") as opened:
        for index, line in enumerate(itertools.islice(itertools.cycle(lines), number)):
            opened.write(f"{line} {index // len(lines)}\n")


def peak_memory() -> int:
    """The largest resident memory of this process so far in bytes, from /proc (see proc(5))."""
    file = Path("/proc/self/status")
    if not file.exists():
        raise InputError("Cannot read the peak memory: there is no /proc on this system. Run this on Linux.")
    return 1024 * int(next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("VmHWM:")))
