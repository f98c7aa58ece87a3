"""Text in, text out: a run's model and tokenizer around `decoding.decode`, and the jitted apply."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from transformer.checkpoint import load_params
from transformer.config import Config, SearchConfig
from transformer.data.batches import Batches, TokenPairs, tokenize
from transformer.data.corpus import Pairs, Report
from transformer.data.rows import of_one_width, pad
from transformer.data.text import cut
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.decoding import Members, SearchIds, decode, default_backend, longest_source
from transformer.inference.evaluate import (
    Scores,
    corpus_loss,
    score_translations,
    strongest_sources,
    token_log_probabilities,
)
from transformer.model import Transformer
from transformer.run_dir import checkpoint_steps, read_config
from transformer.runtime import resolve_dtype, use_compilation_cache
from transformer.shapes import Batch, Params

WINDOW = 2048  # lines that are sorted by length among themselves; a stream takes no more memory than these


class Translation(NamedTuple):
    """One translation of a sentence.

    text: one line.
    score: its log-probability over the length penalty; of a sample, its log-probability; of a sentence that was
        translated in pieces, the sum of theirs.
    tokens: its length in tokens, the end token counted.
    """

    text: str
    score: float
    tokens: int


@dataclass(frozen=True)
class Translator:
    """A trained model: text in, text out; and the jitted `apply` to look inside.

    Attributes:
        config: the run's.
        model: the architecture, with the compute type in use.
        params: parameters, and further variables where the model has any: what `apply` takes first.
        tokenizer: the run's.
        others: further models that translate together with this one; see `ensemble`.
    """

    config: Config
    model: Transformer
    params: Params
    tokenizer: Tokenizer
    others: Members = ()

    @property
    def members(self) -> Members:
        """All models that translate."""
        return ((self.model, self.params), *self.others)

    @overload
    def translate(self, sentences: str, search: SearchConfig | None = None) -> str: ...
    @overload
    def translate(self, sentences: list[str], search: SearchConfig | None = None) -> list[str]: ...
    @overload
    def translate(self, sentences: Iterator[str], search: SearchConfig | None = None) -> Iterator[str]: ...
    def translate(
        self, sentences: str | list[str] | Iterator[str], search: SearchConfig | None = None
    ) -> str | list[str] | Iterator[str]:
        """The best translation of each sentence, or the first sample; see `translations`.

        Args:
            sentences: one, several, or a stream of any length, which is translated as it is read.
            search: the run's unless given.

        Returns:
            What was given: a string, a list, or an iterator.
        """
        if isinstance(sentences, str):
            return next(self.n_best([sentences], search))[0].text
        best = (found[0].text for found in self.n_best(sentences, search))
        return list(best) if isinstance(sentences, list) else best

    def n_best(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[list[Translation]]:
        """The `search.num_best` translations of each sentence, as they come; see `translations`."""
        return translations(self.members, self.tokenizer, sentences, self.config.search if search is None else search)

    def log_probabilities(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """log p(y_t | y_1 .. y_{t-1}, x) of each token of each given translation, the end token's last, in nats.

        Raises:
            InputError: a side has more tokens than the model has positions.
        """
        models, params = zip(*self.members, strict=True)
        found: list[Any] = [None] * len(sources)
        for chosen, batch in self._groups(sources, targets):
            log_probs = np.asarray(token_log_probabilities(models, params, batch))
            for row, pair in enumerate(chosen):
                found[pair] = log_probs[row, np.asarray(batch.target_mask)[row]]
        return found

    def alignments(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """For each piece of a target, the end included, the place of the source's piece that it looks at the most.

        The weights are the mean over all layers and heads of the attention to the encoder (section 3.2.3), of the first
        model where there are several.

        Raises:
            InputError: a side has more tokens than the model has positions.
        """
        found: list[Any] = [None] * len(sources)
        for chosen, batch in self._groups(sources, targets):
            places = np.asarray(strongest_sources(self.model, self.params, batch))
            for row, pair in enumerate(chosen):
                found[pair] = places[row, np.asarray(batch.target_mask)[row]].tolist()
        return found

    def score(self, pairs: Sequence[tuple[str, str]], search: SearchConfig | None = None) -> Scores:
        """BLEU, chrF, exact match and loss of the translations of `pairs`, each a source and its reference.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        return self.evaluate(Pairs([source for source, _ in pairs], [target for _, target in pairs]), search)[0]

    def evaluate(self, pairs: Pairs, search: SearchConfig | None = None) -> tuple[Scores, list[str]]:
        """The scores of a test set, broken down by its tags, and the translations that they are of.

        With `search.long_input=split` they have no loss if a side of a pair has more tokens than the model has
        positions: what is translated in pieces has no probability as a whole.
        """
        search = self.config.search if search is None else search
        split = search.long_input == "split" and not all(self.fit(pairs.sources, pairs.targets))
        loss = None if split else self.loss(pairs.sources, pairs.targets)  # first: it tells early what is too long
        hypotheses = self.translate(pairs.sources, search)
        return score_translations(hypotheses, pairs.targets, tags=pairs.tags, loss=loss), hypotheses

    def fit(self, sources: Sequence[str], targets: Sequence[str]) -> list[bool]:
        """Whether the model has positions for both sides of each pair, their end tokens counted."""
        longest = longest_source(self.members)
        sides = self.tokenizer.encode_batch(sources), self.tokenizer.encode_batch(targets)
        return [max(map(len, pair)) < longest for pair in zip(*sides, strict=True)]

    def loss(self, sources: Sequence[str], targets: Sequence[str]) -> float:
        """The model's mean negative log-likelihood of the given translations, in nats per target token.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        if self.others:
            return -float(np.concatenate(self.log_probabilities(sources, targets)).mean())
        batches = Batches(
            self._tokenize(sources, targets),
            tokens=max(self.config.training.batch_tokens, self.model.config.max_positions),
            row_multiple=1,
            seed=0,
            pad_id=self.tokenizer.pad_id,
            start_id=self.tokenizer.start_id,
            end_id=self.tokenizer.end_id,
            shuffle=False,
        )
        return corpus_loss(self.model, self.params, (batches[n] for n in range(batches.per_epoch)))

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> Batch:
        """Sentence pairs as one padded batch with a pair in each row, in the same order.

        Its `source` and its `target_input` are what `apply` takes.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        tokens = self._tokenize(sources, targets)
        read, written = (
            [sentence.tolist() for sentence in np.split(ids, offsets[1:-1])]
            for ids, offsets in (tokens[:2], tokens[2:])
        )
        S, T = int(tokens.source_lengths.max()), int(tokens.target_lengths.max())
        return _pad_pairs(read, written, tokens.num_pairs, S, T, self.tokenizer)

    def apply(
        self,
        params: Params,
        source: Int[Array | np.ndarray, "B S"],
        target: Int[Array | np.ndarray, "B T"],
        *,
        return_weights: bool = False,
    ) -> Any:
        """The model as a pure, jitted function of parameters and token ids.

        Args:
            params: such as `self.params`.
            source: ids, the end id last, padded with the pad id.
            target: ids after the start id, padded with the pad id.
            return_weights: whether to return the attention weights, too.

        Returns:
            Float32 next-token logits [B, T, V] for every position of `target`; or, with return_weights, these and a
            dict of attention weights [L, B, H, Q, K] of all L layers: `encoder`, `decoder` and `cross`.
        """
        return _apply(
            params, source, target, model=self.model, pad_id=self.tokenizer.pad_id, return_weights=return_weights
        )

    def _groups(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[np.ndarray, Batch]]:
        """Pairs of about the same length, in batches of few shapes, with their places."""
        tokenizer, longest = self.tokenizer, longest_source(self.members)
        read, written = tokenizer.encode_batch(sources), tokenizer.encode_batch(targets)
        lengths = np.array([max(map(len, pair)) + 1 for pair in zip(read, written, strict=True)], int)
        _check_lengths(lengths, longest, 0)
        backend = default_backend()
        tokens = self.config.search.batch_tokens or backend.batch_tokens
        for width, rows, chosen in of_one_width(lengths, backend.widths(longest), tokens, backend.row_divisor):
            chosen_pairs = [read[pair] for pair in chosen], [written[pair] for pair in chosen]
            yield chosen, _pad_pairs(*chosen_pairs, rows, width, width, tokenizer)

    def _tokenize(self, sources: Sequence[str], targets: Sequence[str]) -> TokenPairs:
        """The token ids of all pairs; the model has positions for each."""
        if not len(sources):
            raise InputError("There are no sentence pairs to compute with: at least one is needed.")
        pairs = Pairs(list(sources), list(targets))
        report = Report(files=("the given text",), read=len(pairs.sources))
        positions = self.model.config.max_positions
        return tokenize(pairs, self.tokenizer, self.config.data, report, filter=False, max_length=positions)


