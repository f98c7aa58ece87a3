"""The metrics for a target language, compared with the command of sacreBLEU."""

import json
import random
import subprocess
import sys

import pytest

from transformer import experiment
from transformer.config import Config, DataConfig, ScoresConfig, TrainingConfig
from transformer.data.corpus import Pairs, Split
from transformer.errors import InputError
from transformer.inference.evaluate import LengthBucket, bleu, score_translations
from transformer.inference.metrics import Metrics, check_metrics, metrics_of

WORDS = ("猫", "树木", "绿色的", "听见", "河流", "新的", "唱歌")
GENERATOR = random.Random(0)
CHINESE = ["".join(GENERATOR.choices(WORDS, k=GENERATOR.randint(6, 12))) + "。" for _ in range(30)]
TRANSLATED = [sentence.replace("树木", "猫", n % 3) for n, sentence in enumerate(CHINESE)]
SECOND = [sentence.replace("新的", "听见") for sentence in CHINESE]
GERMAN = [f"Der Hund Nummer {n} liest ein Buch, während er wartet." for n in range(8)]
ENGLISH = [f"der Hund Nummer {n} liest ein Buch." for n in range(8)]


def command(folder, hypotheses, references, *options):
    """Runs `sacrebleu` for one metric and returns the JSON that it prints."""
    files = [folder / f"reference.{number}" for number in range(len(references))]
    for file, lines in zip((*files, folder / "hypotheses"), (*references, hypotheses), strict=True):
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    arguments = [*map(str, files), "-i", str(folder / "hypotheses"), "-w", "4", *options]
    done = subprocess.run([sys.executable, "-m", "sacrebleu", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("language", ["zh", "zh-CN", "zho_Hans"])
def test_chinese_is_scored_as_by_sacrebleu(tmp_path, language):
    metrics = Metrics(language=language)
    scores = score_translations(TRANSLATED, CHINESE, metrics=metrics, bootstrap=2)
    expected = command(tmp_path, TRANSLATED, [CHINESE], "-m", "bleu", "-tok", "zh")
    assert scores.bleu.score == pytest.approx(expected["score"], abs=1e-4)
    assert 60 < scores.bleu.score < 100
    assert f"|tok:{expected['tok']}|" in scores.bleu.signature
    assert "|tok:zh|" in scores.bleu.signature
    precisions, lengths = expected["verbose_score"].split(" (BP = ")
    assert [f"{value:.1f}" for value in scores.bleu.precisions] == precisions.split("/")
    assert lengths.startswith(f"{scores.bleu.brevity_penalty:.3f} ratio = {scores.length_ratio:.3f} hyp_len = ")
    assert f"hyp_len = {scores.bleu.translation_length} ref_len = {scores.bleu.reference_length}" in lengths
    assert scores.warnings == ()
    assert bleu(TRANSLATED, CHINESE, metrics=metrics) == scores.bleu.score

    ter = command(tmp_path, TRANSLATED, [CHINESE], "-m", "ter", "--ter-normalized", "--ter-asian-support")
    assert scores.ter.score == pytest.approx(ter["score"], abs=1e-4)
    assert "norm:yes" in scores.ter.signature
    assert "asian:yes" in scores.ter.signature

    # A sentence of 15 Chinese characters has 15 tokens, where 13a finds one.
    assert sum(bucket.sentences for bucket in scores.bleu_by_length.values()) == len(CHINESE)
    assert list(scores.bleu_by_length) == ["11-20", "21-30"]
    assert "tokens (zh) of translations" in scores.to_text()


def test_other_tokenizers_case_and_word_order_are_those_of_sacrebleu(tmp_path):
    for tokenize in ("13a", "intl", "char", "none"):
        scores = score_translations(ENGLISH, GERMAN, metrics=Metrics(ScoresConfig(tokenize=tokenize)), bootstrap=2)
        expected = command(tmp_path, ENGLISH, [GERMAN], "-m", "bleu", "-tok", tokenize)
        assert scores.bleu.score == pytest.approx(expected["score"], abs=1e-4)
        assert (scores.bleu.tokenizer, expected["tok"]) == (tokenize, tokenize)
        assert f"|tok:{tokenize}|" in scores.bleu.signature
    asked = ScoresConfig(metrics=("chrf", "bleu"), lowercase=True, chrf_word_order=2)
    scores = score_translations(ENGLISH, GERMAN, metrics=Metrics(asked), bootstrap=2)
    expected = command(tmp_path, ENGLISH, [GERMAN], "-m", "bleu", "-lc")
    assert scores.bleu.score == pytest.approx(expected["score"], abs=1e-4)
    assert "case:lc" in scores.bleu.signature
    expected = command(tmp_path, ENGLISH, [GERMAN], "-m", "chrf", "--chrf-word-order", "2", "--chrf-lowercase")
    assert scores.chrf.score == pytest.approx(expected["score"], abs=1e-4)
    assert (scores.chrf.name, expected["name"]) == ("chrF2++", "chrF2++")
    assert list(scores.by_metric) == ["bleu", "chrf"]
    assert "ter" not in json.loads(scores.to_json())
    with pytest.raises(InputError, match=r"The score ter was not computed, only bleu, chrf\. Name it in scores\.metr"):
        _ = scores.ter
    alone = score_translations(ENGLISH, GERMAN, metrics=Metrics(ScoresConfig(metrics=("ter",))), bootstrap=2)
    assert (list(alone.by_metric), alone.length_ratio, alone.bleu_by_length) == (["ter"], None, {})
    assert [line.split()[0] for line in alone.to_text().splitlines()] == ["TER", "exact"]


def test_several_references_are_those_of_sacrebleu(tmp_path):
    metrics = Metrics(language="zh")
    scores = score_translations(TRANSLATED, CHINESE, further_references=[SECOND], metrics=metrics, bootstrap=2)
    for name, options in (("bleu", ("-tok", "zh")), ("chrf", ()), ("ter", ("--ter-normalized", "--ter-asian-support"))):
        expected = command(tmp_path, TRANSLATED, [CHINESE, SECOND], "-m", name, *options)
        assert scores.by_metric[name].score == pytest.approx(expected["score"], abs=1e-4)
        assert scores.by_metric[name].signature.startswith("nrefs:2|")
    assert scores.bleu.score == bleu(TRANSLATED, CHINESE, [SECOND], metrics)
    both = score_translations(["b", "c"], ["a", "c"], further_references=[["b", "d"]], bootstrap=2)
    assert both.exact_match.score == 100
    with pytest.raises(InputError, match="Cannot score 2 translations against 1 references"):
        score_translations(["b", "c"], ["a", "c"], further_references=[["b"]])


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("ja", "ja-mecab"), ("jpn_Jpan", "ja-mecab"), ("ko", "ko-mecab"), ("de", "13a"), ("", "13a"), ("ZH_tw", "zh")],
)
def test_the_language_decides_the_tokenizer(language, tokenizer):
    config = Config(data=DataConfig(target_language=language))
    assert metrics_of(config).tokenize == tokenizer
    assert Metrics(ScoresConfig(tokenize="char"), language).tokenize == "char"


