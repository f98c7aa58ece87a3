"""Compare the training speed of this project and its alternatives on one machine.

    pip install -e . && pip install -r benchmarks/requirements.txt    # see there for PyTorch and Joey NMT
    python benchmarks/training.py --source train.en --target train.de

Every program trains the same model (dropout 0.1, label smoothing 0.1, one embedding for source, target and output,
Adam) on the same batches. A batch has pairs of similar length, one per row, since the other programs do not pack. Each
program runs in its own process and sleeps while another one is measured. They take turns (A B C A B C ...). A turn is
one unmeasured step, then some measured steps of forward, backward and update.

The tables show, as median and quartiles over the turns:

- source and target tokens per second, without padding
- the share of the machine's matmul limit that the model's FLOPs reach, padding included (measured in the same turns)
- peak memory
- the time from the start of the process to its first step, and until it has seen every shape ("warm")

There are two settings. In "alone", each program starts as usual, with empty compilation caches. In "alike", all have
the same allocator settings, and the caches are those that "alone" has filled, if it ran before.

`--output FILE.json` saves all measurements after each part, and the same command resumes an interrupted run from it.
`--csv FILE` appends medians and quartiles in the columns of `results.csv`. `--device gpu` measures the sizes base and
big on a GPU.
"""

import argparse
import contextlib
import copy
import datetime
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peers.children import Child, command, in_turns, probe
from peers.job import SIZES, Arrays, Job
from peers.report import TITLES, rows, table
from results import append

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.corpus import Pairs, Report, read_pairs
from transformer.data.rows import of_one_width, pad
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import TokenPairs, tokenize
from transformer.errors import InputError
from transformer.files import check_writable, write_whole
from transformer.training.utilization import step_flops

