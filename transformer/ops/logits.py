"""Constraints on next-token log-probabilities, and functions that reshape them.

The functions compose. Each takes log-probabilities [..., V], such as `jax.nn.log_softmax` of the logits, and returns
an array of the same shape.

- The hard constraints (`forbid`, `require_length`, `force_prefix`, `block_repeated_ngrams`) set what they rule out to
  -inf and leave the rest unchanged. So the score of a translation remains its probability under the model.
- The functions for sampling (`temperature`, `keep_top_k`, `keep_top_p`) renormalize.
- `repetition_penalty` changes log-probabilities without renormalizing.

`position` is the number of tokens generated so far, which is 0 for the first token. `tokens` [..., L] holds the start
id followed by these tokens; entries after index `position` are ignored.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def temperature(log_probs: Float[Array, "*rows V"], value: float) -> Float[Array, "*rows V"]:
    """Sharpens or flattens a distribution by a sampling temperature.

        p'(v) = p(v)^(1 / value) / sum_w p(w)^(1 / value)

    The source is Ackley, Hinton & Sejnowski 1985, Eq. 5.

    Args:
        log_probs: Log-probabilities of the next token.
        value: Temperature, above 0. Values below 1 sharpen the distribution, values above 1 flatten it.

    Returns:
        The renormalized log-probabilities.
    """
    return jax.nn.log_softmax(log_probs / value, axis=-1)


def keep_top_k(log_probs: Float[Array, "*rows V"], k: int) -> Float[Array, "*rows V"]:
    """Keeps the k most probable tokens.

        p'(v) = p(v) / Z  where p(v) is at least the k-th largest, else 0

    Tokens that tie with the k-th are also kept. The source is Fan et al. 2018, arXiv 1805.04833, section 5.2.

    Args:
        log_probs: Log-probabilities of the next token.
        k: Number of tokens to keep, at least 1. A number above V keeps all.

    Returns:
        The renormalized log-probabilities, -inf for the other tokens.
    """
    kth = jax.lax.top_k(log_probs, min(k, log_probs.shape[-1]))[0][..., -1:]
    return jax.nn.log_softmax(jnp.where(log_probs >= kth, log_probs, -jnp.inf), axis=-1)


def keep_top_p(log_probs: Float[Array, "*rows V"], p: float) -> Float[Array, "*rows V"]:
    """Keeps the most probable tokens up to a total probability p, the nucleus.

    A token is kept if the tokens ranked above it have a total probability below p. So the most probable token is always
    kept. The source is Holtzman et al. 2020, arXiv 1904.09751, Eq. 2.

    Args:
        log_probs: Log-probabilities of the next token, normalized.
        p: Probability to keep, in (0, 1].

    Returns:
        The renormalized log-probabilities, -inf for the other tokens.
    """
    order = jnp.argsort(-log_probs, axis=-1)
    probs = jnp.exp(jnp.take_along_axis(log_probs, order, axis=-1))
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.take_along_axis(before < p, jnp.argsort(order, axis=-1), axis=-1)
    return jax.nn.log_softmax(jnp.where(kept, log_probs, -jnp.inf), axis=-1)


def repetition_penalty(
    log_probs: Float[Array, "*rows V"], tokens: Int[Array, "*rows L"], position: Int[Array, ""] | int, penalty: float
) -> Float[Array, "*rows V"]:
    """Makes tokens that have already been generated less probable.

        log p'(v) = penalty * log p(v)  if v is among the tokens so far, else log p(v)

    The result is not renormalized, and the score of a translation includes the penalty.

    Deviates:
        The source (Keskar et al. 2019, arXiv 1909.05858, section 4.1) divides logits. That depends on a constant which
        may be added to all of them. Multiplying log-probabilities does not.

    Args:
        log_probs: Log-probabilities of the next token.
        tokens: Start id and the tokens so far.
        position: Number of tokens generated so far.
        penalty: Factor, at least 1; 1 changes nothing.

    Returns:
        The changed log-probabilities.
    """
    seen = _mark(tokens, _generated(tokens, position), log_probs.shape[-1])
    return jnp.where(seen, log_probs * penalty, log_probs)


def block_repeated_ngrams(
    log_probs: Float[Array, "*rows V"], tokens: Int[Array, "*rows L"], position: Int[Array, ""] | int, n: int
) -> Float[Array, "*rows V"]:
    """Rules out a token that would repeat an n-gram.

        p'(v) = 0  where (y_{t-n+1}, ..., y_{t-1}, v) occurs in y_1 .. y_{t-1}

    The source is Paulus et al. 2018, arXiv 1705.04304, section 2.5.

    Args:
        log_probs: Log-probabilities of the next token.
        tokens: Start id and the tokens so far.
        position: Number of tokens generated so far.
        n: Length of the n-grams in tokens, at least 1.

    Returns:
        The log-probabilities, -inf for the tokens ruled out.
    """
    length = tokens.shape[-1]
    completed = _generated(tokens, position)
    # tokens[i] may not come next if the n - 1 tokens before it equal the newest n - 1 tokens.
    for back in range(1, n):
        newest = jnp.take(tokens, jnp.maximum(position + 1 - back, 0), axis=-1)
        earlier = jnp.roll(tokens, back, axis=-1)
        completed &= (earlier == newest[..., None]) & (jnp.arange(length) > back) & (position >= back)
    return jnp.where(_mark(tokens, completed, log_probs.shape[-1]), -jnp.inf, log_probs)


def forbid(log_probs: Float[Array, "*rows V"], token_ids: Sequence[int]) -> Float[Array, "*rows V"]:
    """Rules out tokens by their ids.

        p'(v) = 0  for each forbidden v

    Args:
        log_probs: Log-probabilities of the next token.
        token_ids: Ids of the forbidden tokens; may be empty.

    Returns:
        The log-probabilities, -inf for the forbidden tokens.
    """
    if not token_ids:
        return log_probs
    return log_probs.at[..., jnp.array(token_ids)].set(-jnp.inf)


def require_length(
    log_probs: Float[Array, "*rows V"], position: Int[Array, ""] | int, minimum: int, end_id: int
) -> Float[Array, "*rows V"]:
    """Rules out the end token while a translation is too short.

        p'(end) = 0  while position + 1 < minimum

    Args:
        log_probs: Log-probabilities of the next token.
        position: Number of tokens generated so far.
        minimum: Minimum translation length in tokens, including the end token.
        end_id: Id of the token that ends a translation.

    Returns:
        The log-probabilities, -inf for the end token while it is ruled out.
    """
    too_short = (jnp.arange(log_probs.shape[-1]) == end_id) & (position + 1 < minimum)
    return jnp.where(too_short, -jnp.inf, log_probs)


def force_prefix(
    log_probs: Float[Array, "*rows V"], position: Int[Array, ""] | int, prefix: Sequence[int]
) -> Float[Array, "*rows V"]:
    """Forces the tokens of a prefix at the start of a translation.

        p'(v) = 0  for v != prefix[position],  while position < len(prefix)

    A forced token keeps its probability, so the score of a translation includes it.

    Args:
        log_probs: Log-probabilities of the next token.
        position: Number of tokens generated so far.
        prefix: Ids of the tokens that a translation begins with; may be empty.

    Returns:
        The log-probabilities, -inf for the tokens ruled out.
    """
    if not prefix:
        return log_probs
    wanted = jnp.array(prefix)[jnp.minimum(position, len(prefix) - 1)]
    other = (jnp.arange(log_probs.shape[-1]) != wanted) & (position < len(prefix))
    return jnp.where(other, -jnp.inf, log_probs)


def _generated(tokens: Array, position: Array | int) -> Array:
    """Returns True for the generated tokens, at the indices 1 to `position`."""
    index = jnp.arange(tokens.shape[-1])
    return jnp.broadcast_to((index >= 1) & (index <= position), tokens.shape)


def _mark(tokens: Array, chosen: Array, size: int) -> Array:
    """Returns True for the ids of the chosen tokens, [..., L] -> [..., V]."""
    *rows, length = tokens.shape
    ids = jnp.where(chosen, tokens, size).reshape(-1, length)  # out of bounds if not chosen, and so dropped
    marked = jnp.zeros((ids.shape[0], size), bool).at[jnp.arange(ids.shape[0])[:, None], ids].set(True, mode="drop")
    return marked.reshape(*rows, size)
