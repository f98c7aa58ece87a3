"""`transformer tune`: the beam size and the length penalty with the highest BLEU on a validation set."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli.decoding import DecodingOptions, load_translator, parse
from transformer.errors import InputError

if TYPE_CHECKING:
    from transformer.config import DataConfig
    from transformer.data.corpus import Pairs

FOLDER = "tuning"  # in the run directory


@dataclass(frozen=True)
class TuningOptions(DecodingOptions):
    """BLEU of the validation set by beam size and length penalty, from one search a beam size.

    The most probable translations that a search comes across are kept in the run's tuning/beam-K.jsonl, ranked by each
    length penalty, and used again next time. `proven` is the share of the sentences whose best translation is certainly
    that of a search with this penalty; a larger --candidates makes it larger, and the search longer."""

    source: str | None = None
    """Source sentences, one a line, instead of the run's validation set; needs --reference."""
    reference: str | None = None
    """Their reference translations, one a line."""
    beams: tuple[int, ...] = (1, 2, 4, 8)
    """Beam sizes to compare."""
    alphas: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    """Exponents of the length penalty to compare, in both forms."""
    candidates: int = 32
    """Translations of each sentence that are kept for the ranking."""


def main(arguments: list[str]) -> None:
    """Compare beam sizes and length penalties on a validation set."""
    options = parse(TuningOptions, arguments, "tune")
    if (options.source is None) != (options.reference is None):
        raise InputError("--source and --reference go together: line n of the one must translate line n of the other.")
    if not options.beams or not options.alphas or min(options.beams) < 1 or min(options.alphas) < 0:
        raise InputError("--beams must be at least 1 and --alphas not negative, and there must be one of each.")
    translator = load_translator(options)
    from transformer.inference.tune import stored, trials

    pairs = _read_pairs(options, translator.config.data)
    results = []
    for beam_size in sorted({*options.beams}):
        search = dataclasses.replace(options.search, beam_size=beam_size, num_best=options.candidates)
        found, kept = stored(translator, pairs, search, Path(options.run) / FOLDER)
        print(f"beam {beam_size}: {'kept' if kept else 'searched'}", file=sys.stderr)
        results += trials(found, pairs.targets, beam_size, sorted({*options.alphas}))
    print("beam  form   alpha   BLEU  proven")
    for trial in results:
        print(f"{trial.beam_size:4}  {trial.form:<5}{trial.alpha:7.2f}{trial.bleu:7.2f}{trial.proven:7.1%}")
    best = max(results, key=lambda trial: trial.bleu)  # of equals, the smallest beam and penalty
    print(
        f"The highest BLEU has --beam-size {best.beam_size} --length-penalty {best.alpha:g} "
        f"--length-penalty-form {best.form}: options of translate and evaluate, and of train as --search.beam-size ..."
    )


def _read_pairs(options: TuningOptions, data: "DataConfig") -> "Pairs":
    from transformer.data.corpus import read_files, read_pairs, splits

    if options.source is not None and options.reference is not None:
        return read_files((options.source, options.reference), dataclasses.replace(data, tags=None))[0]
    if "validation" not in splits(data):
        raise InputError(f"The run in {options.run} has no validation set: give --source and --reference.")
    return read_pairs(data, "validation")[0]
