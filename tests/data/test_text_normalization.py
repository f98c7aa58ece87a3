"""Normalization of text, and the original positions of its characters."""

import random
import unicodedata

import pytest

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.corpus import read_pairs
from transformer.data.normalization import normalize, origins
from transformer.data.tokenizer_bpe import BpeTokenizer

CASES = {
    "": "",
    "a man": "a man",
    " a  man\t runs ": "a man runs",
    "a man\r": "a man",
    "a\u00a0man\u3000runs\u2028\u0085": "a man runs",
    "a\x0bb\x0cc\x1cd\re\nf": "a b c d e f",
    "\ufeffa man": "a man",
    "a\u200b man\u200b\u2060": "a man",
    "la\u00adw": "law",
    "a \u200b b": "a b",
    "\u200b \ufeff": "",
    "cafe\u0301": "caf\u00e9",
    "cafe\u200b\u0301": "caf\u00e9",
    "\u1112\u1161\u11ab": "\ud55c",
    "e\u0302\u0323": "\u1ec7",
    "\u0958": "\u0915\u093c",  # NFC takes this letter apart
    "a\u200cb \U0001f469\u200d\U0001f680": "a\u200cb \U0001f469\u200d\U0001f680",
    "x\u00b2 \ufb01 \uff21 \u2026": "x\u00b2 \ufb01 \uff21 \u2026",  # NFKC would change these
    " \u0301a": "\u0301a",
    "nul\0": "nul\0",
    "\u2019\u201cA\u201d": "\u2019\u201cA\u201d",
}
CHARACTERS = [
    *" \t\r\u00a0\u2000\u200b\u2060\ufeff\u00ad\u200c\u200dabe",
    *"\u0301\u0302\u0323\u0344\u093c\u09be\u0bc6\u0bbe",
]
CHARACTERS += [*"\u1112\u1161\u11ab\ud558\u0915\u0958\u00e9\u1ec7\u212b\U0001f469\ufb1d"]


@pytest.fixture(scope="module")
def random_texts():
    generator = random.Random(0)
    return ["".join(generator.choices(CHARACTERS, k=generator.randint(0, 9))) for _ in range(5_000)]


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_a_table_of_texts(text, expected):
    assert normalize(text, "nfc") == expected
    assert normalize(text, "none") == text


def test_normalizing_again_changes_nothing(random_texts):
    for text in random_texts:
        once = normalize(text, "nfc")
        assert normalize(once, "nfc") == once
        assert unicodedata.is_normalized("NFC", once)


def test_each_character_has_its_origin(random_texts):
    assert origins(" e\u200b\u0301 \u00a0x\u00ad", "nfc") == [(1, 4), (4, 6), (6, 7)]
    assert origins(" a ", "none") == [(0, 1), (1, 2), (2, 3)]
    for text in [*CASES, *random_texts]:
        normalized, found = normalize(text, "nfc"), origins(text, "nfc")
        assert len(found) == len(normalized)
        assert found == sorted(found)
        for character, (start, end) in zip(normalized, found, strict=True):
            own = normalize(f"x {text[start:end]} x", "nfc")
            assert own == "x x" if character == " " else character in own[2:-2]


def test_the_tokenizer_reads_normalized_text_and_tells_where_it_was():
    texts = ["the law is good", "its caf\u00e9 is the good law"] * 9
    tokenizer = BpeTokenizer.train(texts, 275, TokenizerConfig(), "nfc")
    plain, typed = "the caf\u00e9 law", "\ufeffthe  cafe\u0301\u00a0la\u00adw\r"
    assert BpeTokenizer.train([f" {text}\u200b" for text in texts], 275, TokenizerConfig(), "nfc").fingerprint == (
        tokenizer.fingerprint
    )
    ids = tokenizer.encode(plain)
    assert tokenizer.encode(typed) == ids
    assert tokenizer.encode_batch([typed, plain]) == [ids, ids]
    tokenized, expected = tokenizer.tokenize(typed), tokenizer.tokenize(plain)
    assert tokenized.text == typed
    assert (tokenized.tokens, tokenized.words, tokenized.word_of) == expected[1:]
    offsets = tokenizer.offsets(typed)
    assert len(offsets) == len(ids)
    shown = dict.fromkeys(offsets)  # the bytes of one character have the same offsets
    assert "".join(typed[start:end] for start, end in shown) == "thecafe\u0301la\u00adw"
    assert tokenizer.offsets("") == []
    assert tokenizer.offsets(plain)[-1][1] == len(plain)
    assert tokenizer.single_ids("\u00a0law") == tokenizer.single_ids("law")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_quickstart_is_normalized_already(split):
    pairs, _ = read_pairs(DataConfig(corpus="package:quickstart.jsonl.xz"), split)
    assert all(normalize(text, "nfc") == text for text in [*pairs.sources, *pairs.targets])
