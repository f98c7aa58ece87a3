"""`transformer compare`: whether one run translates better than another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.inference.results import Result


@dataclass(frozen=True)
class ComparisonOptions:
    """Compare two runs on their test set: a paired bootstrap test, what else differs, the sentences that changed."""

    first: Positional[str]
    """The run to compare with, or a folder of `transformer evaluate --output`."""
    second: Positional[str]
    """The run in question, or such a folder."""
    sentences: int = 5
    """How many of the sentences that changed the most are shown."""


def main(arguments: list[str]) -> None:
    """Compare two runs on their test set."""
    options = tyro.cli(ComparisonOptions, args=arguments, prog="transformer compare")
    first, second = _read(options.first), _read(options.second)
    from transformer.analysis.comparison import compare, to_text

    print(to_text(compare(first, second), first, second, options.sentences))


def _read(run_dir: str) -> "Result":
    """What a run has kept of its test set, or an evaluation of its own: nothing is translated anew."""
    from transformer.inference.results import EVALUATION, Result, read_result, settings

    if (Path(run_dir) / EVALUATION).exists():
        return read_result(run_dir)
    from transformer.data.tokenizer import Tokenizer
    from transformer.experiment import read_test_set
    from transformer.run_dir import checkpoint_steps, read_config, training_data

    config, run = read_config(run_dir), Path(run_dir)
    for name in ("hypotheses.txt", "scores.json"):
        if not (run / name).exists():
            raise InputError(f"The run in {run_dir} has no {name}: it has not come to its end, or has no test set.")
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(run / "tokenizer.json", config.tokenizer, config.model.vocabulary_size)
    return Result(
        name=run_dir,
        pairs=read_test_set(run_dir, config.data),
        hypotheses=(run / "hypotheses.txt").read_text(encoding="utf-8").split("\n")[:-1],
        config=settings(config, checkpoint_steps(run)),
        tokenizer=tokenizer.fingerprint,
        training_data=training_data(run),
        signatures={name: scores[name]["signature"] for name in ("bleu", "chrf", "ter")},
    )