def load(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
) -> Translator:
    """The translator of a run, on whatever machine it was trained.

    If the run used the compilation cache (`compilation_cache`), so does this process from here on.

    Args:
        run_dir: the run directory.
        checkpoint: the one of lowest validation loss, the last one, or the one of a step.
        average: take the mean of this many checkpoints, this one and those before it (section 6.1). None: of the last
            one, as many as the run's config says, or as there are; of another, only itself.
        dtype: compute type instead of the run's.

    Raises:
        InputError: the directory is not that of a run, or has not the checkpoints or the tokenizer asked for.
    """
    config = read_config(run_dir)
    if config.compilation_cache:
        use_compilation_cache()
    compute_type, _ = resolve_dtype(config.model.dtype if dtype is None else dtype)
    tokenizer = Tokenizer.load(Path(run_dir) / "tokenizer.json", config.tokenizer, config.model.vocabulary_size)
    steps = checkpoint_steps(run_dir, checkpoint, average)
    params = load_params(run_dir, steps, tokenizer.fingerprint)
    model = Transformer(config.model, dtype=jnp.dtype(compute_type))
    return Translator(config, model, jax.device_put(params), tokenizer)


def ensemble(translators: Sequence[Translator]) -> Translator:
    """Several models as one: the next token's probability is the mean of theirs.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...), as in Sutskever et al. 2014 (arXiv 1409.3215, section 3.6) and Sennrich et
    al. 2016 (arXiv 1606.02891): the arithmetic mean, so that no member can veto a token as in a geometric one.

    Args:
        translators: at least one. The first one's config, search and attention are the ensemble's.

    Raises:
        InputError: their tokenizers differ.
    """
    first, *others = translators
    for number, other in enumerate(others, start=2):
        if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise InputError(
                f"The models of an ensemble need one tokenizer, but number {number} ({other.config.run_dir}) has "
                f"another one than the first ({first.config.run_dir})."
            )
    return dataclasses.replace(first, others=tuple(itertools.chain(*(other.members for other in translators)))[1:])


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
    positions. An empty sentence has empty translations, and every translation is one line. `WINDOW` sentences are read
    at a time, so a stream of any length takes a constant amount of memory.

    Args:
        members: one model, or several, whose mean probability is searched.
        tokenizer: cuts the sentences, joins the translations, and knows the special ids.
        sentences: raw text.
        search: how is searched or drawn, and how much at a time.

    Returns:
        For each sentence in order `search.num_best` translations, the best first; fewer if the search found no more,
        and one at the least.

    Raises:
        InputError: a sentence has more tokens than the model has positions (its line is named), and `search.long_input`
            is not `split`; that is asked for together with a prefix; a forbidden word is not one piece.
    """
    members = tuple((model, jax.device_put(params)) for model, params in members)
    if search.prefix and search.long_input == "split":
        raise InputError("search.prefix would begin each piece of a line: leave out search.long_input=split.")
    ids = search_ids(tokenizer, search)
    longest, numbered = longest_source(members), enumerate(sentences)
    while window := list(itertools.islice(numbered, WINDOW)):
        texts = [text if text.strip() else "" for _, text in window]
        lines, sources = _sources(texts, tokenizer, longest, window[0][0], search.long_input)
        found = decode(members, sources, _numbers(lines, window[0][0]), search, ids)

        pieces: list[list[Translation]] = [[]] * len(sources)
        for chosen, (tokens, scores, sizes) in found:
            texts = tokenizer.decode_batch(tokens.reshape(-1, tokens.shape[-1]).tolist())
            flat = map(Translation, map(_one_line, texts), scores.ravel().tolist(), sizes.ravel().tolist())
            for piece in chosen:
                pieces[piece] = list(itertools.islice(flat, tokens.shape[1]))
        of_line: list[list[list[Translation]]] = [[] for _ in window]
        for line, piece in zip(lines, pieces, strict=True):
            of_line[line].append(piece)
        yield from (_join(of_one, search.num_best) for of_one in of_line)


def search_ids(tokenizer: Tokenizer, search: SearchConfig) -> SearchIds:
    """The token ids that a search has to know of a tokenizer and of its own words.

    Raises: InputError if a forbidden word is not one piece.
    """
    pieces, forbidden = tokenizer.encode_batch(search.forbidden), list[int]()
    for word, ids in zip(search.forbidden, pieces, strict=True):
        # Our tokenizer cuts a word as it begins a text: behind a space. Others may do so only where there is one, and
        # where there is none it is another piece, if any.
        spaced, inner = tokenizer.encode_batch([f" {word}"])[0], tokenizer.piece_id(word)
        own = {cut[0] for cut in (ids, spaced) if len(cut) == 1} | ({inner} if inner is not None else set())
        if not own:
            raise InputError(
                f"Only what is one piece of the vocabulary can be forbidden, but {word!r} is {len(ids)} pieces."
            )
        forbidden += sorted(own)
    prefix = tuple(tokenizer.encode_batch([search.prefix])[0]) if search.prefix else ()
    special_ids = tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id
    return SearchIds(*special_ids, tuple(forbidden), prefix)


def _sources(
    texts: Sequence[str], tokenizer: Tokenizer, longest: int, first: int, long_input: Literal["refuse", "split"]
) -> tuple[list[int], list[list[int]]]:
    """The token ids of what is translated by itself, and the text that each is of: one a text, unless that is empty or
    too long."""
    sources = tokenizer.encode_batch(texts)
    if long_input == "refuse":
        _check_lengths(np.array([len(ids) + 1 for ids in sources], int), longest, first)
    lines, pieces = [], []
    for line, (text, ids) in enumerate(zip(texts, sources, strict=True)):
        if len(ids) < longest:
            parts = [ids] if text else []
        else:
            parts = tokenizer.encode_batch(cut(text, lambda part: len(tokenizer.encode_batch([part])[0]) < longest))
        lines += [line] * len(parts)
        pieces += parts
    return lines, pieces


def _numbers(lines: Sequence[int], first: int) -> np.ndarray:
    """A number for each piece of the lines, which are in order, for its random numbers: of a line's first piece the
    line's own number, of further ones another that is far from it."""
    of_line = np.array(lines, np.int64)
    place = np.arange(len(of_line)) - np.searchsorted(of_line, of_line)
    return ((of_line + first + 1_000_003 * place) % 2**31).astype(np.int32)