@pytest.mark.parametrize(
    ("module", "language", "tokenize", "package"),
    [
        ("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", "ja", "auto", r"sacrebleu\[ja\]"),
        ("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", "ko", "auto", r"sacrebleu\[ko\]"),
        (None, "de", "flores200", "sentencepiece"),
        (None, "de", "spm", "sentencepiece"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, module, language, tokenize, package):
    if module is None:
        monkeypatch.setitem(sys.modules, "sentencepiece", None)
    else:
        monkeypatch.setattr(module, None)
    metrics = Metrics(ScoresConfig(tokenize=tokenize), language)
    name = metrics.tokenize if tokenize == "auto" else tokenize  # as the user knows it
    for attempt in (metrics.bleu, metrics.chosen, lambda: score_translations(["a"], ["a"], metrics=metrics)):
        with pytest.raises(
            InputError, match=rf"tokenizer {name} needs .*'{package}', or choose another tokenizer with --tok"
        ):
            attempt()
    chrf = Metrics(ScoresConfig(tokenize=tokenize, metrics=("chrf",)), language)  # needs no tokenizer
    assert score_translations(["a"], ["a"], metrics=chrf, bootstrap=2).chrf.score == 100


def test_nothing_is_downloaded_unless_its_name_is_given(monkeypatch):
    asked = []

    def refuse(url: str, *_):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.download_file", refuse)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.os.path.exists", lambda _: False)
    monkeypatch.setitem(sys.modules, "sentencepiece", type(sys)("sentencepiece"))
    monkeypatch.setattr(sys.modules["sentencepiece"], "SentencePieceProcessor", object, raising=False)
    for language in ("de", "zh", "th"):
        Metrics(language=language).chosen()
    assert asked == []
    with pytest.raises(InputError, match=r"The tokenizer spm of BLEU cannot be downloaded \(no network\)"):
        Metrics(ScoresConfig(tokenize="spm")).bleu()
    assert len(asked) == 1


def test_13a_warns_of_text_without_spaces():
    thai = ["ฉันกำลังอ่านหนังสืออยู่ในห้องสมุด", "แมวดำนอนหลับอยู่บนเก้าอี้ตัวใหญ่"]
    for references in (CHINESE, thai, [*CHINESE, *GERMAN]):
        (warning,) = Metrics(language="xx").warnings(references)
        assert "no spaces between words" in warning
        assert "--tokenize" in warning
    scores = score_translations(TRANSLATED, CHINESE, bootstrap=2)
    assert scores.warnings == Metrics().warnings(CHINESE)
    assert json.loads(scores.to_json())["warnings"] == list(scores.warnings)
    assert scores.to_text().endswith(f"warning: {scores.warnings[0]}")
    assert scores.bleu_by_length["0-10"] == LengthBucket(scores.bleu.score, len(CHINESE))
    segmented = [" ".join(sentence) for sentence in CHINESE]
    for references in (GERMAN, segmented, ["Donaudampfschifffahrt"], ["고양이가 나무를 봅니다"], [""]):
        assert Metrics().warnings(references) == ()
    assert Metrics(ScoresConfig(metrics=("chrf",))).warnings(CHINESE) == ()
    assert Metrics(ScoresConfig(tokenize="char")).warnings(CHINESE) == ()


def test_validation_bleu_is_that_of_the_target_language(monkeypatch, tokenizer):
    monkeypatch.setattr("transformer.experiment.translate", lambda *_: TRANSLATED)
    config, pairs = Config(data=DataConfig(target_language="zh")), Pairs(["x"] * len(CHINESE), CHINESE)
    found = experiment.validation_bleu(config, "float32", tokenizer, pairs, {})
    assert found == {"validation_bleu": bleu(TRANSLATED, CHINESE, metrics=Metrics(language="zh"))}
    assert found["validation_bleu"] > 60


def test_training_checks_its_metrics_before_it_begins(monkeypatch, capsys):
    pairs: dict[Split, Pairs] = {
        "train": Pairs(["x"], ["y"]),
        "validation": Pairs(["x"], ["y"]),
        "test": Pairs(["x"], CHINESE[:1]),
    }
    check_metrics(Config(data=DataConfig(target_language="zh")), pairs)
    assert capsys.readouterr().out == ""
    check_metrics(Config(), pairs)
    assert capsys.readouterr().out.startswith("warning: The references have no spaces between words")
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    cases: list[tuple[Split, bool]] = [("test", False), ("validation", True)]
    for split, training in cases:
        japanese = Config(
            data=DataConfig(target_language="ja"), training=TrainingConfig(validation_bleu=training, steps=2)
        )
        with pytest.raises(InputError, match=r"pip install 'sacrebleu\[ja\]'"):
            check_metrics(japanese, {split: pairs[split]})
    check_metrics(Config(data=DataConfig(target_language="ja")), {"validation": pairs["validation"]})


@pytest.mark.parametrize("seed", ["abc", "-1", ""])
def test_an_unusable_seed_is_refused(monkeypatch, seed):
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    with pytest.raises(InputError, match="SACREBLEU_SEED must be a non-negative integer or none"):
        score_translations(["a"], ["a"])


def test_no_metric_is_refused():
    with pytest.raises(InputError, match=r"scores\.metrics is empty"):
        ScoresConfig(metrics=())
