"""Measurements of single properties of this project, one per sub-command.

python benchmarks/micro.py padding --source train.en --target train.de
python benchmarks/micro.py search-errors --run runs/quickstart
python benchmarks/micro.py start --source train.en --target train.de
python benchmarks/micro.py stream-memory --run runs/tiny
python benchmarks/micro.py operations --size B
python benchmarks/micro.py pmap
python benchmarks/micro.py loss-memory
python benchmarks/micro.py planning
python benchmarks/micro.py starts --source train.en --target train.de
"""

from train_step import loss_memory, operations, pmap  # isort: skip  it sets the allocator before jax is imported

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
from data_scale import like_wmt, planning, starts

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.corpus import read_pairs
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import TokenPairs, tokenize
from transformer.errors import InputError
from transformer.inference.translator import load
from transformer.run_dir import read_config

PROGRAM = [sys.executable, "-c", "import sys; from transformer.cli import main; sys.exit(main())"]
PACK_LENGTHS = (32, 48, 64, 100, 256)
TOLERANCE = 1e-4  # relative error of a score, a float32 sum of ten to a hundred logarithms
PATIENCE = 600.0  # seconds to wait for the first step


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
                "planning": planning,
                "starts": starts,
            },
            description=str(__doc__).splitlines()[0],
        )
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def padding(source: str | None = None, target: str | None = None, vocabulary_size: int = 8_000) -> None:
    """Measure padding and host time of packed batches.

    It is measured on the given files and on synthetic WMT-like lengths. The WMT-like lengths are an assumption. They
    are log-normal (sigma 0.65). Sources have a median of 23 and a mean of 28 tokens. Targets are 1.05 times as long on
    average, with a spread of 20 % of their own. As in training, a side has at most 256 tokens.

    Args:
        source: source sentences, one per line (also .gz, .xz or .zst). Without files, only WMT-like lengths are used.
        target: translations of the sources, one per line.
        vocabulary_size: vocabulary size of the tokenizer that is trained on the files.
    """
    if (source is None) != (target is None):
        raise InputError("Only one of --source and --target is given. Give both, or neither for WMT-like lengths only.")
    print("| data | tokens per batch | pack_length | pairs | too long | shape | padding | host time per batch |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    if source is not None and target is not None:
        config = DataConfig(train=(source, target))
        pairs, report = read_pairs(config, "train")
        tokenizer = BpeTokenizer.train([*pairs.sources, *pairs.targets], vocabulary_size, TokenizerConfig())
        for length in PACK_LENGTHS:
            own = copy.deepcopy(report)
            tokens = tokenize(pairs, tokenizer, config, own, filter=True, max_length=length)
            _print_padding("files", tokens, report.kept - own.kept, 4_096, length)
    for batch_tokens, length in itertools.product((4_096, 25_000), PACK_LENGTHS):
        kept = like_wmt(200_000, length)
        _print_padding("WMT-like lengths", kept, 200_000 - kept.num_pairs, batch_tokens, length)


def _print_padding(name: str, pairs: TokenPairs, dropped: int, tokens: int, pack_length: int) -> None:
    batches = Batches(pairs, TokenizerConfig(), tokens=tokens, pack_length=pack_length, row_multiple=1, seed=0)
    number = min(200, batches.per_epoch)
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
    """Count sentences for which the search misses a better translation.

    A sentence counts for a beam size if a much wider beam or the reference has a better score. The score is the
    log-probability divided by the length penalty of the run's own search, in float32. Better translations that neither
    contains are not counted, so the numbers are lower bounds. Stahlberg and Byrne (2019, arXiv 1908.10090) count search
    errors exactly, at exponential cost.

    Args:
        run: run directory, whose test set is translated.
        beams: beam sizes whose errors are counted.
        wide: beam size of the search that they are compared with.
    """
    if min(*beams, wide) < 1:
        raise InputError(f"--beams and --wide must be at least 1, but the smallest is {min(*beams, wide)}.")
    config = read_config(run)
    pairs, _ = read_pairs(config.data, "test")
    translator = load(run, dtype="float32")
    search, alpha = config.search, config.search.length_penalty

    def penalty(length: int) -> float:
        return ((5 + length) / 6 if search.length_penalty_form == "wu" else length) ** alpha

    def scores(beam_size: int) -> np.ndarray:
        # A beam of 1 ranks nothing, so its scores are log-probabilities without the length penalty.
        wanted = dataclasses.replace(search, beam_size=beam_size, num_best=1, long_input="refuse")
        best = [found[0] for found in translator.n_best(pairs.sources, wanted)]
        return np.array([one.score / (penalty(one.tokens) if beam_size == 1 else 1) for one in best])

    given = translator.log_probabilities(pairs.sources, pairs.targets)
    reference = np.array([log_probs.sum() / penalty(len(log_probs)) for log_probs in given])
    found = {beam: scores(beam) for beam in beams}
    best = np.max([reference, scores(wide), *found.values()], axis=0)
    print(
        f"| beam | sentences | search errors (beam {wide} or reference is better) | reference is better "
        "| mean loss of score |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for beam, own in found.items():
        margin = TOLERANCE * np.abs(own)
        errors, missed = own < best - margin, own < reference - margin
        lost = (best - own)[errors].mean() if errors.any() else 0.0
        print(f"| {beam} | {len(own):,} | {errors.sum():,} ({errors.mean():.2%}) | {missed.sum():,} | {lost:.3f} |")


def start(source: str, target: str) -> None:
    """Measure the time from starting `transformer train` to the first loss.

    It is measured for the paper's base model, with an empty and with a filled compilation cache. The command reads the
    files, learns the vocabulary, makes the batches, compiles and takes one step. The time ends when the step's loss is
    in the run's log.

    Args:
        source: source sentences, one per line (also .gz, .xz or .zst).
        target: translations of the sources, one per line.
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
            f"`transformer train` made no step within {PATIENCE:.0f} s and ended with status {process.returncode}: "
            f"{errors.strip()[-300:]}"
        )
    return seconds


def stream_memory(run: str, lines: int = 1_000_000) -> None:
    """Measure the memory of `transformer translate` on a long stream.

    The memory should not grow with the stream. The sources of the run's test set are sent through a pipe again and
    again. The resident memory of the process is read while its translations arrive. The quality of the model does not
    matter, so use a small one, which is fast:

        python train.py --training.steps 1 --model.d-model 16 --model.num-heads 2 --model.d-ff 16 --run-dir runs/tiny

    Args:
        run: run directory, whose test set is translated.
        lines: number of lines to translate.
    """
    if not Path("/proc/self/status").exists():
        raise InputError("Cannot read resident memory: there is no /proc on this system. Run this on Linux.")
    pairs, _ = read_pairs(read_config(run).data, "test")
    command = [*PROGRAM, "translate", run, "--beam-size", "1", "--extra-length", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        given = itertools.islice(itertools.cycle(pairs.sources), lines)
        threading.Thread(target=_feed, args=(program.stdin, given), daemon=True).start()
        print("| lines | resident memory | lines per second |\n| ---: | ---: | ---: |")
        due, count, since = 1000, 0, (0, time.monotonic())
        for count, _ in enumerate(program.stdout, start=1):
            if count in (due, lines):
                due = max(count, due * 10 if due < 100_000 else due + 100_000)
                speed = (count - since[0]) / (time.monotonic() - since[1])
                print(f"| {count:,} | {_resident(program.pid) / 2**20:,.1f} MiB | {speed:,.0f} |", flush=True)
                since = (count, time.monotonic())
    if program.returncode or count != lines:
        raise InputError(
            f"transformer translate ended with status {program.returncode} after {count:,} of {lines:,} lines. Its "
            "message is above."
        )


def _feed(stream: IO[bytes], lines: Iterator[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the program has ended, and printed its reason
        for line in lines:
            stream.write(f"{line}\n".encode())
        stream.close()


def _resident(process: int) -> int:
    """The resident memory of a process in bytes, from /proc (see proc(5))."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


if __name__ == "__main__":
    sys.exit(main())
