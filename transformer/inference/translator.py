"""A trained model with its tokenizer, as a translator."""

import dataclasses
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from transformer import devices, parameters, processes
from transformer.config import Config, SearchConfig
from transformer.data.corpus import Pairs
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_files import load_tokenizer
from transformer.errors import InputError, require
from transformer.inference import forced_decoding
from transformer.inference.decoding import Members, longest_source
from transformer.inference.evaluate import Scores, score_translations
from transformer.inference.loading import load_chosen
from transformer.inference.metrics import Metrics, metrics_of
from transformer.inference.translation import Translation, Window, distinct, translated_windows, translations
from transformer.model import Transformer
from transformer.run_dir import read_config
from transformer.runtime import resolve_dtype, use_compilation_cache
from transformer.shapes import Batch, Params

NO_PAIRS = "There are no sentence pairs. Give at least one source and its target."


@dataclass(frozen=True)
class Translator:
    """A trained model with its tokenizer.

    It translates and scores text, and its jitted `apply` computes logits and attention weights.

    Attributes:
        config: The config of the run.
        model: The architecture, with the compute dtype in use.
        params: The first argument of `apply`: the parameters under `params`, and other variables if the model has any.
        tokenizer: The tokenizer of the run.
        others: Further models of an ensemble (see `ensemble`).
        checkpoints: Steps of the checkpoints that the parameters are the mean of. Empty if they are not from a run.
    """

    config: Config
    model: Transformer
    params: Params
    tokenizer: Tokenizer
    others: Members = ()
    checkpoints: tuple[int, ...] = ()

    @property
    def num_parameters(self) -> int:
        """The number of parameters of the model, or of the first model of an ensemble."""
        return parameters.count(self.params)

    @property
    def members(self) -> Members:
        """Architecture and parameters of each model."""
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
        """Translates each sentence to its best translation, or to its first sample.

        Args:
            sentences: One sentence, a collection of sentences (a list, a tuple, an array), or a stream of any length,
                such as a generator. A stream is advanced by a separate thread, and sentences that have arrived are
                translated when no further ones are waiting.
            search: Settings of the search. None uses the settings of the run's config.

        Returns:
            A string for a string, a list for a collection, and an iterator for a stream.

        Raises:
            InputError: As for `translations`. An exception of a stream is raised after the translations of the
                sentences before it.
        """
        if isinstance(sentences, str | bytes):
            return next(self.n_best([sentences], search))[0].text
        best = (found[0].text for found in self.n_best(sentences, search))
        return list(best) if isinstance(sentences, Collection) else best

    def n_best(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[list[Translation]]:
        """Finds the `search.num_best` best translations of each sentence, best first.

        A text that the search finds in several tokenizations is returned once, with its best score. There may therefore
        be fewer translations. Samples are independent draws, so equal samples are kept.
        """
        search = self.config.search if search is None else search
        found = translations(self.members, self.tokenizer, sentences, search)
        return found if search.sample else map(distinct, found)

    def windows(self, sentences: Iterable[str], search: SearchConfig | None = None) -> Iterator[Window]:
        """Translates like `n_best`, but returns one `Window` of sentences at a time."""
        search = self.config.search if search is None else search
        found = translated_windows(self.members, self.tokenizer, sentences, search)
        return found if search.sample else (w._replace(translations=[*map(distinct, w.translations)]) for w in found)

    def score(self, pairs: Sequence[tuple[str, str]], search: SearchConfig | None = None) -> Scores:
        """Translates and scores pairs of a source and its reference (see `evaluate`)."""
        return self.evaluate(Pairs([source for source, _ in pairs], [target for _, target in pairs]), search)[0]

    def evaluate(
        self, pairs: Pairs, search: SearchConfig | None = None, metrics: Metrics | None = None
    ) -> tuple[Scores, list[str]]:
        """Translates a test set and scores the translations.

        There is no loss if `search.long_input` is `split` and a pair has more tokens than the model has positions. The
        model assigns no probability to a text in several chunks.

        Args:
            pairs: The test set, perhaps with several references and with tags.
            search: Settings of the search. None uses the settings of the run's config.
            metrics: The metrics to compute. None uses the metrics of the run's config.

        Returns:
            The scores, and the translations.

        Raises:
            InputError: There are no pairs, or a metric lacks its tokenizer. With `search.long_input` set to `refuse`,
                also if a side has more tokens than the model has positions.
        """
        search = self.config.search if search is None else search
        split = search.long_input == "split" and not all(self.fit(pairs.sources, pairs.targets))
        loss = None if split else self.loss(pairs.sources, pairs.targets)  # first, to find text that is too long early
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
        """Whether the model has enough positions for both sides of each pair."""
        longest = longest_source(self.members)
        sides = self.tokenizer.source.encode_batch(sources), self.tokenizer.target.encode_batch(targets)
        return [max(map(len, pair)) < longest for pair in zip(*sides, strict=True)]

    def log_probabilities(self, sources: Sequence[str], targets: Sequence[str]) -> list[np.ndarray]:
        """Computes log p(y_t | y_1 .. y_{t-1}, x) for each token of given translations.

        Returns:
            For each pair, the log-probabilities of the target tokens in nats, including the end token.

        Raises:
            InputError: A side has more tokens than the model has positions.
        """
        found: dict[int, list[float]] = {}
        for chosen, log_probs, mask in forced_decoding.log_probabilities(self.members, self._batches(sources, targets)):
            for row, pair in enumerate(chosen.tolist()):
                found[pair] = log_probs[row, mask[row]].tolist()
        return [np.array(own, np.float32) for _, own in sorted(processes.united(found).items())]

    def loss(self, sources: Sequence[str], targets: Sequence[str]) -> float:
        """Computes the negative log-likelihood of translations, in nats per token.

        -1/N sum_n log p(y_n | y_1 .. y_{n-1}, x),  over the N tokens of all targets, including end tokens

        Raises:
            InputError: There are no pairs, or a side has more tokens than the model has positions.
        """
        require(len(sources) > 0, NO_PAIRS)
        total, count = 0.0, 0
        for _, log_probs, mask in forced_decoding.log_probabilities(self.members, self._batches(sources, targets)):
            total += float(log_probs.sum(where=mask, dtype=np.float64))
            count += int(mask.sum())
        total, count = map(sum, zip(*processes.gathered((total, count)), strict=True))
        return -total / count

    def alignments(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """Finds the source token that each target token attends to most.

        Cross-attention weights (section 3.2.3) are averaged over all layers and heads of the (first) model.

        Returns:
            For each pair and each target token, including the end token, the index of a source token.

        Raises:
            InputError: A side has more tokens than the model has positions.
        """
        found: dict[int, list[int]] = {}
        for chosen, batch in self._batches(sources, targets):
            strongest = np.asarray(forced_decoding.strongest_sources(self.model, self.params, batch))
            for row, pair in enumerate(chosen.tolist()):
                found[pair] = strongest[row, np.asarray(batch.target_mask)[row]].tolist()
        return [own for _, own in sorted(processes.united(found).items())]

    def _batches(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[np.ndarray, Batch]]:
        longest = longest_source(self.members)
        return forced_decoding.batches(self.tokenizer, sources, targets, longest, self.config.search.batch_tokens)

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> Batch:
        """Makes one padded batch of sentence pairs, one per row, in the same order.

        Its fields `source` and `target_input` are arguments of `apply`.

        Raises:
            InputError: There are no pairs, or a side has more tokens than the model has positions.
        """
        require(len(sources) > 0, NO_PAIRS)
        return forced_decoding.one_batch(self.tokenizer, sources, targets, self.model.config.max_positions)

    def apply(
        self,
        params: Params,
        source: Int[Array | np.ndarray, "B S"],
        target: Int[Array | np.ndarray, "B T"],
        *,
        return_weights: bool = False,
    ) -> Any:
        """Applies the model, as a pure, jitted function of parameters and token ids.

        Args:
            params: Parameters of the model, such as `self.params`.
            source: Token ids of the sources, each followed by the end id and then by pad ids.
            target: Token ids of the targets, each preceded by the start id and followed by pad ids.
            return_weights: Whether to return the attention weights too.

        Returns:
            Next-token logits for every position of `target`, float32 [B, T, V]. With `return_weights`, a tuple of these
            and a dict of attention weights [L, B, H, Q, K] of all L layers: `encoder`, `decoder` and `cross`.
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
    """Loads the translator of a run, whatever machine it was trained on.

    If a checkpoint cannot be read and was not chosen by its step, an earlier one is used. A sentence on standard error
    then names both. If the run uses the compilation cache (`compilation_cache`), so does this process from now on.

    Args:
        run_dir: The run directory.
        checkpoint: The checkpoint with the lowest validation loss, the last one, or the one of a step.
        average: Number of checkpoints to average, ending with this one (section 6.1). None averages the configured
            number for the last checkpoint (fewer if fewer exist), and 1 for any other.
        dtype: The compute dtype. None uses the dtype of the run's config.

    Raises:
        InputError: The directory is not a run directory, or lacks the tokenizer or the chosen checkpoints.
    """
    config = read_config(run_dir)
    if config.compilation_cache:
        use_compilation_cache()
    compute_dtype, _ = resolve_dtype(config.model.dtype if dtype is None else dtype)
    tokenizer = load_tokenizer(Path(run_dir) / "tokenizer.json", config)
    say = partial(print, file=sys.stderr, flush=True)
    steps, params = load_chosen(run_dir, checkpoint, average, tokenizer.fingerprint, say)
    model = Transformer(config.model, dtype=jnp.dtype(compute_dtype))
    parameters.require_fit(model, params, f"The parameters in {run_dir}")
    return Translator(config, model, devices.share(params), tokenizer, checkpoints=tuple(steps))


def ensemble(translators: Sequence[Translator]) -> Translator:
    """Combines models into one that averages their probabilities of the next token.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...)   (see `inference/ensemble.py`)

    Args:
        translators: At least one. The first one gives the ensemble its config, search settings and attention weights.

    Raises:
        InputError: The tokenizers differ.
    """
    first, *others = translators
    for number, other in enumerate(others, start=2):
        if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise InputError(
                f"Cannot combine models with different tokenizers: the tokenizer of model {number} "
                f"({other.config.run_dir}) differs from the first one's ({first.config.run_dir})."
            )
    return dataclasses.replace(first, others=tuple(member for one in translators for member in one.members)[1:])
