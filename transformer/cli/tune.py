"""The `transformer tune` command, which chooses a beam size and a length penalty."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.cli.pairs import PairOptions, checked_metrics, given_pairs
from transformer.config import DataConfig
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.data.corpus import Pairs


@dataclass(frozen=True)
class TuningOptions(PairOptions, DecodingOptions):
    """Compare beam sizes and length penalties by BLEU on the validation set.

    Each beam size needs one search. The most probable translations that it finds are ranked by every length penalty, so
    more penalties cost nothing. Uses the run's validation set, or --source and --reference.

        transformer tune runs/quickstart --beams 1 4 8 --alphas 0 0.6 1"""

    beams: tuple[int, ...] = (1, 2, 4, 8)
    """Beam sizes to compare."""
    alphas: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    """Exponents of the length penalty to compare, in both forms (see --length-penalty-form)."""
    candidates: int = 32
    """Number of translations per sentence to rank. A translation outside this number is never chosen, so a larger
    number makes the comparison more exact."""


def main(arguments: list[str]) -> None:
    """Compares beam sizes and length penalties on a validation set."""
    options = parse(TuningOptions, arguments, "tune")
    from transformer.run_dir import read_config

    if not options.beams or min(options.beams) < 1:
        raise InputError(f"--beams must be at least 1, but got {_listed(options.beams)}.")
    if not options.alphas or min(options.alphas) < 0:
        raise InputError(f"--alphas must not be negative, but got {_listed(options.alphas)}.")
    config = read_config(options.run)
    pairs = _pairs(options, config.data)
    metrics = checked_metrics(options, config, pairs)
    translator = load_translator(options)
    from transformer.inference.tune import trials

    search = dataclasses.replace(options.search, num_best=options.candidates)
    results = []
    print("beam  form   alpha   BLEU")
    for trial in trials(translator, pairs, search, sorted({*options.beams}), sorted({*options.alphas}), metrics):
        beam_size, alpha, form, bleu = trial
        print(f"{beam_size:4}  {form:<5}{alpha:7.2f}{bleu:7.2f}", flush=True)
        results.append(trial)
    best = max(results, key=lambda trial: trial.bleu)  # the smallest beam and penalty, if several are equal
    print(
        f"Highest BLEU: --beam-size {best.beam_size} --length-penalty {best.length_penalty:g} --length-penalty-form "
        f"{best.length_penalty_form} (for translate and evaluate). For train, put `search.` before each name, as in "
        f"--search.beam-size {best.beam_size}."
    )


def _listed(values: Sequence[float | int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _pairs(options: TuningOptions, data: DataConfig) -> "Pairs":
    from transformer.kept_pairs import read_validation_set

    if (pairs := given_pairs(options, data)) is not None:
        return pairs
    return read_validation_set(options.run, data)
