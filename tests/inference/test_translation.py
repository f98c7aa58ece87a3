import dataclasses
import math
from collections.abc import Iterator
from queue import Queue

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.config import SearchConfig, TokenizerConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError
from transformer.inference.decoding import decode
from transformer.inference.translation import Translation, Window, _join, distinct, search_ids, translate, translations

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_translation_does_not_depend_on_its_batch_or_position(translator, beam_size, random_sentences):
    sentences = random_sentences(1, 30, 10)
    search = dataclasses.replace(translator.config.search, beam_size=beam_size)
    together = translator.translate(sentences, search)
    assert len(set(together)) > 15
    assert len({len(text) for text in together}) > 10
    assert translator.translate(sentences[::-1], search) == together[::-1]
    for number in (0, 7, 29):
        assert translator.translate([sentences[number]], search) == [together[number]]
    assert translator.translate(sentences, dataclasses.replace(search, batch_tokens=1)) == together


def test_one_line_out_for_each_line_in(translator):
    sentences = ["", "a man", "   ", "the old bird sees", "", "two dogs"]
    found = translator.translate(sentences)
    assert len(found) == 6
    assert [found[0], found[2], found[4]] == ["", "", ""]
    assert found[1]
    assert found[1] == translator.translate(["a man"])[0]
    assert not any("\n" in text or "\r" in text for text in found)
    assert translator.translate([]) == []
    assert translator.translate(["", ""]) == ["", ""]


def test_a_sentence_beyond_the_positions_is_named(translator):
    refuse = dataclasses.replace(translator.config.search, long_input="refuse")
    with pytest.raises(
        InputError, match=r"Line 2 has \d+ tokens, but the model has positions for 80\. .* --long-input split"
    ):
        translator.translate(["a man", "man " * 200], refuse)
    prefix = dataclasses.replace(translator.config.search, prefix="the bird")
    assert translator.translate("a man", prefix).startswith("the bird")
    with pytest.raises(InputError, match=r"Line 2 has \d+ tokens, .* or leave out --prefix, which would begin the tr"):
        translator.translate(["a man", "man " * 200], prefix)


def test_a_translation_never_outgrows_the_positions_or_its_source(translator, tokenizer):
    # All tokens have equal scores, so the first one is taken, which is a character.
    variables = jax.tree.map(jnp.zeros_like, translator.params)
    sentences = ["a man", " ".join(["a"] * 74)]
    search = dataclasses.replace(translator.config.search, beam_size=2, length_penalty=5.0)  # the longer the better
    found = translate(translator.model, variables, tokenizer, sentences, search)
    assert len(found[0]) == len(tokenizer.encode_batch(["a man"])[0]) + translator.config.search.extra_length
    assert len(found[1]) == 80 - 1


def test_a_string_a_collection_and_a_stream(translator):
    sentences = ["a man runs", "two dogs under the tree"]
    expected = translator.translate(sentences)
    assert translator.translate(sentences[0]) == expected[0]
    for collection in (tuple(sentences), np.array(sentences), dict.fromkeys(sentences)):
        assert translator.translate(collection) == expected
    stream = translator.translate(iter(sentences))
    assert isinstance(stream, Iterator)
    assert list(stream) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("b\ud83d", r"Line 2 has an unpaired surrogate \(U\+D83D\), so it is not valid Unicode text"),
        (b"caf\xe9", "Line 2 must be a string, but is of type bytes"),
        (None, "Line 2 must be a string, but is of type NoneType"),
    ],
)
def test_what_is_no_text_is_refused(translator, value, message):
    with pytest.raises(InputError, match=message):
        list(translator.translate(iter(["a", value])))


def test_an_unpaired_surrogate_is_refused(translator):
    for refused in (
        lambda: translator.translate(["\ud83d"]),
        lambda: translator.translate("\ud83d"),
        lambda: translator.loss(["a"], ["\ud83d"]),
        lambda: translator.tokenizer.encode("\ud83d"),
        lambda: translator.tokenizer.tokenize("\ud83d"),
        lambda: translator.tokenizer.offsets("\ud83d"),
    ):
        with pytest.raises(InputError, match=r"(Line 1|Text 1|The text) has an unpaired surrogate \(U\+D83D\)"):
            refused()


def test_a_stream_of_questions_is_answered_one_by_one(translator):
    sentences, answers = ["a man runs", "two dogs", "", "man " * 200, "the bird"], Queue()

    def questions():
        for number, sentence in enumerate(sentences):
            yield sentence
            assert answers.get(timeout=60) == number  # nothing more comes before the answer

    found = []
    for number, text in enumerate(translator.translate(questions())):
        found.append(text)
        answers.put(number)
    assert found == translator.translate(sentences)


def test_a_stream_is_read_a_window_at_a_time(translator, monkeypatch):
    monkeypatch.setattr("transformer.inference.translation.WINDOW", 4)
    read, sentences = [], ["a man", "", "two dogs", "the bird", "a tree", "old house", "a man"] * 4
    found = translator.translate(read.append(line) or line for line in sentences)
    first = next(found)
    assert len(read) <= 2 * 4 + 1
    assert [first, *found] == translator.translate(sentences)
    refuse = dataclasses.replace(translator.config.search, long_input="refuse")
    with pytest.raises(InputError, match="Line 6 has"):
        list(translator.translate(iter([*sentences[:5], "man " * 200]), refuse))


