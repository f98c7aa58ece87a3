import json
import math

import pytest
import sacrebleu

from transformer.errors import InputError
from transformer.inference.evaluate import ExactMatch, Scores, bleu, score_translations

pytestmark = pytest.mark.usefixtures("quick_compilation")

REFERENCES = [
    "Ein Mann fährt auf einem Fahrrad.",
    "Zwei Hunde spielen im Schnee.",
    "Eine Frau liest ein Buch, während sie wartet.",
    "Kinder laufen über die Wiese.",
]
HYPOTHESES = [
    "Ein Mann fährt auf einem Fahrrad.",
    "Zwei Hunde spielen in dem Schnee.",
    "Eine Frau liest ein Buch beim Warten.",
    "kinder laufen über eine Wiese.",
]


def test_scores_and_signatures_are_those_of_sacrebleu():
    scores = score_translations(HYPOTHESES, REFERENCES, bootstrap=50)
    assert scores.bleu.score == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scores.chrf.score == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert scores.ter.score == sacrebleu.corpus_ter(HYPOTHESES, [REFERENCES]).score
    corpus = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    assert scores.length_ratio == corpus.sys_len / corpus.ref_len
    version = sacrebleu.__version__
    assert scores.bleu.signature == (f"nrefs:1|bs:50|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}")
    assert scores.chrf.signature == f"nrefs:1|bs:50|seed:12345|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"


def test_scores_are_broken_down_by_length():
    long = " ".join(["Wort"] * 35)
    scores = score_translations([*HYPOTHESES, long], [*REFERENCES, long], bootstrap=2)
    assert list(scores.bleu_by_length) == ["0-10", "31-50"]
    short = scores.bleu_by_length["0-10"]
    assert (short.score, short.sentences) == (bleu(HYPOTHESES, REFERENCES), 4)
    assert scores.bleu_by_length["31-50"].score == pytest.approx(100)


def test_case_counts():
    lower = [sentence.lower() for sentence in HYPOTHESES]
    assert score_translations(lower, REFERENCES, bootstrap=2).bleu.score < 40
    assert score_translations(REFERENCES, REFERENCES, bootstrap=2).bleu.score == pytest.approx(100)


def test_interval_is_deterministic_and_narrows_with_the_corpus():
    few, many = (score_translations(HYPOTHESES * n, REFERENCES * n) for n in (2, 40))
    assert few == score_translations(HYPOTHESES * 2, REFERENCES * 2)
    for metric in ("bleu", "chrf"):
        widths = []
        for scores in (few, many):
            lower, upper = getattr(scores, metric).interval
            widths.append(upper - lower)
        assert 0 < widths[1] < 0.5 * widths[0]
        lower, upper = getattr(many, metric).interval
        assert lower < getattr(many, metric).score < upper


def test_empty_translations_score_zero():
    scores = score_translations(["", "", "", ""], REFERENCES, bootstrap=2)
    assert scores.bleu.score == scores.chrf.score == 0


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "Cannot score an empty test set"),
        (["a", "b"], ["a"], "Cannot score 2 translations against 1 references"),
    ],
)
def test_unusable_input(hypotheses, references, message):
    with pytest.raises(InputError, match=message):
        score_translations(hypotheses, references)


def test_json_and_table():
    scores = score_translations(HYPOTHESES, REFERENCES, loss=0.5, bootstrap=10)
    values = json.loads(scores.to_json())
    assert values["bleu"]["score"] == scores.bleu.score
    assert values["bleu"]["signature"] == scores.bleu.signature
    assert values["chrf"]["interval"] == list(scores.chrf.interval)
    assert values["loss"] == 0.5
    assert values["perplexity"] == math.exp(0.5)

    text = scores.to_text()
    assert f"{scores.bleu.score:.2f}" in text
    assert scores.bleu.signature in text
    assert scores.chrf.signature in text
    assert "1.65" in text


def test_translations_that_share_nothing_have_an_interval():
    scores = score_translations(["x", "x", "x", "ein Kind"], REFERENCES, bootstrap=50)
    assert scores.chrf.interval[0] <= scores.chrf.interval[1]
    assert isinstance(scores.chrf.interval[0], float)


def test_empty_references_have_an_interval():
    scores = score_translations(["", "x", "ein Kind"], ["", "", "ein Kind"], bootstrap=50)
    assert scores.ter.interval[0] <= scores.ter.interval[1]


def test_bleu_alone_is_the_same():
    assert bleu(HYPOTHESES, REFERENCES) == score_translations(HYPOTHESES, REFERENCES, bootstrap=2).bleu.score


def test_without_loss_there_is_no_perplexity():
    scores = score_translations(HYPOTHESES, REFERENCES, bootstrap=2)
    assert isinstance(scores, Scores)
    assert json.loads(scores.to_json())["perplexity"] is None
    assert [line.split()[0] for line in scores.to_text().splitlines()] == [
        *("BLEU", "chrF2", "TER", "length", "0-10", "exact"),
    ]


def test_exact_match_is_counted_for_all_and_by_tag():
    tags = [("verb-last",), ("pronoun", "verb-last"), (), ("pronoun",)]
    hypotheses = [REFERENCES[0], REFERENCES[1] + " ", REFERENCES[2], REFERENCES[3]]
    scores = score_translations(hypotheses, REFERENCES, tags=tags, bootstrap=2)
    assert scores.exact_match == ExactMatch(75.0, 4)
    assert scores.exact_match_by_tag == {"pronoun": ExactMatch(50.0, 2), "verb-last": ExactMatch(50.0, 2)}
    assert json.loads(scores.to_json())["exact_match_by_tag"]["pronoun"] == {"score": 50.0, "sentences": 2}
    assert "  pronoun     50.00  % of 2\n" in scores.to_text()
    assert score_translations(hypotheses, REFERENCES, bootstrap=2).exact_match_by_tag == {}
