"""Translation of text, on top of `decoding.decode`, which translates token ids."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from transformer import devices, processes
from transformer.config import SearchConfig
from transformer.data.lengths import check_lengths
from transformer.data.text import check_text, split_text
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.decoding import Members, SearchIds, decode, longest_source
from transformer.inference.windows import windows
from transformer.model import Transformer
from transformer.shapes import Params

WINDOW = 2048  # maximum number of sentences sorted by length together; as many again may be read ahead


class Translation(NamedTuple):
    """One translation of a sentence.

    Attributes:
        text: The translation, in one line.
        score: Log-probability divided by the length penalty, or the log-probability of a sample. The scores of chunks
            are added.
        tokens: Number of tokens, including the end token. The lengths of chunks are added.
    """

    text: str
    score: float
    tokens: int


class Window(NamedTuple):
    """Consecutive sentences that were translated together.

    Attributes:
        sentences: The sentences, as they were given.
        translations: The translations of each sentence, best first.
        chunks: Number of chunks that each sentence was split into. 0 for an empty sentence, and 1 for a sentence that
            the model has enough positions for.
    """

    sentences: list[str]
    translations: list[list[Translation]]
    chunks: list[int]


TranslateChunks = Callable[[Sequence[Sequence[int]], np.ndarray], list[list[Translation]]]


def translate(
    model: Transformer, params: Params, tokenizer: Tokenizer, sentences: Sequence[str], search: SearchConfig
) -> list[str]:
    """Translates each sentence to its best translation, as `translations` does."""
    return [found[0].text for found in translations(((model, params),), tokenizer, sentences, search)]


def translations(
    members: Members, tokenizer: Tokenizer, sentences: Iterable[str], search: SearchConfig
) -> Iterator[list[Translation]]:
    """Translates sentences independently of each other.

    Neither its neighbours nor its position in the input change the translation of a sentence. A translation has at most
    `search.extra_length` more tokens than its source, and at most as many tokens as the model has positions. Every
    translation is one line, and translations of an empty sentence are empty.

    A stream of any length needs a constant amount of memory. Sentences that have arrived are translated as soon as no
    further ones are waiting.

    Args:
        members: One model, or several whose probabilities are averaged.
        tokenizer: The tokenizer of the models.
        sentences: Raw text. An iterator is advanced by a separate thread (see `windows.windows`).
        search: Settings of the search or of the sampling, and the batch size.

    Yields:
        For each sentence in order, `search.num_best` translations, best first. There are fewer if the search found
        fewer, but always at least one.

    Raises:
        InputError: A sentence has more tokens than the model has positions, and `search.long_input` is `refuse` or
            there is a prefix. Or a sentence is not valid text, or a forbidden word is not a single token.
    """
    for window in translated_windows(members, tokenizer, sentences, search):
        yield from window.translations


def translated_windows(
    members: Members, tokenizer: Tokenizer, sentences: Iterable[str], search: SearchConfig
) -> Iterator[Window]:
    """Translates like `translations`, but yields one window at a time."""
    members = tuple((model, devices.share(params)) for model, params in members)
    ids = search_ids(tokenizer, search)

    def translate_chunks(sources: Sequence[Sequence[int]], numbers: np.ndarray) -> list[list[Translation]]:
        of_chunk: dict[int, list[Translation]] = {}
        with closing(decode(members, sources, numbers, search, ids)) as decoded:
            for chosen, (tokens, scores, sizes) in decoded:
                texts = one_lines(tokenizer, tokens.reshape(-1, tokens.shape[-1]).tolist())
                flat = map(Translation, texts, scores.ravel().tolist(), sizes.ravel().tolist())
                for chunk in chosen.tolist():
                    of_chunk[chunk] = list(itertools.islice(flat, tokens.shape[1]))
        of_all = processes.united(of_chunk)
        return [[Translation(*found) for found in of_all[chunk]] for chunk in range(len(sources))]

    return windows_of(translate_chunks, longest_source(members), tokenizer, sentences, search)


def windows_of(
    translate_chunks: TranslateChunks,
    longest: int,
    tokenizer: Tokenizer,
    sentences: Iterable[str],
    search: SearchConfig,
) -> Iterator[Window]:
    """Translates text with any function that translates token ids.

    Args:
        translate_chunks: Finds translations of chunks, best first. It takes the token ids of each chunk, without the
            end id, and a random-stream id for each.
        longest: Maximum length of a chunk in tokens, including the end token.
        tokenizer: As for `translations`, like the further arguments.
        sentences: As for `translations`.
        search: As for `translations`.

    Yields:
        One window at a time.
    """
    first = 0
    for window in windows(sentences, WINDOW):
        for line, sentence in enumerate(window, start=first + 1):
            check_text(sentence, f"Line {line}")
        lines, sources = _sources(window, tokenizer, longest, first, search)
        of_line: list[list[list[Translation]]] = [[] for _ in window]
        for line, found in zip(lines, translate_chunks(sources, _numbers(lines, first)), strict=True):
            of_line[line].append(found)
        yield Window(window, [_join(chunks, search.num_best) for chunks in of_line], [*map(len, of_line)])
        first += len(window)


def distinct(found: Sequence[Translation]) -> list[Translation]:
    """Merges translations with the same text but different tokens.

    Args:
        found: The translations of one sentence, best first.

    Returns:
        The best translation with each text, in the same order.
    """
    first: dict[str, Translation] = {}
    for translation in found:
        first.setdefault(translation.text, translation)
    return list(first.values())


def search_ids(tokenizer: Tokenizer, search: SearchConfig) -> SearchIds:
    """Looks up special ids, and the token ids of `forbidden` and `prefix`.

    Raises:
        InputError: A forbidden word is not a single token.
    """
    forbidden = [*tokenizer.target.suppressed]
    for word in search.forbidden:
        if not (own := tokenizer.target.single_ids(word)):
            number = len(tokenizer.target.encode(word))
            raise InputError(
                f"Cannot forbid {word!r}, because it has {number} tokens. Only a single token of the vocabulary can be "
                "forbidden with --forbidden."
            )
        forbidden += own
    prefix = tuple(tokenizer.target.encode(search.prefix)) if search.prefix else ()
    special_ids = tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id
    return SearchIds(*special_ids, tuple(forbidden), prefix)


def _sources(
    sentences: Sequence[str], tokenizer: Tokenizer, longest: int, first: int, search: SearchConfig
) -> tuple[list[int], list[list[int]]]:
    """Tokenizes sentences, and splits those that are too long into chunks.

    Returns:
        For each chunk, the index of its sentence, and its token ids. An empty sentence has no chunk.
    """
    vocabulary = tokenizer.source
    normalized = map(vocabulary.normalize, sentences)
    texts = [text if text.strip() else "" for text in normalized]
    sources = vocabulary.encode_batch(texts)
    if search.prefix or search.long_input == "refuse":
        lengths, advice = [len(ids) + 1 for ids in sources], "Split that line, or use --long-input split."
        if search.prefix:
            advice = "Split that line, or leave out --prefix, which would begin the translation of each chunk."
        check_lengths(lengths, longest, lambda line: f"Line {first + line + 1}", advice)
    lines, chunks = [], []
    for line, (text, ids) in enumerate(zip(texts, sources, strict=True)):
        if len(ids) < longest:
            parts = [ids] if text else []
        else:
            parts = vocabulary.encode_batch(split_text(text, lambda part: len(vocabulary.encode(part)) < longest))
        lines += [line] * len(parts)
        chunks += parts
    return lines, chunks


def _numbers(lines: Sequence[int], first: int) -> np.ndarray:
    """Random-stream ids, one per chunk.

    The first chunk of a line uses the line number. Later chunks use ids far away from it.

    Args:
        lines: The line of each chunk within the window, in ascending order.
        first: Number of lines before the window.
    """
    of_line = np.array(lines, np.int64)
    chunk = np.arange(len(of_line)) - np.searchsorted(of_line, of_line)
    return ((of_line + first + 1_000_003 * chunk) % 2**31).astype(np.int32)


def one_lines(tokenizer: Tokenizer, sequences: Sequence[Sequence[int]]) -> list[str]:
    """Decodes each sequence of token ids as one line of text."""
    return [text.replace("\r", " ").replace("\n", " ") for text in tokenizer.target.decode_batch(sequences)]


def _join(chunks: list[list[Translation]], num_best: int) -> list[Translation]:
    """Joins the n-th translations of all chunks to the n-th translation of a line."""
    if not chunks:
        return [Translation("", 0.0, 0)] * num_best
    joined = [
        Translation(" ".join(part.text for part in nth), sum(part.score for part in nth), sum(p.tokens for p in nth))
        for nth in zip(*chunks, strict=True)
        if all(part.tokens for part in nth)  # without tokens, the search found fewer translations of that chunk
    ]
    return joined or [Translation("", -math.inf, 0)]