ALIKE = {  # glibc keeps freed memory, so buffers that are allocated at each step cause no page faults
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
SETTINGS: dict[str, dict[str, str]] = {"alone": {}, "alike": ALIKE}
# Not by default: programs that compile a peer's eager code, or one graph for each of many shapes. Both take long.
DEFAULT = {
    "cpu": (
        "ours",
        "plain_linen",
        "torch_transformer",
        "torch_transformer:dynamic",
        "marian",
        "joeynmt_peer",
    ),
    "gpu": ("ours", "torch_transformer:static", "torch_transformer:dynamic"),
}


def main() -> int:
    try:
        run(parse_options())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--source", required=True, help="source sentences, one per line (also .gz, .xz or .zst)")
    parser.add_argument("--target", required=True, help="translations of the sources, one per line")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--size", nargs="+", choices=SIZES, help="model sizes; default: S B, on a GPU base big")
    parser.add_argument("--dtype", choices=("auto", "float32"), default="auto", help="auto: bfloat16 where it is fast")
    parser.add_argument(
        "--programs", nargs="+", choices=TITLES, help="default: one of each kind, on a GPU ours and compiled PyTorch"
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: alone alike, on a GPU alone")
    parser.add_argument("--turns", type=int, default=9, help="turns of each program")
    parser.add_argument("--steps", type=int, default=8, help="measured steps per turn")
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file, or resume from it")
    parser.add_argument("--csv", type=Path, help="append medians and quartiles to this file")
    options = parser.parse_args()
    gpu = options.device == "gpu"
    options.size = options.size or (["base", "big"] if gpu else ["S", "B"])
    options.programs = options.programs or list(DEFAULT[options.device])
    options.settings = options.settings or (["alone"] if gpu else list(SETTINGS))
    for name in ("turns", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def run(options: argparse.Namespace) -> None:
    for file in (options.output, options.csv):
        if file is not None:
            check_writable(file)
    machine = probe(options.device)  # in a child process, because jax must not hold the device in this one
    dtype = machine.pop("dtype") if options.dtype == "auto" else "float32"
    machine |= {"system": platform.platform(), "python": platform.python_version()}
    # An existing result is resumed only if it has the same settings and comes from the same machine.
    same = {
        "machine": machine,
        "device": options.device,
        "dtype": dtype,
        "turns": options.turns,
        "steps": options.steps,
        "files": [Path(options.source).name, Path(options.target).name],
    }
    result: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        **same,
        "parts": {},
    }
    if options.output is not None and options.output.exists():
        begun = json.loads(options.output.read_text(encoding="utf-8"))
        different = [name for name, value in same.items() if begun[name] != value]
        if different:
            raise InputError(
                f"Cannot resume from {options.output}. It differs in: {', '.join(different)}. Give another --output, "
                "or remove the file."
            )
        result = begun
    pairs, report = read_pairs(DataConfig(train=(options.source, options.target)), "train")
    print(f"{report}", flush=True)
    with work_folder(options.output) as work:
        for name in options.size:
            job, data = make_job(name, pairs, report, options, dtype, work)
            for setting in options.settings:
                part = result["parts"].setdefault(f"{name} {setting}", {"data": data, "programs": {}})
                if not {*options.programs} <= {*part["programs"]}:
                    # Programs that were measured before are measured again, so that all ratios are of the same turns.
                    programs = [*options.programs, *(one for one in part["programs"] if one not in options.programs)]
                    part |= measure(job, setting, programs, options, work) | {"command": command()}
                    if options.output is not None:
                        write_whole(options.output, f"{json.dumps(result, indent=1)}\n".encode())
                    if options.csv is not None:
                        append(rows(name, setting, part, result), options.csv)
                print(f"\n{table(name, setting, part, result)}", flush=True)


@contextlib.contextmanager
def work_folder(output: Path | None) -> Iterator[Path]:
    """A folder for batches and caches, temporary or next to the output.

    Its path is absolute, because the programs run in another working directory.
    """
    if output is None:
        with tempfile.TemporaryDirectory(prefix="training-") as folder:
            yield Path(folder)
    else:
        folder = output.resolve().with_suffix(".work")
        folder.mkdir(exist_ok=True)
        yield folder


def make_job(
    name: str, pairs: Pairs, report: Report, options: argparse.Namespace, dtype: str, work: Path
) -> tuple[Job, dict[str, Any]]:
    """Writes the batches of one model size to a file.

    Returns: The job for the programs, and what the report says about the data.
    """
    size, special = SIZES[name], TokenizerConfig()
    tokenizer = BpeTokenizer.train([*pairs.sources, *pairs.targets], size.tokenizer_size, special)
    report = copy.deepcopy(report)  # which pairs are too long depends on the tokenizer
    tokens = tokenize(pairs, tokenizer, DataConfig(), report, filter=True)
    number, seen = options.turns * options.steps, {}
    chosen = make_batches(tokens, size.batch_tokens, number, special)
    for n, batch in enumerate(chosen):
        seen.setdefault(batch.source.shape, n)
    # Every shape is compiled before the turns. The widest comes first, so that most memory is allocated at once.
    warm_up = tuple(seen[shape] for shape in sorted(seen, key=lambda shape: -shape[1]))
    file = work / f"{name}.npz"
    np.savez(file, **{f"{n}/{key}": x for n, batch in enumerate(chosen) for key, x in batch._asdict().items()})
    job = Job(
        size=size,
        dtype=dtype,
        device=options.device,
        batches=str(file),
        num_batches=number,
        warm_up=warm_up,
        longest=max(width for _, width in seen),
        pad_id=special.pad_id,
        start_id=special.start_id,
        end_id=special.end_id,
    )
    real = [int(batch.source_mask.sum() + batch.target_mask.sum()) for batch in chosen]
    data = {
        "pairs": report.kept,
        "padding": 1 - sum(real) / sum(batch.source.size + batch.target_output.size for batch in chosen),
        "shapes": len(seen),
        "tokens": real,
        "flops": [
            step_flops(size.config(), batch.source.shape[1], batch.target_input.shape[1], len(batch.row))
            for batch in chosen
        ],
    }
    return job, data


def make_batches(pairs: TokenPairs, tokens: int, number: int, special: TokenizerConfig) -> list[Arrays]:
    """Random batches of pairs of similar length, one pair per row."""
    read, written = (
        [sentence.tolist() for sentence in np.split(ids, offsets[1:-1])] for ids, offsets in (pairs[:2], pairs[2:4])
    )
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    longest = int(lengths.max())
    widths = [width for power in (8, 16, 32, 64, 128, 256, 512) for width in (power, power * 3 // 2) if width < longest]
    layout = list(of_one_width(lengths, [*widths, longest], tokens, row_divisor=4))
    order, batches = np.random.default_rng(0).permutation(len(layout)), []
    for n in range(number):
        width, rows, chosen = layout[order[n % len(layout)]]
        source, source_mask = pad([[*read[pair], special.end_id] for pair in chosen], rows, width, special.pad_id)
        shifted, _ = pad([[special.start_id, *written[pair]] for pair in chosen], rows, width, special.pad_id)
        output, mask = pad([[*written[pair], special.end_id] for pair in chosen], rows, width, special.pad_id)
        batches.append(Arrays(source, source_mask, shifted, output, mask, np.arange(rows, dtype=np.int32)))
        fill_empty_rows(batches[-1], special.end_id)
    return batches


def fill_empty_rows(batch: Arrays, end_id: int) -> None:
    """Writes an end token into each empty row.

    The softmax of most peers turns rows of padding into NaN.
    """
    empty = ~batch.source_mask[:, 0]
    for ids, mask in ((batch.source, batch.source_mask), (batch.target_output, batch.target_mask)):
        ids[empty, 0], mask[empty, 0] = end_id, True


def measure(job: Job, setting: str, chosen: list[str], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measures one part of the result, all programs for one model size and setting."""
    cache = work / "cache"
    if setting == "alone":
        shutil.rmtree(cache, ignore_errors=True)
    environment = SETTINGS[setting] | {"XDG_CACHE_HOME": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    job_file = work / "job.json"
    job_file.write_text(job.to_json(), encoding="utf-8")
    programs = in_turns(
        ("limit", *chosen),
        lambda name: Child(name, job_file, environment, job.device),
        options.turns,
        lambda child, turn: child.ask(first=turn * options.steps, steps=options.steps),
    )
    limit = programs.pop("limit")
    return {"limit": limit, "programs": programs, "finished": datetime.datetime.now(datetime.UTC).isoformat()}


if __name__ == "__main__":
    sys.exit(main())
