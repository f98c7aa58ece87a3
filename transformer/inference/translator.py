"""Text in, text out: a run's model and tokenizer around the search, and the jitted apply."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from transformer.checkpoint import load_params, read_config, saved_steps
from transformer.config import Config, SearchConfig
from transformer.data.batches import Batches, tokenize
from transformer.data.corpus import Pairs, Report
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.inference.evaluate import Scores, corpus_loss, score_translations
from transformer.inference.search import Hypotheses, beam_search
from transformer.model import Transformer
from transformer.runtime import resolve_dtype
from transformer.shapes import Batch, Params

LOSS_SHAPES = 4  # for one pass over a corpus, compiling another shape costs more than the padding it would spare


@dataclass(frozen=True)
class Translator:
    """A trained model: text in, text out; and the jitted `apply` to look inside.

    Attributes:
        config: the run's.
        model: the architecture, with the compute type in use.
        params: parameters, and statistics where the model has any: what `apply` takes first.
        tokenizer: the run's.
    """

    config: Config
    model: Transformer
    params: Params
    tokenizer: Tokenizer

    def translate(self, sentences: Sequence[str], search: SearchConfig | None = None) -> list[str]:
        """A translation of each sentence; see the function `translate`. The search is the run's unless given."""
        search = self.config.search if search is None else search
        return translate(self.model, self.params, self.tokenizer, sentences, search)

    def score(self, pairs: Sequence[tuple[str, str]], search: SearchConfig | None = None) -> Scores:
        """BLEU, chrF, exact match and loss of the translations of `pairs`, each a source and its reference.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        return self.evaluate(Pairs([source for source, _ in pairs], [target for _, target in pairs]), search)[0]

    def evaluate(self, pairs: Pairs, search: SearchConfig | None = None) -> tuple[Scores, list[str]]:
        """The scores of a test set, broken down by its tags, and the translations that they are of."""
        hypotheses = self.translate(pairs.sources, search)
        loss = self.loss(pairs.sources, pairs.targets)
        return score_translations(hypotheses, pairs.targets, tags=pairs.tags, loss=loss), hypotheses

    def loss(self, sources: Sequence[str], targets: Sequence[str]) -> float:
        """The model's mean negative log-likelihood of the given translations, in nats per target token.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        tokens = max(self.config.training.batch_tokens, self.model.config.max_positions)
        batches = self._batches(sources, targets, tokens, LOSS_SHAPES)
        return corpus_loss(self.model, self.params, (batches[n] for n in range(batches.per_epoch)))

    def batch(self, sources: Sequence[str], targets: Sequence[str]) -> Batch:
        """Sentence pairs as one padded batch: what `apply` takes is its `source` and its `target_input`.

        Raises:
            InputError: there are no pairs, or a side has more tokens than the model has positions.
        """
        return self._batches(sources, targets, len(sources) * self.model.config.max_positions, 1)[0]

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
            target: ids behind the start id, padded with the pad id.
            return_weights: whether to return the attention weights, too.

        Returns:
            Float32 logits [B, T, V] of the token behind each position of `target`; or, with return_weights, these and
            a dict of attention weights [B, H, Q, K]: `encoder/0`, `decoder/0`, `cross/0` and so on.
        """
        return _apply(
            params, source, target, model=self.model, pad_id=self.tokenizer.pad_id, return_weights=return_weights
        )

    def _batches(self, sources: Sequence[str], targets: Sequence[str], tokens: int, num_shapes: int) -> Batches:
        if not len(sources):
            raise InputError("There are no sentence pairs to compute with: at least one is needed.")
        pairs = Pairs(list(sources), list(targets))
        report = Report(files=("the given text",), read=len(pairs.sources))
        longest = self.model.config.max_positions
        return Batches(
            tokenize(pairs, self.tokenizer, self.config.data, report, filter=False, max_length=longest),
            tokens=tokens,
            num_shapes=num_shapes,
            row_multiple=1,
            seed=0,
            pad_id=self.tokenizer.pad_id,
            start_id=self.tokenizer.start_id,
            end_id=self.tokenizer.end_id,
            shuffle=False,
        )


def load(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
) -> Translator:
    """The translator of a run, on whatever machine it was trained.

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
    compute_type, _ = resolve_dtype(config.model.dtype if dtype is None else dtype)
    tokenizer = Tokenizer.load(Path(run_dir) / "tokenizer.json", config.tokenizer, config.model.vocabulary_size)
    if average is None:
        average = min(config.average, len(saved_steps(run_dir))) if checkpoint == "last" else 1
    params = load_params(run_dir, checkpoint, average, tokenizer.fingerprint)
    model = Transformer(config.model, dtype=jnp.dtype(compute_type))
    return Translator(config, model, jax.device_put(params), tokenizer)