def test_invisible_characters_change_nothing(translator, tmp_path):
    translator.tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer = BpeTokenizer.load(tmp_path / "tokenizer.json", TokenizerConfig(), 300, "nfc")
    normalizing = dataclasses.replace(translator, tokenizer=tokenizer)
    plain, typed = ["a man runs", ""], ["\ufeff  a\u00a0man\u200b\u00ad runs\r", "\u2060 \u200b"]
    assert normalizing.translate(plain) == translator.translate(plain)
    assert normalizing.translate(typed) == translator.translate(plain)
    assert translator.translate(typed) != translator.translate(plain)
    loss = translator.loss(plain[:1], plain[:1])
    assert normalizing.loss(typed[:1], plain[:1]) == normalizing.loss(plain[:1], typed[:1]) == loss
    assert normalizing.alignments(typed[:1], typed[:1]) == translator.alignments(plain[:1], plain[:1])
    (window,) = normalizing.windows(typed)
    assert (window.sentences, window.chunks) == (typed, [1, 0])


def test_a_long_sentence_is_translated_in_chunks(translator):
    search = dataclasses.replace(translator.config.search, num_best=2)
    long = "a man runs. " * 30
    short, found = translator.n_best(["a man runs", long], search)
    assert short[0].text == translator.translate("a man runs")
    assert len(found) == 2
    assert found[0].tokens > 80 or found[0].text.count(" ") > 0
    assert translator.translate(["x" * 500], search) != [""]
    (window,) = translator.windows(["a man runs", long, " "], search)
    assert window.chunks[1] > 1
    assert window.chunks[::2] == [1, 0]


def test_chunks_of_a_line_are_independent_samples(translator, monkeypatch):
    numbers = []

    def noticed(members, sources, given, search, ids):
        numbers.append(given.tolist())
        return decode(members, sources, given, search, ids)

    monkeypatch.setattr("transformer.inference.translation.decode", noticed)
    search = dataclasses.replace(translator.config.search, long_input="split", sample=True)
    translator.translate(["two dogs", "", "a man runs. " * 30, "the bird"], search)
    (own,) = numbers
    assert len({*own}) == len(own) >= 4
    assert (own[0], own[1], own[-1]) == (0, 2, 3)  # the first chunk of a line uses the line number


def test_translations_of_chunks_are_joined_if_every_chunk_has_one():
    chunk, none = [Translation("a", -1.0, 2), Translation("b", -2.0, 3)], Translation("", -math.inf, 0)
    assert _join([chunk, [chunk[1], none]], 2) == [Translation("a b", -3.0, 5)]
    assert _join([[none], [none]], 1) == [none]


def test_n_best_come_with_their_scores(translator):
    sources = ["a man runs", "", "two dogs under the tree"]
    search = dataclasses.replace(translator.config.search, num_best=3, length_penalty_form="power", length_penalty=1.0)
    found = list(translator.n_best(sources, search))
    every = list(translations(translator.members, translator.tokenizer, sources, search))
    assert [len(best) for best in every] == [3, 3, 3]
    assert found == [distinct(best) for best in every]
    assert found[1] == [("", 0.0, 0)]
    assert found[0][0].text == translator.translate(sources[0], search)
    for best in every[::2]:
        assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
        assert len({one.score for one in best}) == 3  # other tokens, though perhaps the same text


@pytest.mark.parametrize("sample", [False, True])
def test_a_text_in_several_tokenizations_is_one_translation(translator, monkeypatch, sample):
    """Samples, however, are independent draws."""
    found = [Translation("a b", -1.0, 3), Translation("c", -2.0, 2), Translation("a b", -3.0, 4)]
    expected = found if sample else found[:2]
    window = Window(["x"], [found], [1])
    monkeypatch.setattr("transformer.inference.translator.translations", lambda *_: iter([found]))
    monkeypatch.setattr("transformer.inference.translator.translated_windows", lambda *_: iter([window]))
    search = dataclasses.replace(translator.config.search, num_best=3, sample=sample)
    assert list(translator.n_best(["x"], search)) == [expected]
    assert list(translator.windows(["x"], search)) == [window._replace(translations=[expected])]


def test_constraints_on_what_is_generated(translator, tokenizer):
    sentences = ["a man runs", "two dogs under the tree"]
    search = dataclasses.replace(
        translator.config.search, prefix="the bird", forbidden=("man",), min_length=6, no_repeat_ngram=2
    )
    for best in translator.n_best(sentences, search):
        assert best[0].text.startswith("the bird")
        assert best[0].tokens >= 6
        assert "man" not in best[0].text.split()
    shortest = dataclasses.replace(translator.config.search, max_length=4, num_best=2)
    for best in translator.n_best(sentences, shortest):
        assert max(found.tokens for found in best) <= 4
    both = search_ids(tokenizer, SearchConfig(forbidden=("a",))).forbidden
    assert len(both) == 2  # after a space, and without one
    assert tokenizer.tokens(both) == ["a", "a"]
    for special in ("</s>", "<pad>"):
        with pytest.raises(InputError, match=r"Cannot forbid .* Only a single token"):
            search_ids(tokenizer, SearchConfig(forbidden=(special,)))
    with pytest.raises(InputError, match=r"Cannot forbid 'incomprehensible', because it has \d\d tokens"):
        translator.translate(sentences, dataclasses.replace(translator.config.search, forbidden=("incomprehensible",)))


def test_samples_depend_only_on_their_position_in_the_input(translator, random_sentences):
    sentences = random_sentences(2, 12, 10)
    search = dataclasses.replace(translator.config.search, sample=True, num_best=2, temperature=0.7, top_p=0.9, seed=5)

    def draw(sentences, search):
        return [[sample.text for sample in samples] for samples in translator.n_best(sentences, search)]

    together = draw(sentences, search)
    assert draw(sentences[:5], dataclasses.replace(search, batch_tokens=1)) == together[:5]
    assert any(first != second for first, second in together)
    assert draw(sentences, dataclasses.replace(search, seed=6)) != together
