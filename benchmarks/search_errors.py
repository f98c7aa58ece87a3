"""Search errors: on how many sentences does a search miss a translation that its own model finds better?

    python benchmarks/search_errors.py --run runs/quickstart

A sentence counts for a beam size if a much wider beam has found, or the reference is, a translation of a better score:
log-probability over length penalty, both of the run's own search. What nobody knows of cannot be counted, so these are
lower bounds (Stahlberg and Byrne 2019, arXiv 1908.10090, count them exactly, at exponential cost). In float32.
"""

import argparse
import dataclasses
import sys

import numpy as np

from transformer.checkpoint import read_config
from transformer.data.corpus import read_pairs
from transformer.errors import InputError
from transformer.inference.translator import load
from transformer.runtime import keep_freed_memory, use_compilation_cache

TOLERANCE = 1e-4  # of a score, relative to it: float32 sums of some ten to a hundred logarithms


def run(options: argparse.Namespace) -> None:
    config = read_config(options.run)
    pairs, _ = read_pairs(config.data, "test")
    translator = load(options.run, dtype="float32")
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
    found = {beam: scores(beam) for beam in options.beams}
    best = np.max([reference, scores(options.wide), *found.values()], axis=0)
    print(
        f"| beam | sentences | search errors, beam {options.wide} or reference better | the reference alone "
        "| mean score lost by these |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for beam, own in found.items():
        margin = TOLERANCE * np.abs(own)
        errors, missed = own < best - margin, own < reference - margin
        lost = (best - own)[errors].mean() if errors.any() else 0.0
        print(f"| {beam} | {len(own):,} | {errors.sum():,} ({errors.mean():.2%}) | {missed.sum():,} | {lost:.3f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run directory; its test set is searched")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 2, 4, 8], help="beam sizes to count errors of")
    parser.add_argument("--wide", type=int, default=64, help="beam size that they are held against")
    options = parser.parse_args()
    if min(*options.beams, options.wide) < 1:
        parser.error("a beam has at least 1 hypothesis")
    keep_freed_memory()
    use_compilation_cache()
    try:
        run(options)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
