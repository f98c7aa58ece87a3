"""`transformer tune`: the beam size and the length penalty with the highest BLEU on a validation set."""

import dataclasses
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
    """BLEU of the validation set by beam size and length penalty, from one search a beam size.

    The most probable translations that a search comes across are ranked by each length penalty. A larger --candidates
    leaves less to chance: a translation that is not among them is not ranked."""

    beams: tuple[int, ...] = (1, 2, 4, 8)
    """Beam sizes to compare."""
    alphas: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    """Exponents of the length penalty to compare, in both forms."""
    candidates: int = 32
    """Translations of each sentence to rank."""


def main(arguments: list[str]) -> None:
    """Compare beam sizes and length penalties on a validation set."""
    options = parse(TuningOptions, arguments, "tune")
    from transformer.run_dir import read_config

    if not options.beams or not options.alphas or min(options.beams) < 1 or min(options.alphas) < 0:
        raise InputError("--beams must be at least 1 and --alphas not negative, and there must be one of each.")
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
    best = max(results, key=lambda trial: trial.bleu)  # of equals, the smallest beam and penalty
    print(
        f"The highest BLEU has --beam-size {best.beam_size} --length-penalty {best.length_penalty:g} "
        f"--length-penalty-form {best.length_penalty_form}: options of translate and evaluate, and of train as "
        "--search.beam-size ..."
    )


def _pairs(options: TuningOptions, data: DataConfig) -> "Pairs":
    from transformer.experiment import read_validation_set

    if (pairs := given_pairs(options, data)) is not None:
        return pairs
    return read_validation_set(options.run, data)