def _pad_pairs(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    rows: int,
    S: int,
    T: int,
    tokenizer: Tokenizer,
) -> Batch:
    """A padded batch with one pair in each row, from token ids without start or end."""
    start, end, pad_id = tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id
    source, source_mask = pad([[*ids, end] for ids in sources], rows, S, pad_id)
    target_input, _ = pad([[start, *ids] for ids in targets], rows, T, pad_id)
    target_output, target_mask = pad([[*ids, end] for ids in targets], rows, T, pad_id)
    return Batch(source, source_mask, target_input, target_output, target_mask, np.arange(rows, dtype=np.int32))


def _check_lengths(lengths: np.ndarray, longest: int, first: int) -> None:
    if (lengths > longest).any():
        line = int(np.argmax(lengths > longest))
        raise InputError(
            f"Line {first + line + 1} has {lengths[line]} tokens, but the model has positions for {longest}: split "
            "that line, or set search.long_input to split."
        )


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _join(pieces: list[list[Translation]], num_best: int) -> list[Translation]:
    """The translations of a line: of its only piece, or the n-th ones of all its pieces, one behind the other."""
    if not pieces:
        return [Translation("", 0.0, 0)] * num_best
    joined = [
        Translation(" ".join(part.text for part in nth), sum(part.score for part in nth), sum(p.tokens for p in nth))
        for nth in zip(*pieces, strict=True)
        if all(part.tokens for part in nth)  # of this piece, the search found no more
    ]
    return joined or [Translation("", -math.inf, 0)]


@partial(jax.jit, static_argnames=("model", "pad_id", "return_weights"))
def _apply(
    params: Params, source: Array, target: Array, *, model: Transformer, pad_id: int, return_weights: bool
) -> Any:
    logits, weights = model.apply(params, source, source != pad_id, target, return_weights=return_weights)
    return (logits, weights) if return_weights else logits
