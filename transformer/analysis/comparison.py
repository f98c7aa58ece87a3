"""A comparison of two runs on one test set, with a paired significance test."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.significance import PairedTest

from transformer.errors import InputError
from transformer.inference.metrics import Metrics
from transformer.inference.results import Result

# Fields of a config that do not change the translations. Scores are compared by their signatures.
INDIFFERENT = {"run_dir", "compilation_cache", "scores"}


@dataclass(frozen=True)
class Difference:
    """The scores of two runs in one metric.

    Attributes:
        first: the score of the first run, from 0 to 100 (TER may exceed 100).
        second: the score of the second run.
        p_value: the probability, from 0 to 1, of a difference as large if the runs were equally good.
        signature: sacreBLEU's signature of the metric and the test.
    """

    first: float
    second: float
    p_value: float
    signature: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs on one test set.

    Attributes:
        names: the names of the runs.
        metrics: the scores by metric.
        changes: (index, chrF of the second run minus chrF of the first) for each sentence pair whose translations
            differ, the largest change first.
        caveats: other differences between the runs, one sentence each.
        warnings: reasons why the scores mislead, one sentence each.
    """

    names: tuple[str, str]
    metrics: dict[str, Difference]
    changes: list[tuple[int, float]]
    caveats: list[str]
    warnings: tuple[str, ...] = ()


def compare(first: Result, second: Result, *, metrics: Metrics | None = None, bootstrap: int = 1000) -> Comparison:
    """Compares two runs by paired bootstrap resampling (Koehn 2004).

    "Statistical Significance Tests for Machine Translation Evaluation"; as sacreBLEU's `--paired-bs`, with its fixed
    seed.

    Args:
        first: the baseline.
        second: the run to compare with it.
        metrics: the metrics and how to compute them. By default all, with tokenizer 13a.
        bootstrap: number of resampled test sets.

    Raises:
        InputError: the test sets differ, translations are missing, or a metric's tokenizer is not installed.
    """
    metrics = Metrics() if metrics is None else metrics
    if first.pairs.fingerprint != second.pairs.fingerprint:
        raise InputError(
            f"Cannot compare {first.name} and {second.name}: they did not translate the same test set. Evaluate both "
            "on the same files with `transformer evaluate --output FOLDER`, and compare the folders."
        )
    references = [first.pairs.targets, *first.pairs.further_references]
    for result in (first, second):
        if len(result.hypotheses) != len(references[0]):
            raise InputError(
                f"Cannot compare {result.name}: it has {len(result.hypotheses)} translations of {len(references[0])} "
                "sentences. Evaluate it again."
            )
    systems: list[tuple[str, Sequence[str]]] = [("first", first.hypotheses), ("second", second.hypotheses)]
    signatures, scores = PairedTest(systems, metrics.chosen(), references, test_type="bs", n_samples=bootstrap)()
    found = {}
    for name, signature in signatures.items():
        one, other = (result for result in scores[name] if not isinstance(result, str))
        # sacreBLEU gives equal translations the smallest possible p-value: no resampled difference exceeds theirs.
        unchanged = first.hypotheses == second.hypotheses
        p_value = 1.0 if unchanged or other.p_value is None else float(other.p_value)
        found[name] = Difference(float(one.score), float(other.score), p_value, str(signature))
    sentence = metrics.chrf()
    changes = [
        (index, sentence.sentence_score(new, own).score - sentence.sentence_score(old, own).score)
        for index, (old, new, *own) in enumerate(zip(first.hypotheses, second.hypotheses, *references, strict=True))
        if old != new
    ]
    changes.sort(key=lambda change: -abs(change[1]))
    warnings = metrics.warnings(first.pairs.targets)
    return Comparison((first.name, second.name), found, changes, caveats(first, second), warnings)


def caveats(first: Result, second: Result) -> list[str]:
    """The differences between two runs besides their translations, one sentence each."""
    found = []
    if None in (first.training_data, second.training_data):
        found.append("The training data of at least one run are unknown.")
    elif first.training_data != second.training_data:
        found.append("The runs were trained on different data.")
    if first.tokenizer != second.tokenizer:
        found.append("Their tokenizers differ. BLEU, chrF and TER can be compared, but loss and perplexity cannot.")
    for name, one, other in _other_signatures(first, second):
        found.append(f"The {name} scores that they reported were computed differently: {one} and {other}.")
    for field, one, other in _differing(first.config, second.config, ""):
        found.append(f"{field} is {one!r} in the first and {other!r} in the second.")
    return found


