"""Sentences in, translations out: text around `decoding.decode`, which takes and gives token ids."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from transformer.config import SearchConfig
from transformer.data.lengths import check_lengths
from transformer.data.text import check_text, cut
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.decoding import Members, SearchIds, decode, longest_source
from transformer.inference.windows import windows
from transformer.model import Transformer
from transformer.shapes import Params

WINDOW = 2048  # sentences at most that are sorted by length among themselves; as many more of a stream may be waiting


class Translation(NamedTuple):
    """One translation of a sentence.

    text: one line.
    score: its log-probability over the length penalty; of a sample, its log-probability; of a sentence that was
        translated in segments, the sum of theirs.
    tokens: its length in tokens, the end token counted.
    """

    text: str
    score: float
    tokens: int


class Window(NamedTuple):
    """Consecutive sentences that were translated together.

    sentences: as they were given.
    translations: those of each sentence, the best first.
    segments: the number of segments in which each was translated: 0 if it is empty, 1 if it fits the model's positions.
    """

    sentences: list[str]
    translations: list[list[Translation]]
    segments: list[int]


def translate(
    model: Transformer, params: Params, tokenizer: Tokenizer, sentences: Sequence[str], search: SearchConfig
) -> list[str]:
    """The best translation of each sentence by one model, in the same order; see `translations`."""
    return [found[0].text for found in translations(((model, params),), tokenizer, sentences, search)]


def translations(
    members: Members, tokenizer: Tokenizer, sentences: Iterable[str], search: SearchConfig
) -> Iterator[list[Translation]]:
    """Translates sentences, each by itself: neither its neighbours nor its place change a translation.

    A translation has at most `search.extra_length` tokens more than its source, and no more than the model has
    positions. An empty sentence has empty translations, and every translation is one line. A stream of any length takes
    a constant amount of memory; what has arrived of it is translated as soon as nothing more is waiting.

    Args:
        members: one model, or several, whose mean probability is searched.
        tokenizer: cuts the sentences, joins the translations, and knows the special ids.
        sentences: raw text. An iterator is advanced by a thread of its own; see `windows.windows`.
        search: how is searched or drawn, and how much at a time.

    Returns:
        For each sentence in order `search.num_best` translations, the best first; fewer if the search found no more,
        and one at the least.

    Raises:
        InputError: a sentence has more tokens than the model has positions (its line is named), and `search.long_input`
            is not `split` or there is a prefix; a sentence is no valid text; a forbidden word is not one token.
    """
    for window in translated_windows(members, tokenizer, sentences, search):
        yield from window.translations


def translated_windows(
    members: Members, tokenizer: Tokenizer, sentences: Iterable[str], search: SearchConfig
) -> Iterator[Window]:
    """The same as `translations`, a window at a time."""
    members = tuple((model, jax.device_put(params)) for model, params in members)
    ids, longest, first = search_ids(tokenizer, search), longest_source(members), 0
    for window in windows(sentences, WINDOW):
        for line, sentence in enumerate(window, start=first + 1):
            check_text(sentence, f"Line {line}")
        lines, sources = _sources(window, tokenizer, longest, first, search)
        found = decode(members, sources, _numbers(lines, first), search, ids)

        pieces: list[list[Translation]] = [[]] * len(sources)
        for chosen, (tokens, scores, sizes) in found:
            texts = tokenizer.decode_batch(tokens.reshape(-1, tokens.shape[-1]).tolist())
            flat = map(Translation, map(_one_line, texts), scores.ravel().tolist(), sizes.ravel().tolist())
            for piece in chosen:
                pieces[piece] = list(itertools.islice(flat, tokens.shape[1]))
        of_line: list[list[list[Translation]]] = [[] for _ in window]
        for line, piece in zip(lines, pieces, strict=True):
            of_line[line].append(piece)
        yield Window(window, [_join(of_one, search.num_best) for of_one in of_line], [*map(len, of_line)])
        first += len(window)


def distinct(found: Sequence[Translation]) -> list[Translation]:
    """The translations without repeated texts, each as it comes first: the same text can be tokenized in several ways.

    Args:
        found: of one sentence, the best first.
    """
    first: dict[str, Translation] = {}
    for translation in found:
        first.setdefault(translation.text, translation)
    return list(first.values())


def search_ids(tokenizer: Tokenizer, search: SearchConfig) -> SearchIds:
    """The token ids that a search has to know of a tokenizer and of its own words.

    Raises: InputError if a forbidden word is not one token.
    """
    forbidden = list[int]()
    for word in search.forbidden:
        if not (own := tokenizer.single_ids(word)):
            number = len(tokenizer.encode(word))
            raise InputError(
                f"Only what is one token of the vocabulary can be forbidden, but {word!r} is {number} tokens."
            )
        forbidden += own
    prefix = tuple(tokenizer.encode(search.prefix)) if search.prefix else ()
    special_ids = tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id
    return SearchIds(*special_ids, tuple(forbidden), prefix)


def _sources(
    sentences: Sequence[str], tokenizer: Tokenizer, longest: int, first: int, search: SearchConfig
) -> tuple[list[int], list[list[int]]]:
    """The token ids of what is translated by itself, and the sentence that each is of: one a sentence, unless that is
    empty or too long."""
    normalized = map(tokenizer.normalize, sentences)
    texts = [text if text.strip() else "" for text in normalized]
    sources = tokenizer.encode_batch(texts)
    if search.prefix or search.long_input == "refuse":
        lengths, advice = [len(ids) + 1 for ids in sources], "Split that line, or let it be split: --long-input split."
        if search.prefix:
            advice = "Split that line, or leave out --prefix, which would begin each of its segments."
        check_lengths(lengths, longest, lambda line: f"Line {first + line + 1}", advice)
    lines, pieces = [], []
    for line, (text, ids) in enumerate(zip(texts, sources, strict=True)):
        if len(ids) < longest:
            parts = [ids] if text else []
        else:
            parts = tokenizer.encode_batch(cut(text, lambda part: len(tokenizer.encode(part)) < longest))
        lines += [line] * len(parts)
        pieces += parts
    return lines, pieces


def _numbers(lines: Sequence[int], first: int) -> np.ndarray:
    """A number for each piece of the lines, which are in order, for its random numbers: of a line's first piece the
    line's own number, of further ones another that is far from it."""
    of_line = np.array(lines, np.int64)
    place = np.arange(len(of_line)) - np.searchsorted(of_line, of_line)
    return ((of_line + first + 1_000_003 * place) % 2**31).astype(np.int32)


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _join(pieces: list[list[Translation]], num_best: int) -> list[Translation]:
    """The translations of a line: of its only piece, or the n-th ones of all its pieces, one after the other."""
    if not pieces:
        return [Translation("", 0.0, 0)] * num_best
    joined = [
        Translation(" ".join(part.text for part in nth), sum(part.score for part in nth), sum(p.tokens for p in nth))
        for nth in zip(*pieces, strict=True)
        if all(part.tokens for part in nth)  # of this piece, the search found no more
    ]
    return joined or [Translation("", -math.inf, 0)]
