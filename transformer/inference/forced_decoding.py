"""Forced decoding: sentence pairs as batches, and what a model makes of each token of a given translation."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from transformer.data.batches import TokenPairs
from transformer.data.lengths import check_pairs
from transformer.data.rows import of_one_width, pad
from transformer.data.tokenizer import Tokenizer
from transformer.inference.decoding import default_backend
from transformer.inference.ensemble import log_mean
from transformer.interruption import checked
from transformer.model import Transformer
from transformer.shapes import Batch, Params

CHUNK = 512  # tokens whose logits exist at the same time


def tokenize(tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str], positions: int) -> TokenPairs:
    """The token ids of sentence pairs.

    Raises: InputError if a side has more tokens than `positions`, its end token counted.
    """
    pairs = TokenPairs(*tokenizer.encode_flat(sources), *tokenizer.encode_flat(targets))
    advice = "Shorten it, or leave the pair out."
    check_pairs(pairs.source_lengths, pairs.target_lengths, positions, "the given text", advice)
    return pairs


def whole(pairs: TokenPairs, tokenizer: Tokenizer) -> Batch:
    """All pairs as one batch with a pair in each row, in the same order."""
    S, T = int(pairs.source_lengths.max()), int(pairs.target_lengths.max())
    return _pad(pairs, np.arange(pairs.num_pairs), pairs.num_pairs, S, T, tokenizer)


def batches(
    pairs: TokenPairs, tokenizer: Tokenizer, positions: int, batch_tokens: int | None
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Batches of few shapes with a pair in each row, of about the same length, and the indices of the pairs.

    Args:
        pairs: Their sides have at most `positions` tokens, the end token counted.
        tokenizer: Has the special ids.
        positions: The largest width.
        batch_tokens: Upper bound on the padded tokens of a side. None is what suits the backend.
    """
    backend = default_backend()
    lengths = np.maximum(pairs.source_lengths, pairs.target_lengths)
    tokens = batch_tokens or backend.batch_tokens
    parts = of_one_width(lengths, backend.widths(positions), tokens, backend.row_divisor)
    for width, rows, chosen in checked(parts):
        yield chosen, _pad(pairs, chosen, rows, width, width, tokenizer)


def _pad(pairs: TokenPairs, chosen: np.ndarray, rows: int, S: int, T: int, tokenizer: Tokenizer) -> Batch:
    """The chosen pairs in the first rows of a batch."""
    start, end, pad_id = tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id
    sources, targets = (
        [ids[offsets[pair] : offsets[pair + 1]].tolist() for pair in chosen] for ids, offsets in (pairs[:2], pairs[2:])
    )
    source, source_mask = pad([[*ids, end] for ids in sources], rows, S, pad_id)
    target_input, _ = pad([[start, *ids] for ids in targets], rows, T, pad_id)
    target_output, target_mask = pad([[*ids, end] for ids in targets], rows, T, pad_id)
    return Batch(source, source_mask, target_input, target_output, target_mask, np.arange(rows, dtype=np.int32))


@partial(jax.jit, static_argnums=0)
def token_log_probabilities(
    models: tuple[Transformer, ...], params: tuple[Params, ...], batch: Batch
) -> Float[jax.Array, "B T"]:
    """The log-probability of each target token given the source and the tokens before it, in nats.

    log p(y_t | y_1 .. y_{t-1}, x), of several models that of their mean probability

    Args:
        models: the architectures.
        params: the parameters of each.
        batch: sentence pairs; what stands at the padding means nothing.
    """
    B, T = batch.target_output.shape
    # The logits of a whole batch would be large: they exist for a few rows at a time.
    rows = max(rows for rows in range(1, B + 1) if B % rows == 0 and (rows == 1 or rows * T <= CHUNK))

    def of_model(model: Transformer, params: Params) -> Any:
        hidden: Any = model.apply(params, batch, method="hidden")

        def of_rows(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits: Any = model.apply(params, part[0], method="logits")
            return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), part[1][..., None], axis=-1)[..., 0]

        parts = hidden.reshape(-1, rows, T, hidden.shape[-1]), batch.target_output.reshape(-1, rows, T)
        return jax.lax.map(of_rows, parts).reshape(B, T)

    return log_mean([of_model(*member) for member in zip(models, params, strict=True)])


@partial(jax.jit, static_argnums=0)
def strongest_sources(model: Transformer, params: Params, batch: Batch) -> Int[jax.Array, "B T"]:
    """The source position that each target position attends to the most: the mean of all layers and heads (3.2.3).

    Args:
        model: the architecture.
        params: its parameters.
        batch: sentence pairs; what stands at the padding means nothing.
    """
    tokens = batch.source, batch.source_mask, batch.target_input, batch.target_mask
    result: Any = model.apply(params, *tokens, return_weights=True)
    weights = result[1]
    return jnp.argmax(weights["cross"].mean(axis=(0, 2)), axis=-1)


@partial(jax.jit, static_argnames=("model", "pad_id", "return_weights"))
def apply(
    params: Params, source: Array, target: Array, *, model: Transformer, pad_id: int, return_weights: bool
) -> Any:
    """`Translator.apply`, of any model."""
    logits, weights = model.apply(params, source, source != pad_id, target, return_weights=return_weights)
    return (logits, weights) if return_weights else logits
