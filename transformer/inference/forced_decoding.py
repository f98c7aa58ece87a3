"""Forced decoding, which runs a model on given translations."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from transformer import devices
from transformer.data.lengths import check_pairs
from transformer.data.rows import pad
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokens import TokenPairs
from transformer.inference.decoding import Members, default_backend, own_batches
from transformer.inference.ensemble import log_mean
from transformer.interruption import checked
from transformer.model import Transformer
from transformer.shapes import Batch, Params

LOGITS = 512  # target tokens whose logits are in memory at the same time


def _tokenize(tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], positions: int) -> TokenPairs:
    pairs = TokenPairs(*tokenizer.source.encode_flat(sources), *tokenizer.target.encode_flat(targets))
    advice = "Shorten it, or leave the pair out."
    check_pairs(pairs.source_lengths, pairs.target_lengths, positions, "the given text", advice)
    return pairs


def one_batch(tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], positions: int) -> Batch:
    """Makes one batch of all pairs, with one pair per row, in the same order.

    Args:
        tokenizer: The tokenizer of the model.
        sources: The source sentences, at least one.
        targets: The translation of each source.
        positions: Maximum number of tokens of a side, including the end token.

    Raises:
        InputError: A side has more than `positions` tokens.
    """
    pairs = _tokenize(tokenizer, sources, targets, positions)
    S, T = int(pairs.source_lengths.max()), int(pairs.target_lengths.max())
    return _pad(pairs, np.arange(pairs.num_pairs), pairs.num_pairs, S, T, tokenizer)


def batches(
    tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], positions: int, batch_tokens: int | None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Groups pairs of similar length into batches of few shapes, one pair per row.

    Pairs are dealt out to the processes of a job.

    Args:
        tokenizer: The tokenizer of the model.
        sources: The source sentences.
        targets: The translation of each source.
        positions: Maximum number of tokens of a side, including the end token. It is also the largest padded width.
        batch_tokens: Upper bound on the padded tokens of one side of a batch. None uses the default of the backend.

    Yields:
        The indices of the pairs in a batch of this process, in the order of its rows, and the batch. Any further rows
        are padding.

    Raises:
        InputError: A side has more than `positions` tokens.
    """
    pairs, backend = _tokenize(tokenizer, sources, targets, positions), default_backend()
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    tokens = batch_tokens or backend.batch_tokens
    shards = devices.count()
    for width, rows, chosen in checked(own_batches(lengths, backend.widths(positions), tokens, backend)):
        yield chosen, _pad(pairs, chosen, rows * shards, width, width, tokenizer)


def _pad(pairs: TokenPairs, chosen: np.ndarray, rows: int, S: int, T: int, tokenizer: Tokenizer) -> Batch:
    """Makes a batch [rows, S] and [rows, T] with the chosen pairs in its first rows."""
    start, end, pad_id = tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id
    sources, targets = (
        [ids[offsets[pair] : offsets[pair + 1]].tolist() for pair in chosen] for ids, offsets in (pairs[:2], pairs[2:4])
    )
    source, source_mask = pad([[*ids, end] for ids in sources], rows, S, pad_id)
    target_input, _ = pad([[start, *ids] for ids in targets], rows, T, pad_id)
    target_output, target_mask = pad([[*ids, end] for ids in targets], rows, T, pad_id)
    return Batch(source, source_mask, target_input, target_output, target_mask, np.arange(rows, dtype=np.int32))


def log_probabilities(
    members: Members, batches: Iterable[tuple[np.ndarray, Batch]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Computes `token_log_probabilities` for each batch.

    Args:
        members: One model, or several whose probabilities are averaged.
        batches: The batches, as the function `batches` makes them.

    Yields:
        For each batch, the indices of its pairs, the log-probabilities [B, T], and the target mask [B, T].
    """
    models, params = zip(*members, strict=True)
    for chosen, batch in batches:
        log_probs = token_log_probabilities(models, params, batch)
        yield chosen, np.asarray(log_probs), np.asarray(batch.target_mask)


@partial(jax.jit, static_argnums=0)
def token_log_probabilities(
    models: tuple[Transformer, ...], params: tuple[Params, ...], batch: Batch
) -> Float[jax.Array, "B T"]:
    """Computes the log-probability of each target token.

    log p(y_t | y_1 .. y_{t-1}, x), where p is the mean probability if there are several models

    Args:
        models: The architecture of each model.
        params: The parameters of each model.
        batch: Sentence pairs, one per row. The local devices share the rows evenly.

    Returns:
        Log-probabilities in nats. The values at padding are meaningless.
    """

    def of_model(model: Transformer, params: Params, batch: Batch) -> Any:
        B, T = batch.target_output.shape
        # The logits of all rows would need too much memory, so they are computed for a few rows at a time.
        rows = max(rows for rows in range(1, B + 1) if B % rows == 0 and (rows == 1 or rows * T <= LOGITS))
        hidden: Any = model.apply(params, batch, method="hidden")

        def of_rows(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits: Any = model.apply(params, part[0], method="logits")
            return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), part[1][..., None], axis=-1)[..., 0]

        parts = hidden.reshape(-1, rows, T, hidden.shape[-1]), batch.target_output.reshape(-1, rows, T)
        return jax.lax.map(of_rows, parts).reshape(B, T)

    def of_members(params: tuple[Params, ...], batch: Batch) -> jax.Array:
        return log_mean([of_model(*member, batch) for member in zip(models, params, strict=True)])

    return devices.map_rows(of_members, params, batch, devices.count())


@partial(jax.jit, static_argnums=0)
def strongest_sources(model: Transformer, params: Params, batch: Batch) -> Int[jax.Array, "B T"]:
    """Finds the source position that each target position attends to most.

    Cross-attention weights (section 3.2.3) are averaged over all layers and heads.

    Args:
        model: The architecture.
        params: The parameters of the model.
        batch: Sentence pairs, one per row.

    Returns:
        Indices of source positions. The values at padding are meaningless.
    """
    tokens = batch.source, batch.source_mask, batch.target_input, batch.target_mask
    result: Any = model.apply(params, *tokens, return_weights=True)
    weights = result[1]
    return jnp.argmax(weights["cross"].mean(axis=(0, 2)), axis=-1)


@partial(jax.jit, static_argnames=("model", "pad_id", "return_weights"))
def apply(
    params: Params, source: Array, target: Array, *, model: Transformer, pad_id: int, return_weights: bool
) -> Any:
    """Computes `Translator.apply` for any model."""
    logits, weights = model.apply(params, source, source != pad_id, target, return_weights=return_weights)
    return (logits, weights) if return_weights else logits
