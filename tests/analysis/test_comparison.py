import dataclasses
import json

import pytest
import sacrebleu

from transformer.analysis.comparison import compare, to_json, to_text
from transformer.config import ScoresConfig
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.inference.metrics import Metrics
from transformer.inference.results import Result

pytestmark = pytest.mark.usefixtures("quick_compilation")

SOURCES = [f"sentence number {n} is about dog {n % 7}" for n in range(40)]
TARGETS = [f"der Satz Nummer {n} handelt vom Hund {n % 7}" for n in range(40)]
GOOD = [target if n % 4 else target.replace("handelt", "spricht") for n, target in enumerate(TARGETS)]
BAD = [target if n % 2 else "ganz anders" for n, target in enumerate(TARGETS)]


def result(hypotheses, **changes):
    config = {"run_dir": "x", "seed": 0, "search": {"beam_size": 4}}
    signatures = {"bleu": "tok:13a", "chrf": "nc:6"}
    given = Result("x", Pairs(SOURCES, TARGETS), hypotheses, config, "aa", "dd", signatures)
    return dataclasses.replace(given, **changes)


def test_a_better_run_is_found_better():
    found = compare(result(BAD), result(GOOD), bootstrap=200)
    assert found.metrics["BLEU"].first == pytest.approx(sacrebleu.corpus_bleu(BAD, [TARGETS]).score)
    assert found.metrics["BLEU"].second == pytest.approx(sacrebleu.corpus_bleu(GOOD, [TARGETS]).score)
    assert all(metric.p_value < 0.05 for metric in found.metrics.values())
    assert "bs:200|seed:12345" in found.metrics["BLEU"].signature
    assert found.caveats == []
    gains = [gain for _, gain in found.changes]
    assert sorted((abs(gain) for gain in gains), reverse=True) == [abs(gain) for gain in gains]
    assert {number for number, _ in found.changes} == {n for n in range(40) if GOOD[n] != BAD[n]}
    assert min(gains) > 0


def test_the_same_run_is_no_better():
    found = compare(result(GOOD), result(GOOD), bootstrap=50)
    assert found.changes == []
    assert found.metrics["BLEU"].first == found.metrics["BLEU"].second
    assert found.metrics["BLEU"].p_value > 0.5


def test_what_else_differs_is_said():
    config = {"run_dir": "y", "seed": 1, "search": {"beam_size": 1}}
    other = result(
        GOOD, config=config, tokenizer="bb", training_data="ee", signatures={"bleu": "tok:zh", "chrf": "nc:6"}
    )
    found = compare(result(BAD), other, bootstrap=20)
    text = to_text(found, result(BAD), other, sentences=2)
    for said in (
        "seed is 0 in the first and 1 in the second.",
        "search.beam_size is 4 in the first and 1 in the second.",
        "trained on different data",
        "tokenizers differ",
        "The bleu scores that they reported were computed differently: tok:13a and tok:zh.",
        "20 of 40 translations differ",
    ):
        assert said in text
    assert "run_dir" not in text
    assert text.count("reference  ") == 2


def test_the_metrics_are_those_asked_for():
    """Chinese text, which 13a does not split, against sacreBLEU's own scores with two references."""
    chinese = [f"第{n}句话说的是一只狗。" for n in range(40)]
    translated = [sentence.replace("一只", "") if n % 2 else sentence for n, sentence in enumerate(chinese)]
    pairs = Pairs(SOURCES, chinese, further_references=(translated[::-1],))
    first, second = result(translated, pairs=pairs), result(chinese, pairs=pairs)
    found = compare(first, second, metrics=Metrics(ScoresConfig(metrics=("bleu",)), "zh"), bootstrap=20)
    references = [chinese, translated[::-1]]
    assert list(found.metrics) == ["BLEU"]
    assert found.metrics["BLEU"].first == sacrebleu.corpus_bleu(translated, references, tokenize="zh").score
    assert found.metrics["BLEU"].signature.startswith("nrefs:2|")
    assert "|tok:zh|" in found.metrics["BLEU"].signature
    assert found.warnings == ()
    (warning,) = compare(first, second, bootstrap=20).warnings
    values = json.loads(to_json(found, first, second, sentences=3))
    assert values["metrics"]["BLEU"]["difference"] == found.metrics["BLEU"].second - found.metrics["BLEU"].first
    assert (values["sentences"], values["different_translations"], len(values["changes"])) == (40, 20, 3)
    assert values["changes"][0]["references"] == [own[values["changes"][0]["line"] - 1] for own in references]
    text = to_text(compare(first, second, bootstrap=20), first, second, sentences=1)
    assert f"warning: {warning}" in text
    assert text.count("reference  ") == 2


def test_other_test_sets_are_refused():
    other = Pairs(SOURCES, [*TARGETS[1:], "anders"])
    with pytest.raises(InputError, match="they did not translate the same test set"):
        compare(result(GOOD), result(GOOD, pairs=other))
    with pytest.raises(InputError, match="39 translations of 40 sentences"):
        compare(result(GOOD), result(GOOD[1:]))
