"""Calls of commands in the tests' own process, and a small corpus for them."""

import contextlib
import gzip
import io
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from transformer.cli import main

ROOT = Path(__file__).parents[2]
TINY = """
from transformer.config import *

config = Config(
    average=2,
    data=DataConfig(max_length=32),
    model=ModelConfig(
        vocabulary_size=300, d_model=8, num_heads=2, d_ff=16, num_encoder_layers=1, num_decoder_layers=1,
        max_positions=64,
    ),
    optimizer=OptimizerConfig(warmup_steps=10, scale=0.1),
    training=TrainingConfig(steps=20, validate_every=10, log_every=5, batch_tokens=512),
    search=SearchConfig(beam_size=2, extra_length=5),
)
"""
WORDS = {"dog": "hund", "man": "mann", "red": "rot", "sees": "sieht", "house": "haus", "old": "alt", "runs": "eilt"}


class Result(NamedTuple):
    status: int | str | None
    out: str
    err: str


def call(*arguments: str, stdin: str = "", advice: str | None = None) -> Result:
    """Calls a command in this process, as a shell would.

    Args:
        arguments: the command and its options.
        stdin: the content of standard input.
        advice: what the command finds about unused accelerators.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        patch.setenv("COLUMNS", "120")
        for module in ("cli.decoding", "experiment"):
            patch.setattr(f"transformer.{module}.unused_accelerator", lambda: advice)
        patch.setattr("transformer.stages.LONG", 600.0)
        patch.setattr("transformer.compilation.LONG", 600.0)  # so that a slow machine prints no more than a fast one
        try:
            status = main(list(arguments))
        except SystemExit as exit:
            status = exit.code
    return Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def assert_refused(result: Result, message: str) -> None:
    """Checks for exit status 2 and a plain message instead of a traceback."""
    assert result.status == 2
    assert "Traceback" not in result.err
    assert re.search(message, flat(result.err)), result.err


def flat(text: str) -> str:
    """Text without boxes and line breaks."""
    return " ".join("".join(" " if "─" <= letter <= "╿" else letter for letter in text).split())


def write_corpus(folder: Path) -> None:
    """Writes three splits, plain and compressed, and a config for them."""
    generator = random.Random(0)
    for split, pairs in (("train", 200), ("val", 12), ("test", 10)):
        sides = [], []
        for _ in range(pairs):
            words = generator.choices(list(WORDS), k=generator.randint(1, 4))
            sides[0].append(" ".join(words))
            sides[1].append(" ".join(WORDS[word] for word in words))
        for language, lines in zip(("en", "de"), sides, strict=True):
            data = "".join(f"{line}\n" for line in lines).encode()
            (folder / f"{split}.{language}").write_bytes(data)
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(data))
    (folder / "tiny.py").write_text(TINY)


def damage(checkpoint: Path) -> None:
    """Overwrites the middle of every array."""
    for file in checkpoint.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            data = bytearray(file.read_bytes())
            data[50 : len(data) - 50] = random.Random(0).randbytes(max(0, len(data) - 100))
            file.write_bytes(data)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
