"""Training speed side by side: this project and what somebody would pick instead, on one machine, in turns.

    pip install -e . && pip install -r benchmarks/requirements.txt    # see there for PyTorch and Joey NMT
    python benchmarks/training.py --source train.en --target train.de

Every program trains the same model (dropout 0.1, label smoothing 0.1, one embedding for source, target and output,
Adam) on the same batches, in a process of its own that sleeps while it is not its turn. A batch has pairs of about the
same length, one in each row, since the other programs do not pack. The turns go A B C A B C ...; a turn is some steps
of forward, backward and update, after one that is not measured. Reported, as median and quartiles over the turns, are
the source and target tokens a second that are no padding; the share of the machine's matmul limit, measured in the same
turns, that the FLOPs of the model reach, padding included; peak memory; and the time from the start of the process to
its first step and until it has seen every shape. Once with each program's own start-up ("alone"), with compilation
caches that are empty, and once with the same allocator settings for all ("alike"), with the caches that the first has
filled, if it has been run.

With `--output FILE.json` everything that was measured is written after each part, and the same command goes on where it
was stopped. `--csv FILE` appends medians and quartiles, in the columns of `results.csv`. `--device gpu` runs base and
big, where there is a GPU.
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
from transformer.data.batches import TokenPairs, tokenize
from transformer.data.corpus import Pairs, Report, read_pairs
from transformer.data.rows import of_one_width, pad
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.files import check_writable, write_whole

ALIKE = {  # glibc keeps what it has: no page faults for buffers that are allocated anew at each step
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
SETTINGS: dict[str, dict[str, str]] = {"alone": {}, "alike": ALIKE}
# Compiling eagerly written peers, or one graph for each of many shapes, takes long: only when they are named.
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
    parser.add_argument("--source", required=True, help="source sentences, one a line (.gz, .xz and .zst too)")
    parser.add_argument("--target", required=True, help="their translations")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--size", nargs="+", choices=SIZES, help="default: S B, and base big on a GPU")
    parser.add_argument("--dtype", choices=("auto", "float32"), default="auto", help="auto: bfloat16 where it is fast")
    parser.add_argument(
        "--programs", nargs="+", choices=TITLES, help="default: one of each, on a GPU ours and PyTorch compiled"
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="allocator; default: both, on a GPU alone")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="steps a turn")
    parser.add_argument("--output", type=Path, help="write all that was measured as JSON, and go on with what is there")
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
    machine = probe(options.device)  # in a child: jax must not hold the device here
    dtype = machine.pop("dtype") if options.dtype == "auto" else "float32"
    machine |= {"system": platform.platform(), "python": platform.python_version()}
    # A result that was begun is gone on with, if it is of the same run on the same machine.
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
                f"{options.output} has a result with other {', '.join(different)}. Give another --output, or remove it."
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
                    # All in the same turns, those measured before as well, or ratios would span two afternoons.
                    programs = [*options.programs, *(one for one in part["programs"] if one not in options.programs)]
                    part |= measure(job, setting, programs, options, work) | {"command": command()}
                    if options.output is not None:
                        write_whole(options.output, f"{json.dumps(result, indent=1)}\n".encode())
                    if options.csv is not None:
                        append(rows(name, setting, part, result), options.csv)
                print(f"\n{table(name, setting, part, result)}", flush=True)


@contextlib.contextmanager
def work_folder(output: Path | None) -> Iterator[Path]:
    """A folder for batches and compilation caches: kept beside the output, so that the command can go on, or temporary.

    Its path is absolute, because the programs run in a folder of their own.
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
    """The batches of one size in a file, and what is to be known of them."""
    size, special = SIZES[name], TokenizerConfig()
    tokenizer = Tokenizer.train([*pairs.sources, *pairs.targets], size.pieces, special)
    report = copy.deepcopy(report)  # what is too long depends on the tokenizer
    tokens = tokenize(pairs, tokenizer, DataConfig(), report, filter=True)
    number, seen = options.turns * options.steps, {}
    chosen = make_batches(tokens, size.batch_tokens, number, special)
    for n, batch in enumerate(chosen):
        seen.setdefault(batch.source.shape, n)
    # Every shape that the turns need is compiled before them; the longest first, which settles the memory.
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
            size.step_flops(len(batch.row), batch.source.shape[1], batch.target_input.shape[1]) for batch in chosen
        ],
    }
    return job, data


def make_batches(pairs: TokenPairs, tokens: int, number: int, special: TokenizerConfig) -> list[Arrays]:
    """Random batches of pairs of about the same length, with a pair in each row."""
    read, written = (
        [sentence.tolist() for sentence in np.split(ids, offsets[1:-1])] for ids, offsets in (pairs[:2], pairs[2:])
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
    """Makes rows of padding, of which most peers' softmax makes NaN, pairs of empty sentences: the end id alone."""
    empty = ~batch.source_mask[:, 0]
    for ids, mask in ((batch.source, batch.source_mask), (batch.target_output, batch.target_mask)):
        ids[empty, 0], mask[empty, 0] = end_id, True


def measure(job: Job, setting: str, chosen: list[str], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One part: all programs started one after the other, then the turns."""
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
