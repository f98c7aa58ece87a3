"""Marian's tokenizer against SentencePiece itself, and its vocabulary files."""

import json
from pathlib import Path

import pytest

from transformer.config import TokenizerConfig
from transformer.data.tokenizer_marian import MarianTokenizer, SideFiles, read_vocabulary
from transformer.errors import InputError

sentencepiece = pytest.importorskip("sentencepiece")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "marian-tiny"
MODEL = (FIXTURES / "vocab.spm").read_bytes()
LIBRARY = sentencepiece.SentencePieceProcessor(model_proto=MODEL)
IDS = TokenizerConfig(pad_id=1000, start_id=1000, end_id=0)
ODD = ["", "   ", "zzz qqq € 中文 🎻", "the   cheap  lamp ", "ﬁne … e\u0301t", "</s> <unk>", "a\u200bb", "\u00a0x"]
TEXTS = [*(FIXTURES / "input.txt").read_text("utf-8").splitlines()[:50], *ODD]
YAML = """</s>: 0
<unk>: 1
",": 2
.: 3
"'": 4
? "\\x84 \\u2581\\\\"
: 5
'it''s': 6
"\\"": 7
▁a: 8
'a: 3': 9
"""


@pytest.fixture(scope="module")
def joint() -> MarianTokenizer:
    side = SideFiles("vocab.spm")
    return MarianTokenizer({"vocab.spm": MODEL}, side, side, IDS)


def mapped(ids: dict[str, int]) -> MarianTokenizer:
    side, files = SideFiles("a.spm", "vocab.json"), {"a.spm": MODEL, "vocab.json": json.dumps(ids).encode()}
    return MarianTokenizer(files, side, side, TokenizerConfig(pad_id=50, start_id=50, end_id=3))


def test_ids_and_texts_are_sentencepieces(joint: MarianTokenizer) -> None:
    ids = joint.source.encode_batch(TEXTS)
    assert ids == LIBRARY.encode(TEXTS)
    assert joint.target.decode_batch([[*own, 0, 1000] for own in ids]) == [text.strip() for text in LIBRARY.decode(ids)]
    assert (joint.source is joint.target, joint.source.size, joint.source.suppressed) == (True, 1000, (1,))


def test_tokens_and_offsets_are_of_the_text(joint: MarianTokenizer) -> None:
    for text in TEXTS:
        shown, offsets = joint.source.tokenize(text), joint.source.offsets(text)
        assert len(shown.tokens) == len(shown.word_of) == len(offsets) == len(joint.source.encode(text))
        assert [*range(len(shown.words))] == [*dict.fromkeys(shown.word_of)]
    shown = joint.source.tokenize("The dog's lamp, € 5.")
    assert shown.words == ["The", "dog", "'", "s", "lamp", ",", "€", "5", "."]
    assert joint.source.tokens([11, 0, 1000, 1]) == ["The", "</s>", "<pad>", "⁇"]


def test_a_word_as_single_tokens(joint: MarianTokenizer) -> None:
    found = joint.target.single_ids("die")
    assert found
    assert {LIBRARY.id_to_piece(index) for index in found} <= {"die", "▁die"}
    assert joint.target.single_ids("unwahrscheinlich") == []


def test_a_vocabulary_file_gives_the_ids() -> None:
    tokenizer = mapped({"▁The": 7, "</s>": 3, "<unk>": 5, ">>fra<<": 9, ".": 2})
    vocabulary = tokenizer.source
    assert vocabulary.encode("The.") == [7, 2]
    assert vocabulary.encode(">>fra<< The x") == [9, 7, 5, 5]
    assert vocabulary.encode(">>deu<< The")[0] == 5  # not a language of this vocabulary
    assert vocabulary.decode_batch([[7, 2, 3, 50]]) == ["The."]
    assert vocabulary.tokenize(">>fra<< The").tokens == [">>fra<<", "The"]
    assert vocabulary.size == 10


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = mapped({"▁The": 7, "</s>": 3, "<unk>": 5})
    written.save(tmp_path / "tokenizer.json")
    config = TokenizerConfig(pad_id=50, start_id=50, end_id=3)
    read = MarianTokenizer.load(tmp_path / "tokenizer.json", config, (8, 8))
    assert (read.fingerprint, read.files) == (written.fingerprint, written.files)
    with pytest.raises(InputError, match=r"source vocabulary of .* has 8 tokens, but the model has 9"):
        MarianTokenizer.load(tmp_path / "tokenizer.json", config, (9, 8))
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(InputError, match=r"cannot be read: .*vocab.json: No such file"):
        MarianTokenizer.load(tmp_path / "tokenizer.json", config, (8, 8))
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content.replace('"a.spm"', '"../a.spm"'))
    with pytest.raises(InputError, match="a file has a path"):
        MarianTokenizer.load(tmp_path / "tokenizer.json", config, (8, 8))


def test_marians_own_yaml() -> None:
    tokens = ["</s>", "<unk>", ",", ".", "'", "\x84 ▁\\", "it's", '"', "▁a", "a: 3"]
    assert read_vocabulary(YAML.encode(), "vocab.yml") == {token: index for index, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.yml", b"a: 0\n- b\n", r"it has the line '- b'"),
        ("v.yml", b"a: 0\nb: 0\n", "two of its tokens have the same id"),
        ("v.json", b'{"a": -1}', "does not give an id for each token"),
        ("v.json", b'{"a": ', "v.json is not a vocabulary"),
        ("v.yml", b"\xff: 0", "v.yml is not a vocabulary"),
    ],
)
def test_damaged_vocabulary_files(name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_vocabulary(content, name)


def test_special_ids_must_be_the_vocabularys() -> None:
    with pytest.raises(InputError, match="must have </s> with the id 3, and <unk>, but has </s> = 4 and <unk> = None"):
        mapped({"</s>": 4})
