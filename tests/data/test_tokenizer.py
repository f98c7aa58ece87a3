import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from transformer.config import TokenizerConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError

TEXTS = [
    f"The {adjective} {noun} sees the {other}, <pad> or </s>."
    for adjective in ("old", "young", "red", "small", "tall")
    for noun in ("man", "woman", "dog", "bird", "house")
    for other in ("Katze", "Straße", "Bäume", "Vögel", "Häuser")
]
CONFIG = TokenizerConfig()
SPACES = ["", " ", "  ", "a", " a", "  a  b  ", "\t\n\r\x00\x0b\u2028\x85"]
SYMBOLS = ["😀 👩\u200d👧 é e\u0301 ﬁ \ufeff", "漢字かな", "\ufffd", "<pad>", "<s> </s>", " <pad></s> x"]
AWKWARD = SPACES + SYMBOLS


@pytest.fixture(scope="module")
def tokenizer():
    return BpeTokenizer.train(TEXTS, 320, CONFIG)


def test_any_text_comes_back_exactly(tokenizer):
    assert tokenizer.decode_batch(tokenizer.encode_batch(AWKWARD)) == AWKWARD
    generator = np.random.default_rng(0)
    points = np.where(
        generator.random((300, 20)) < 0.5,
        generator.integers(0, 0x200, (300, 20)),
        generator.integers(0xE000, 0x110000, (300, 20)),
    )
    random = ["".join(map(chr, row)) for row in points]
    assert tokenizer.decode_batch(tokenizer.encode_batch(random)) == random


def test_text_that_spells_a_special_token_is_text(tokenizer):
    ids = np.concatenate(tokenizer.encode_batch([*TEXTS, "<pad>", "<s>", "</s>", " <s>x</s><pad> "]))
    assert not np.isin(ids, [tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id]).any()


def test_special_ids_vanish_in_decoding(tokenizer):
    (ids,) = tokenizer.encode_batch([" a <s>"])
    assert tokenizer.decode_batch([[tokenizer.start_id, *ids, tokenizer.end_id, tokenizer.pad_id], []]) == [
        " a <s>",
        "",
    ]
    assert tokenizer.decode_batch(np.array([[*ids, 2, 0, 0]], np.int32)) == [" a <s>"]


def test_first_word_shares_its_token_with_the_same_word_later(tokenizer):
    (ids,) = tokenizer.encode_batch(["the the"])
    assert len(ids) == 2
    assert ids[0] == ids[1]