def translate(
    model: Transformer, params: Params, tokenizer: Tokenizer, sentences: Sequence[str], search: SearchConfig
) -> list[str]:
    """Translates sentences, each by itself: neither its neighbours nor its place change a translation.

    A translation has at most `search.extra_length` tokens more than its source, and no more than the model has
    positions. An empty sentence has an empty translation, and every translation is one line.

    Args:
        model: the architecture.
        params: what `model.apply` takes first.
        tokenizer: cuts the sentences, joins the translations, and knows the special ids.
        sentences: raw text.
        search: beam, length penalty, and how many sentences are translated at a time.

    Returns:
        As many translations, in the same order.

    Raises:
        InputError: a sentence has more tokens than the model has positions; its line is named.
    """
    sources = tokenizer.encode_batch(sentences)
    lengths = np.array([len(ids) + 1 for ids in sources], int)  # with the end id
    longest = model.config.max_positions
    if (lengths > longest).any():
        line = int(np.argmax(lengths > longest))
        raise InputError(
            f"Line {line + 1} has {lengths[line]} tokens, but the model has positions for {longest}: split that line."
        )
    widths = np.array([min(_width(length), longest) for length in lengths.tolist()], int)
    widths[[not sentence.strip() for sentence in sentences]] = 0

    params = jax.device_put(params)
    found: list[tuple[np.ndarray, Hypotheses]] = []
    for width in sorted({*widths.tolist()} - {0}, reverse=True):  # the largest first: memory that lacks, lacks at once
        of_width = np.flatnonzero(widths == width)
        of_width = of_width[np.argsort(lengths[of_width], kind="stable")]
        rows = max(1, search.batch_tokens // (width * search.beam_size))
        rows = min(rows, 1 << (len(of_width) - 1).bit_length())  # one sentence need not carry a batch of empty rows
        for start in range(0, len(of_width), rows):
            chosen = of_width[start : start + rows]
            source, mask, max_lengths = np.full((rows, width), tokenizer.pad_id), np.zeros((rows, width), bool), []
            for row, sentence in enumerate(chosen):
                source[row, : lengths[sentence]] = [*sources[sentence], tokenizer.end_id]
                mask[row, : lengths[sentence]] = True
                max_lengths.append(min(lengths[sentence] + search.extra_length, longest))
            hypotheses = _translate_batch(
                params,
                source,
                mask,
                np.array(max_lengths + [0] * (rows - len(chosen))),
                model=model,
                search=search,
                max_length=min(width + search.extra_length, longest),
                special_ids=(tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id),
            )
            found.append((chosen, hypotheses))

    translations = [""] * len(sentences)
    for chosen, hypotheses in found:
        tokens = np.asarray(hypotheses.tokens[:, 0])[: len(chosen)]
        for sentence, text in zip(chosen, tokenizer.decode_batch(tokens.tolist()), strict=True):
            translations[sentence] = text.replace("\r", " ").replace("\n", " ")
    return translations


def _width(length: int) -> int:
    """The length rounded up to 16, 24, 32, 48, 64, 96, 128, 192 ...: few widths, so few compilations."""
    power = 16
    while power < length:
        power *= 2
    return power * 3 // 4 if power > 16 and length <= power * 3 // 4 else power


@partial(jax.jit, static_argnames=("model", "search", "max_length", "special_ids"))
def _translate_batch(
    params: Params,
    source: Array,
    source_mask: Array,
    max_lengths: Array,
    *,
    model: Transformer,
    search: SearchConfig,
    max_length: int,
    special_ids: tuple[int, int, int],
) -> Hypotheses:
    memory, _ = model.apply(params, source, source_mask, method="encode")
    cache, memory = model.apply(params, memory, search.beam_size, max_length, method="start_decoding")

    def step(cache: Any, token: Array, position: Array) -> Any:
        return model.apply(params, token, position, cache, memory, source_mask, method="decode_step")

    pad_id, start_id, end_id = special_ids
    return beam_search(
        step,
        cache,
        max_lengths,
        max_length=max_length,
        start_id=start_id,
        end_id=end_id,
        pad_id=pad_id,
        beam_size=search.beam_size,
        length_penalty=search.length_penalty,
        length_penalty_form=search.length_penalty_form,
    )


@partial(jax.jit, static_argnames=("model", "pad_id", "return_weights"))
def _apply(
    params: Params, source: Array, target: Array, *, model: Transformer, pad_id: int, return_weights: bool
) -> Any:
    logits, weights = model.apply(params, source, source != pad_id, target, return_weights=return_weights)
    return (logits, weights) if return_weights else logits
