"""Single measurements of this project, each a sub-command.

python benchmarks/micro.py padding --source train.en --target train.de
python benchmarks/micro.py search-errors --run runs/quickstart
python benchmarks/micro.py start --source train.en --target train.de
python benchmarks/micro.py stream-memory --run runs/tiny
python benchmarks/micro.py operations --size B
python benchmarks/micro.py pmap
python benchmarks/micro.py loss-memory
"""

from train_step import loss_memory, operations, pmap  # isort: skip  it sets the allocator, before jax

import contextlib
import copy
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import tyro

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches, TokenPairs, tokenize
from transformer.data.corpus import read_pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.translator import load
from transformer.run_dir import read_config

PROGRAM = [sys.executable, "-c", "import sys; from transformer.cli import main; sys.exit(main())"]
PACK_LENGTHS = (32, 48, 64, 100, 256)
TOLERANCE = 1e-4  # of a score, relative to it: float32 sums of some ten to a hundred logarithms
PATIENCE = 600.0  # seconds to wait for a first step


def main() -> int:
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "padding": padding,
                "search-errors": search_errors,
                "start": start,
                "stream-memory": stream_memory,
                "operations": operations,
                "pmap": pmap,
                "loss-memory": loss_memory,
            },
            description=str(__doc__).splitlines()[0],
        )
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def padding(source: str | None = None, target: str | None = None, pieces: int = 8_000) -> None:
    """Padding and host time of packed batches, on given files and on lengths like those of WMT.

    The synthetic lengths stand in for WMT's, and are an assumption: log-normal (sigma 0.65), a source of median 23 and
    mean 28 tokens, and a target of 1.05 times as many on average with a spread of 20 % of its own; at most 256 tokens a
    side, as in training.

    Args:
        source: source sentences, one a line (.gz, .xz and .zst too); without files only the synthetic lengths.
        target: their translations.
        pieces: size of the vocabulary of the tokenizer that is trained on the files.
    """
    if (source is None) != (target is None):
        raise InputError("--source and --target go together.")
    print("| pairs of | tokens a batch | pack_length | pairs | too long | shape | padding | a batch on the host |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    if source is not None and target is not None:
        config = DataConfig(train=(source, target))
        pairs, report = read_pairs(config, "train")
        tokenizer = Tokenizer.train([*pairs.sources, *pairs.targets], pieces, TokenizerConfig())
        for length in PACK_LENGTHS:
            own = copy.deepcopy(report)
            tokens = tokenize(pairs, tokenizer, config, own, filter=True, max_length=length)
            _print_padding("the files", tokens, report.kept - own.kept, 4_096, length)
    for batch_tokens, length in itertools.product((4_096, 25_000), PACK_LENGTHS):
        kept = like_wmt(200_000, length)
        _print_padding("synthetic lengths", kept, 200_000 - kept.num_pairs, batch_tokens, length)


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


def _print_padding(name: str, pairs: TokenPairs, dropped: int, tokens: int, pack_length: int) -> None:
    batches = Batches(pairs, TokenizerConfig(), tokens=tokens, pack_length=pack_length, row_multiple=1, seed=0)
    number = min(200, batches.per_epoch)
    batches[0]  # lays out the epoch
    begun = time.perf_counter()
    for n in range(number):
        batches[n]
    milliseconds = (time.perf_counter() - begun) / number * 1e3
    S, T, rows = batches.shape
    print(
        f"| {name} | {tokens:,} | {pack_length} | {pairs.num_pairs:,} | {dropped:,} | {S} x {T}, {rows} rows "
        f"| {batches.padding:.2%} | {milliseconds:.2f} ms |",
        flush=True,
    )


def search_errors(run: str, beams: tuple[int, ...] = (1, 2, 4, 8), wide: int = 64) -> None:
    """Search errors: on how many sentences does a search miss a translation that its own model finds better?

    A sentence counts for a beam size if a much wider beam has found, or the reference is, a translation of a better
    score: log-probability over length penalty, both of the run's own search. What nobody knows of cannot be counted, so
    these are lower bounds (Stahlberg and Byrne 2019, arXiv 1908.10090, count them exactly, at exponential cost). In
    float32.

    Args:
        run: run directory; its test set is searched.
        beams: beam sizes whose errors are counted.
        wide: beam size that they are held against.
    """
    if min(*beams, wide) < 1:
        raise InputError("A beam has at least 1 hypothesis.")
    config = read_config(run)
    pairs, _ = read_pairs(config.data, "test")
    translator = load(run, dtype="float32")
    search, alpha = config.search, config.search.length_penalty

    def penalty(length: int) -> float:
        return ((5 + length) / 6 if search.length_penalty_form == "wu" else length) ** alpha

    def scores(beam_size: int) -> np.ndarray:
        # A beam of 1 does not rank, and gives log-probabilities.
        wanted = dataclasses.replace(search, beam_size=beam_size, num_best=1, long_input="refuse")
        best = [found[0] for found in translator.n_best(pairs.sources, wanted)]
        return np.array([one.score / (penalty(one.tokens) if beam_size == 1 else 1) for one in best])

    given = translator.log_probabilities(pairs.sources, pairs.targets)
    reference = np.array([log_probs.sum() / penalty(len(log_probs)) for log_probs in given])
    found = {beam: scores(beam) for beam in beams}
    best = np.max([reference, scores(wide), *found.values()], axis=0)
    print(
        f"| beam | sentences | search errors, beam {wide} or reference better | the reference alone "
        "| mean score lost by these |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for beam, own in found.items():
        margin = TOLERANCE * np.abs(own)
        errors, missed = own < best - margin, own < reference - margin
        lost = (best - own)[errors].mean() if errors.any() else 0.0
        print(f"| {beam} | {len(own):,} | {errors.sum():,} ({errors.mean():.2%}) | {missed.sum():,} | {lost:.3f} |")


def start(source: str, target: str) -> None:
    """From the command to the first step's loss, for the paper's base model, without and with a compilation cache.

    The command is `transformer train`: it reads the files, trains the tokenizer, makes the batches, compiles and takes
    one step. The time ends when the step's loss is in the run's log.

    Args:
        source: source sentences, one a line (.gz, .xz and .zst too).
        target: their translations.
    """
    files = [str(Path(name).resolve()) for name in (source, target)]
    with tempfile.TemporaryDirectory(prefix="start-") as directory:
        for cache in ("empty", "filled", "filled"):
            seconds = _seconds_to_first_step(files, Path(directory))
            print(f"compilation cache {cache}: {seconds:.1f} s to the first step", flush=True)


def _seconds_to_first_step(files: list[str], directory: Path) -> float:
    run_dir = directory / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    options = "--model.vocabulary-size 8000 --training.batch-tokens 4096 --training.steps 1 --training.log-every 1"
    command = [
        *PROGRAM,
        "train",
        "--config",
        "base",
        "--data.train",
        *files,
        "--run-dir",
        str(run_dir),
        *options.split(),
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(directory / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log, seconds = run_dir / "metrics.jsonl", None
    while seconds is None and process.poll() is None and time.perf_counter() - begun < PATIENCE:
        if log.exists() and log.stat().st_size:
            seconds = time.perf_counter() - begun
        time.sleep(0.02)
    _, errors = process.communicate(timeout=PATIENCE)
    if seconds is None:
        raise InputError(
            f"`transformer train` took no step within {PATIENCE:.0f} s and ended with status {process.returncode}: "
            f"{errors.strip()[-300:]}"
        )
    return seconds


def stream_memory(run: str, lines: int = 1_000_000) -> None:
    """Memory of `transformer translate` on a long stream: it must not grow with the number of lines.

        python train.py --training.steps 1 --model.d-model 16 --model.num-heads 2 --model.d-ff 16 --run-dir runs/tiny

    makes the smallest run, which is the fastest; what a model has learned makes no difference. The sources of the run's
    test set go round and round through a pipe, and the resident memory of the process is read as the translations come
    out.

    Args:
        run: run directory; its test set is translated again and again.
        lines: how many lines.
    """
    if not Path("/proc/self/status").exists():
        raise InputError("Resident memory is read from /proc, which only Linux has: run this there.")
    pairs, _ = read_pairs(read_config(run).data, "test")
    command = [*PROGRAM, "translate", run, "--beam-size", "1", "--extra-length", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        given = itertools.islice(itertools.cycle(pairs.sources), lines)
        threading.Thread(target=_feed, args=(program.stdin, given), daemon=True).start()
        print("| lines out | resident memory | lines a second |\n| ---: | ---: | ---: |")
        due, count, since = 1000, 0, (0, time.monotonic())
        for count, _ in enumerate(program.stdout, start=1):
            if count in (due, lines):
                due = max(count, due * 10 if due < 100_000 else due + 100_000)
                speed = (count - since[0]) / (time.monotonic() - since[1])
                print(f"| {count:,} | {_resident(program.pid) / 2**20:,.1f} MiB | {speed:,.0f} |", flush=True)
                since = (count, time.monotonic())
    if program.returncode or count != lines:
        raise InputError(f"transformer translate gave {count:,} lines and exit status {program.returncode}; see above.")


def _feed(stream: IO[bytes], lines: Iterator[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the program has ended, and said why
        for line in lines:
            stream.write(f"{line}\n".encode())
        stream.close()


def _resident(process: int) -> int:
    """Bytes of memory that the process holds now. Source: proc(5)."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


if __name__ == "__main__":
    sys.exit(main())
