"""Whether one run translates better than another: a paired test, the sentences that changed, and what else differs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.significance import PairedTest

from transformer.errors import InputError
from transformer.inference.metrics import Metrics
from transformer.inference.results import Result

# What configs may differ in without another result; other scores are found by their signatures.
INDIFFERENT = {"run_dir", "compilation_cache", "scores"}


@dataclass(frozen=True)
class Difference:
    """A metric's scores of both runs.

    Attributes:
        first: the first run's score.
        second: the second run's.
        p_value: how often resampled test sets show a difference as large, if there is none.
        signature: sacreBLEU's.
    """

    first: float
    second: float
    p_value: float
    signature: str


@dataclass(frozen=True)
class Comparison:
    """Two runs on one test set.

    Attributes:
        names: of the runs.
        metrics: by name.
        changes: the pairs' numbers, those first whose translation changed the most, and by how much chrF: better in the
            second run if positive.
        caveats: what else differs between the runs, a sentence each.
        warnings: what makes the scores misleading, a sentence each.
    """

    names: tuple[str, str]
    metrics: dict[str, Difference]
    changes: list[tuple[int, float]]
    caveats: list[str]
    warnings: tuple[str, ...] = ()


def compare(first: Result, second: Result, *, metrics: Metrics | None = None, bootstrap: int = 1000) -> Comparison:
    """Paired bootstrap resampling (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation").

    It is sacreBLEU's own (`--paired-bs`), with its fixed seed.

    Args:
        first: the baseline.
        second: what is compared with it.
        metrics: which metrics, and how they are computed; by default all, for a language with spaces.
        bootstrap: test sets resampled.

    Raises:
        InputError: the test sets are not the same, a run has not a translation for each of its sentences, or a metric
            lacks its tokenizer.
    """
    metrics = Metrics() if metrics is None else metrics
    if first.pairs.fingerprint != second.pairs.fingerprint:
        raise InputError(
            f"Only translations of the same test set can be compared, but those of {first.name} and {second.name} "
            "differ. Evaluate both on the same files, with --output, and compare these folders."
        )
    references = [first.pairs.targets, *first.pairs.further_references]
    for result in (first, second):
        if len(result.hypotheses) != len(references[0]):
            raise InputError(
                f"{result.name} has {len(result.hypotheses)} translations of {len(references[0])} sentences: evaluate "
                "it again."
            )
    systems: list[tuple[str, Sequence[str]]] = [("first", first.hypotheses), ("second", second.hypotheses)]
    signatures, scores = PairedTest(systems, metrics.chosen(), references, test_type="bs", n_samples=bootstrap)()
    found = {}
    for name, signature in signatures.items():
        one, other = (result for result in scores[name] if not isinstance(result, str))
        # Of equal translations sacreBLEU's p-value is the smallest possible: no resampled difference exceeds theirs.
        unchanged = first.hypotheses == second.hypotheses
        p_value = 1.0 if unchanged or other.p_value is None else float(other.p_value)
        found[name] = Difference(float(one.score), float(other.score), p_value, str(signature))
    sentence = metrics.chrf()
    changes = [
        (number, sentence.sentence_score(new, own).score - sentence.sentence_score(old, own).score)
        for number, (old, new, *own) in enumerate(zip(first.hypotheses, second.hypotheses, *references, strict=True))
        if old != new
    ]
    changes.sort(key=lambda change: -abs(change[1]))
    warnings = metrics.warnings(first.pairs.targets)
    return Comparison((first.name, second.name), found, changes, caveats(first, second), warnings)


def caveats(first: Result, second: Result) -> list[str]:
    """What differs between two runs besides their translations, a sentence each."""
    found = []
    if None in (first.training_data, second.training_data):
        found.append("What one of them was trained on is not known.")
    elif first.training_data != second.training_data:
        found.append("They were trained on different data.")
    if first.tokenizer != second.tokenizer:
        found.append("Their tokenizers differ: loss and perplexity cannot be compared; BLEU, chrF and TER can.")
    for name, one, other in _other_signatures(first, second):
        found.append(f"Their scores of {name} were computed in other ways: {one} against {other}.")
    for field, one, other in _differing(first.config, second.config, ""):
        found.append(f"{field} is {one!r} against {other!r}.")
    return found


def _other_signatures(first: Result, second: Result) -> list[tuple[str, str, str]]:
    both = ((name, one, second.signatures.get(name, one)) for name, one in first.signatures.items())
    return [(name, one, other) for name, one, other in both if one != other]


def _verdict(first: Result, second: Result) -> str:
    """Whether the numbers may be compared at all."""
    sentences = f"Both are of the same {len(first.pairs.sources):,} sentences"
    if _other_signatures(first, second):
        return (
            f"{sentences}. These numbers may be compared: they are computed here, in one way. The scores that the runs "
            "have written may not."
        )
    return (
        f"{sentences}, computed in one way: these numbers may be compared, and so may the BLEU, chrF and TER that the "
        "runs have written."
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
    """The comparison for people.

    Args:
        comparison: of the two.
        first: the baseline.
        second: what is compared with it.
        sentences: how many of those that changed the most to show.
    """
    lines = [_verdict(first, second), *(f"warning: {warning}" for warning in comparison.warnings)]
    for name, metric in comparison.metrics.items():
        scores = f"{metric.first:7.2f} {metric.second:7.2f}  {metric.second - metric.first:+.2f}"
        lower = " (the lower the better)" if name == "TER" else ""
        lines.append(f"{name:<6}{scores}  p = {metric.p_value:.3f}  {metric.signature}{lower}")
    total = len(first.pairs.sources)
    better = sum(gain > 0 for _, gain in comparison.changes)
    lines.append(
        f"{len(comparison.changes):,} of {total:,} translations differ: {better:,} have a higher chrF in the second run"
    )
    lines += [
        "",
        "What else differs between the runs, and may be the reason:",
        *(f"  {caveat}" for caveat in comparison.caveats or ["nothing"]),
    ]
    for number, gain in comparison.changes[:sentences]:
        lines += [
            "",
            f"line {number + 1}, chrF {gain:+.1f}",
            f"  source     {first.pairs.sources[number]}",
            *(f"  reference  {own[number]}" for own in (first.pairs.targets, *first.pairs.further_references)),
            f"  first      {first.hypotheses[number]}",
            f"  second     {second.hypotheses[number]}",
        ]
    return "\n".join(lines)


def to_json(comparison: Comparison, first: Result, second: Result, sentences: int) -> str:
    """The comparison for programs: what `to_text` says, by name; its arguments are the same."""
    references = (first.pairs.targets, *first.pairs.further_references)
    changes = [
        {
            "line": number + 1,
            "chrf_difference": gain,
            "source": first.pairs.sources[number],
            "references": [own[number] for own in references],
            "first": first.hypotheses[number],
            "second": second.hypotheses[number],
        }
        for number, gain in comparison.changes[:sentences]
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
