"""A trained model with its tokenizer: it translates, scores, and shows what it computes."""

import dataclasses
import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from transformer import parameters
from transformer.checkpoint import load_chosen
from transformer.config import Config, SearchConfig
from transformer.data.corpus import Pairs
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError, require
from transformer.inference import forced_decoding
from transformer.inference.decoding import Members, longest_source
from transformer.inference.evaluate import Scores, score_translations
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.translation import Translation, Window, distinct, translated_windows, translations
from transformer.model import Transformer
from transformer.run_dir import read_config
from transformer.runtime import resolve_dtype, use_compilation_cache
from transformer.shapes import Batch, Params

NO_PAIRS = "There are no sentence pairs to compute with: at least one is needed."


@dataclass(frozen=True)
class Translator:
    """A trained model: text in, text out; and the jitted `apply` to look inside.

    Attributes:
        config: the run's.
        model: the architecture, with the compute type in use.
        params: what `apply` takes first: the parameters under `params`, and other variables where the model has any.
        tokenizer: the run's.
        others: further models that translate together with this one; see `ensemble`.
        checkpoints: steps of the checkpoints that the parameters are the mean of; empty if they are not a run's.
    """

    config: Config
    model: Transformer
    params: Params
    tokenizer: Tokenizer
    others: Members = ()
    checkpoints: tuple[int, ...] = ()

    @property
    def num_parameters(self) -> int:
        """How many parameters the model has; of several models, the first."""
        return parameters.count(self.params)

    @property
    def members(self) -> Members:
        """All models that translate."""
        return ((self.model, self.params), *self.others)

    @overload
    def translate(  # pyright: ignore[reportOverlappingOverload]  a string is a collection of strings, too
        self, sentences: str, search: SearchConfig | None = None
    ) -> str: ...
    @overload
    def translate(self, sentences: Collection[str], search: SearchConfig | None = None) -> list[str]: ...
    @overload
    def translate(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[str]: ...
    def translate(
        self, sentences: Iterable[str], search: SearchConfig | None = None
    ) -> str | list[str] | Iterator[str]:
        """The best translation of each sentence, or the first sample; see `translations`.

        Args:
            sentences: one, a collection (a list, a tuple, an array), or a stream of any length, such as a generator. A
                stream is advanced by a thread of its own, and what has arrived is translated when no more is waiting.
            search: the run's unless given.

        Returns:
            A string for a string, a list for a collection, an iterator for a stream.

        Raises:
            InputError: as `translations` does. An exception of a stream is raised after the translations of what came
                before it.
        """
        if isinstance(sentences, str | bytes):
            return next(self.n_best([sentences], search))[0].text
        best = (found[0].text for found in self.n_best(sentences, search))
        return list(best) if isinstance(sentences, Collection) else best

    def n_best(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[list[Translation]]:
        """The `search.num_best` translations of each sentence, as they come; see `translations`.

        A text that a search has found in several tokenizations is returned once, with its best score, so there may be
        fewer. Samples are independent draws, which may be equal.
        """
        search = self.config.search if search is None else search
        found = translations(self.members, self.tokenizer, sentences, search)
        return found if search.sample else map(distinct, found)

    def windows(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[Window]:
        """The same, for as many sentences at a time as are waiting; see `translated_windows`."""
        search = self.config.search if search is None else search
        found = translated_windows(self.members, self.tokenizer, sentences, search)
        return found if search.sample else (w._replace(translations=[*map(distinct, w.translations)]) for w in found)

    def score(self, pairs: Sequence[tuple[str, str]], search: SearchConfig | None = None) -> Scores:
        """BLEU, chrF, exact match and loss of the translations of `pairs`, each a source and its reference.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        return self.evaluate(Pairs([source for source, _ in pairs], [target for _, target in pairs]), search)[0]

    def evaluate(
        self, pairs: Pairs, search: SearchConfig | None = None, metrics: Metrics | None = None
    ) -> tuple[Scores, list[str]]:
        """The scores of a test set, broken down by its tags, and the translations that they are of.

        Search and metrics are as the run's config says unless given.

        With `search.long_input=split` they have no loss if a side of a pair has more tokens than the model has
        positions: what is translated in pieces has no probability as a whole.
        """
        search = self.config.search if search is None else search
        split = search.long_input == "split" and not all(self.fit(pairs.sources, pairs.targets))
        loss = None if split else self.loss(pairs.sources, pairs.targets)  # first: it tells early what is too long
        hypotheses = self.translate(pairs.sources, search)
        scores = score_translations(
            hypotheses,
            pairs.targets,
            further_references=pairs.further_references,
            metrics=metrics_of(self.config) if metrics is None else metrics,
            tags=pairs.tags,
            loss=loss,
        )
        return scores, hypotheses

    def fit(self, sources: Sequence[str], targets: Sequence[str]) -> list[bool]:
        """Whether the model has positions for both sides of each pair, their end tokens counted."""
        longest = longest_source(self.members)
        sides = self.tokenizer.encode_batch(sources), self.tokenizer.encode_batch(targets)
        return [max(map(len, pair)) < longest for pair in zip(*sides, strict=True)]

    def log_probabilities(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """log p(y_t | y_1 .. y_{t-1}, x) of each token of each given translation, the end token's last, in nats.

        Raises:
            InputError: a side has more tokens than the model has positions.
        """
        found: list[Any] = [None] * len(sources)
        for chosen, log_probs, mask in self._log_probabilities(sources, targets):
            for row, pair in enumerate(chosen):
                found[pair] = log_probs[row, mask[row]]
        return found

    def loss(self, sources: Sequence[str], targets: Sequence[str]) -> float:
        """The mean negative log-likelihood of the given translations, in nats per target token.

        -1/N sum_n log p(y_n | y_1 .. y_{n-1}, x), minus the mean of all `log_probabilities`

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        require(len(sources) > 0, NO_PAIRS)
        total, count = 0.0, 0
        for _, log_probs, mask in self._log_probabilities(sources, targets):
            total += float(log_probs.sum(where=mask, dtype=np.float64))
            count += int(mask.sum())
        return -total / count

    def _log_probabilities(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[np.ndarray, ...]]:
        """A batch at a time: the indices of its pairs, the log-probabilities [B, T] of their target tokens, and where
        there are any [B, T]."""
        models, params = zip(*self.members, strict=True)
        for chosen, batch in self._batches(sources, targets):
            log_probs = forced_decoding.token_log_probabilities(models, params, batch)
            yield chosen, np.asarray(log_probs), np.asarray(batch.target_mask)

    def alignments(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """The index of the source token that each target token attends to the most, end tokens included.

        The weights are the mean over all layers and heads of the attention to the encoder (section 3.2.3), of the first
        model where there are several.

        Raises:
            InputError: a side has more tokens than the model has positions.
        """
        found: list[Any] = [None] * len(sources)
        for chosen, batch in self._batches(sources, targets):
            places = np.asarray(forced_decoding.strongest_sources(self.model, self.params, batch))
            for row, pair in enumerate(chosen):
                found[pair] = places[row, np.asarray(batch.target_mask)[row]].tolist()
        return found

    def _batches(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[np.ndarray, Batch]]:
        longest = longest_source(self.members)
        pairs = forced_decoding.tokenize(self.tokenizer, sources, targets, longest)
        return forced_decoding.batches(pairs, self.tokenizer, longest, self.config.search.batch_tokens)

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> Batch:
        """Sentence pairs as one padded batch with a pair in each row, in the same order.

        Its `source` and its `target_input` are what `apply` takes.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        require(len(sources) > 0, NO_PAIRS)
        pairs = forced_decoding.tokenize(self.tokenizer, sources, targets, self.model.config.max_positions)
        return forced_decoding.whole(pairs, self.tokenizer)

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
        return forced_decoding.apply(
            params, source, target, model=self.model, pad_id=self.tokenizer.pad_id, return_weights=return_weights
        )


def load(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
) -> Translator:
    """The translator of a run, on whatever machine it was trained.

    If the run used the compilation cache (`compilation_cache`), so does this process from here on. A checkpoint that
    cannot be read is left out, with a note on standard error, unless its step was asked for.

    Args:
        run_dir: the run directory.
        checkpoint: the one of lowest validation loss, the last one, or the one of a step.
        average: number of checkpoints to average, ending with this one (section 6.1). None: for the last one the run's
            number (fewer if fewer exist), and 1 for any other.
        dtype: compute type instead of the run's.

    Raises:
        InputError: the directory is not a run's, or lacks the checkpoints asked for, or its tokenizer.
    """
    config = read_config(run_dir)
    if config.compilation_cache:
        use_compilation_cache()
    compute_type, _ = resolve_dtype(config.model.dtype if dtype is None else dtype)
    tokenizer = Tokenizer.load(
        Path(run_dir) / "tokenizer.json", config.tokenizer, config.model.vocabulary_size, config.data.normalization
    )
    say = partial(print, file=sys.stderr, flush=True)
    steps, params = load_chosen(run_dir, checkpoint, average, tokenizer.fingerprint, say)
    model = Transformer(config.model, dtype=jnp.dtype(compute_type))
    return Translator(config, model, jax.device_put(params), tokenizer, checkpoints=tuple(steps))


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