def test_flat_ids_equal_rows(tokenizer, monkeypatch):
    monkeypatch.setattr("transformer.data.tokenizer._TEXTS", 7)
    texts = [*TEXTS, ""]
    ids, offsets = tokenizer.encode_flat(texts)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    rows = [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
    assert rows == tokenizer.encode_batch(texts)
    ids, offsets = tokenizer.encode_flat([])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


@pytest.mark.parametrize("ids", [(0, 1, 2), (2, 0, 1), (319, 319, 0), (100, 100, 319), (5, 300, 7)])
def test_special_ids_are_the_config_s(ids):
    config = TokenizerConfig(pad_id=ids[0], start_id=ids[1], end_id=ids[2])
    tokenizer = BpeTokenizer.train(TEXTS, 320, config)
    assert tokenizer.size == 320
    assert tokenizer.decode_batch(tokenizer.encode_batch(AWKWARD)) == AWKWARD
    used = np.unique(np.concatenate(tokenizer.encode_batch(TEXTS)))
    assert not set(ids) & set(used.tolist())
    assert used.max() < 320


def test_training_is_deterministic_across_processes(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "here.json")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    code = """
import json, sys
from transformer.config import TokenizerConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
BpeTokenizer.train(json.load(open(sys.argv[1], encoding="utf-8")), 320, TokenizerConfig()).save(sys.argv[2])
"""
    paths = [str(tmp_path / name) for name in ("texts.json", "there.json")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()


def test_save_and_load(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = BpeTokenizer.load(path, CONFIG, 320)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode_batch(TEXTS + AWKWARD) == tokenizer.encode_batch(TEXTS + AWKWARD)
    assert BpeTokenizer.train(TEXTS, 319, CONFIG).fingerprint != tokenizer.fingerprint
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_the_library_reads_the_file_alike(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(" The old man").ids == tokenizer.encode_batch([" The old man"])[0]
    assert library.token_to_id("</s>") == CONFIG.end_id


def test_a_file_from_elsewhere_neither_truncates_nor_adds(tmp_path):
    library = Library(
        models.BPE(
            {
                "</s>": 0,
                **{byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)},
                "<pad>": 257,
            },
            [],
        )
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["</s>", "<pad>"])
    library.enable_truncation(2)
    library.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    library.save(str(path))
    tokenizer = BpeTokenizer.load(path, TokenizerConfig(pad_id=257, start_id=257, end_id=0), 258)
    (ids,) = tokenizer.encode_batch(["abc</s>"])
    assert len(ids) == 7
    assert tokenizer.decode_batch([ids]) == ["abc</s>"]
    with pytest.raises(
        InputError, match=r"--tokenizer\.start-id is 1, which is not a special token .* </s> = 0, <pad> = 257"
    ):
        BpeTokenizer.load(path, TokenizerConfig(pad_id=257, start_id=1, end_id=0), 258)


def test_vocabulary_larger_than_the_text_allows():
    with pytest.raises(InputError, match=r"^The training text yields only \d+ BPE tokens") as caught:
        BpeTokenizer.train(TEXTS, 5000, CONFIG)
    reached = int(str(caught.value).split("yields only ")[1].split()[0])
    assert BpeTokenizer.train(TEXTS, reached, CONFIG).size == reached
    message = rf"only {reached} BPE tokens, fewer than --model\.vocabulary-size {reached + 1}\. Set it to {reached}"
    with pytest.raises(InputError, match=message):
        BpeTokenizer.train(TEXTS, reached + 1, CONFIG)


def test_vocabulary_too_small_for_bytes():
    with pytest.raises(InputError, match=r"--model\.vocabulary-size must be at least 259 .* but is 258"):
        BpeTokenizer.train(TEXTS, 258, CONFIG)
    assert BpeTokenizer.train(TEXTS, 258, TokenizerConfig(pad_id=0, start_id=0, end_id=1)).size == 258


def test_load_errors(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        BpeTokenizer.load(path, CONFIG, 320)
    tokenizer.save(path)
    with pytest.raises(InputError, match=r"has 320 tokens, but --model\.vocabulary-size is 400"):
        BpeTokenizer.load(path, CONFIG, 400)
    with pytest.raises(InputError, match=r"--tokenizer\.end-id is 7, which is not a special token"):
        BpeTokenizer.load(path, TokenizerConfig(end_id=7), 320)
    for content in (b"{", b"{}", b"\xff", path.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a valid tokenizer\.json"):
            BpeTokenizer.load(path, CONFIG, 320)


def test_tokens_decode_each_id_separately(tokenizer):
    ids = tokenizer.encode_batch(["The old man sees <pad>."])[0]
    shown = tokenizer.tokens([CONFIG.start_id, *ids, CONFIG.end_id, CONFIG.pad_id])
    assert len(shown) == len(ids) + 3
    assert (shown[0], *shown[-2:]) == ("<s>", "</s>", "<pad>")
    assert "".join(shown[1:-2]) == "Theoldmansees<pad>."
    assert tokenizer.tokens([]) == []


def test_cut_shows_tokens_and_words(tokenizer):
    text = "The old man,  sees\t€5 </s> \U0001f600!"
    tokens = tokenizer.encode_batch([text])[0]
    tokenized = tokenizer.tokenize(text)
    assert tokenized.text == text
    assert len(tokenized.tokens) == len(tokenized.word_of) == len(tokens)
    assert tokenized.word_of == sorted(tokenized.word_of)
    assert [*dict.fromkeys(tokenized.word_of)] == [*range(len(tokenized.words))]
    assert [word for word in tokenized.words if word != "␣"] == [
        *("The", "old", "man", ",", "sees", "€", "5", "</", "s", ">", "\U0001f600!"),
    ]
    assert [token for token in tokenized.tokens if token.startswith("€")] == ["€ 1/3", "€ 2/3", "€ 3/3"]
    assert "\ufffd" not in "".join(tokenized.tokens)
    assert all(token.strip() == token != "" for token in tokenized.tokens)
    plain = "The old man sees it"
    assert "".join(tokenizer.tokenize(plain).tokens).replace("␣", "") == plain.replace(" ", "")
    assert tokenizer.tokenize("") == ("", [], [], [])