def _other_signatures(first: Result, second: Result) -> list[tuple[str, str, str]]:
    both = ((name, one, second.signatures.get(name, one)) for name, one in first.signatures.items())
    return [(name, one, other) for name, one, other in both if one != other]


def _verdict(first: Result, second: Result) -> str:
    """Which scores may be compared."""
    sentences = f"Both runs translated the same {len(first.pairs.sources):,} sentences. The scores below"
    if _other_signatures(first, second):
        return (
            f"{sentences} are computed in the same way and can be compared. The scores that the runs reported were "
            "computed differently and cannot."
        )
    return (
        f"{sentences} and those that the runs reported (BLEU, chrF, TER) are computed in the same way and can be "
        "compared."
    )


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], where: str) -> list[tuple[str, Any, Any]]:
    found = []
    for name in first:
        one, other, field = first[name], second.get(name), f"{where}{name}"
        if field in INDIFFERENT:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differing(one, other, f"{field}.")
        elif one != other:
            found.append((field, one, other))
    return found


def to_text(comparison: Comparison, first: Result, second: Result, sentences: int) -> str:
    """The comparison as text.

    Args:
        comparison: the comparison of the two runs.
        first: the baseline.
        second: the run compared with it.
        sentences: number of changed translations to show.
    """
    lines = [
        f"first:  {first.name}",
        f"second: {second.name}",
        "",
        _verdict(first, second),
        *(f"warning: {warning}" for warning in comparison.warnings),
        "",
        f"{'metric':<8}{'first':>7}{'second':>8}{'difference':>12}{'p-value':>9}  signature",
    ]
    for name, metric in comparison.metrics.items():
        scores = f"{metric.first:7.2f}{metric.second:8.2f}{metric.second - metric.first:+12.2f}{metric.p_value:9.3f}"
        lower = " (lower is better)" if name == "TER" else ""
        lines.append(f"{name:<8}{scores}  {metric.signature}{lower}")
    total = len(first.pairs.sources)
    better = sum(gain > 0 for _, gain in comparison.changes)
    lines += [
        "",
        f"{len(comparison.changes):,} of {total:,} translations differ; {better:,} of them have a higher chrF in the "
        "second run.",
        "",
        "Other differences between the runs, which may be the reason:",
        *(f"  {caveat}" for caveat in comparison.caveats or ["none"]),
    ]
    for index, gain in comparison.changes[:sentences]:
        lines += [
            "",
            f"line {index + 1}, chrF {gain:+.1f} in the second run",
            f"  source     {first.pairs.sources[index]}",
            *(f"  reference  {own[index]}" for own in (first.pairs.targets, *first.pairs.further_references)),
            f"  first      {first.hypotheses[index]}",
            f"  second     {second.hypotheses[index]}",
        ]
    return "\n".join(lines)


def to_json(comparison: Comparison, first: Result, second: Result, sentences: int) -> str:
    """The comparison as JSON, with the content of `to_text` and the same arguments."""
    references = (first.pairs.targets, *first.pairs.further_references)
    changes = [
        {
            "line": index + 1,
            "chrf_difference": gain,
            "source": first.pairs.sources[index],
            "references": [own[index] for own in references],
            "first": first.hypotheses[index],
            "second": second.hypotheses[index],
        }
        for index, gain in comparison.changes[:sentences]
    ]
    values = {
        "names": comparison.names,
        "sentences": len(first.pairs.sources),
        "metrics": {
            name: dataclasses.asdict(metric) | {"difference": metric.second - metric.first}
            for name, metric in comparison.metrics.items()
        },
        "different_translations": len(comparison.changes),
        "higher_chrf_in_second": sum(gain > 0 for _, gain in comparison.changes),
        "caveats": comparison.caveats,
        "warnings": comparison.warnings,
        "changes": changes,
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
