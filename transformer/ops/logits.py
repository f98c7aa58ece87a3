"""What may be said of the next token: small functions on its log-probabilities that compose.

Each takes log-probabilities [..., V] (`jax.nn.log_softmax` of the logits) and returns as many. The hard constraints
(`forbid`, `require_length`, `force_prefix`, `block_repeated_ngrams`) set what they rule out to -inf and leave the rest
as it is: a translation's score stays the model's own probability of it. Those that shape what is drawn
(`temperature`, `keep_top_k`, `keep_top_p`) renormalize. `repetition_penalty` does neither.

Where the tokens so far are needed, `tokens` [..., L] has the start id first, then the tokens generated, up to and with
`position`; what stands behind is not looked at. `position` counts generated tokens, 0 when the first is asked for.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def temperature(log_probs: Float[Array, "*rows V"], value: float) -> Float[Array, "*rows V"]:
    """Sharpens (below 1) or flattens (above) a distribution (Ackley, Hinton & Sejnowski 1985, Eq. 5), renormalized.

    p'(v) = p(v)^(1 / value) / sum_w p(w)^(1 / value)

    Args:
        log_probs: of the next token.
        value: the temperature, above 0.
    """
    return jax.nn.log_softmax(log_probs / value, axis=-1)


def keep_top_k(log_probs: Float[Array, "*rows V"], k: int) -> Float[Array, "*rows V"]:
    """Leaves the k most probable tokens (Fan et al. 2018, arXiv 1805.04833, section 5.2), renormalized.

    p'(v) = p(v) / Z  where p(v) is at least the k-th largest, else 0; tokens that tie with the k-th stay, too.

    Args:
        log_probs: of the next token.
        k: how many, at least 1.
    """
    kth = jax.lax.top_k(log_probs, min(k, log_probs.shape[-1]))[0][..., -1:]
    return jax.nn.log_softmax(jnp.where(log_probs >= kth, log_probs, -jnp.inf), axis=-1)


def keep_top_p(log_probs: Float[Array, "*rows V"], p: float) -> Float[Array, "*rows V"]:
    """Leaves the nucleus (Holtzman et al. 2020, arXiv 1904.09751, Eq. 2), renormalized.

    The nucleus is the smallest set of most probable tokens whose probability reaches p: a token stays if those before
    it have less than p together. The most probable always stays.

    Args:
        log_probs: of the next token, normalized.
        p: the probability to keep, in (0, 1].
    """
    order = jnp.argsort(-log_probs, axis=-1)
    probs = jnp.exp(jnp.take_along_axis(log_probs, order, axis=-1))
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = jnp.take_along_axis(before < p, jnp.argsort(order, axis=-1), axis=-1)
    return jax.nn.log_softmax(jnp.where(kept, log_probs, -jnp.inf), axis=-1)


def repetition_penalty(
    log_probs: Float[Array, "*rows V"], tokens: Int[Array, "*rows L"], position: Int[Array, ""] | int, penalty: float
) -> Float[Array, "*rows V"]:
    """Makes tokens that have been generated less probable (after Keskar et al. 2019, arXiv 1909.05858, section 4.1).

    log p'(v) = penalty * log p(v)  if v is among the tokens so far, else log p(v)

    Deviates: the source divides logits, which depends on a constant that may be added to all of them; here the
    log-probability is multiplied, which does not. It is not renormalized, and the score of a search contains it.

    Args:
        log_probs: of the next token.
        tokens: those so far.
        position: how many of them were generated.
        penalty: at least 1, which does nothing.
    """
    seen = _mark(tokens, _generated(tokens, position), log_probs.shape[-1])
    return jnp.where(seen, log_probs * penalty, log_probs)


def block_repeated_ngrams(
    log_probs: Float[Array, "*rows V"], tokens: Int[Array, "*rows L"], position: Int[Array, ""] | int, n: int
) -> Float[Array, "*rows V"]:
    """Rules out a token that would complete an n-gram for the second time (Paulus et al. 2018, arXiv 1705.04304, 2.5).

    p'(v) = 0  where (y_{t-n+1}, ..., y_{t-1}, v) occurs in y_1 .. y_{t-1}

    Args:
        log_probs: of the next token.
        tokens: those so far.
        position: how many of them were generated.
        n: length of the n-grams, at least 1.
    """
    length = tokens.shape[-1]
    completed = _generated(tokens, position)
    for back in range(1, n):  # the token `back` before an n-gram's last is the one `back` before the next token
        newest = jnp.take(tokens, jnp.maximum(position + 1 - back, 0), axis=-1)
        earlier = jnp.roll(tokens, back, axis=-1)
        completed &= (earlier == newest[..., None]) & (jnp.arange(length) > back) & (position >= back)
    return jnp.where(_mark(tokens, completed, log_probs.shape[-1]), -jnp.inf, log_probs)


def forbid(log_probs: Float[Array, "*rows V"], token_ids: Sequence[int]) -> Float[Array, "*rows V"]:
    """Rules tokens out: p'(v) = 0 for each of them.

    Args:
        log_probs: of the next token.
        token_ids: the tokens; none is fine.
    """
    if not token_ids:
        return log_probs
    return log_probs.at[..., jnp.array(token_ids)].set(-jnp.inf)


def require_length(
    log_probs: Float[Array, "*rows V"], position: Int[Array, ""] | int, minimum: int, end_id: int
) -> Float[Array, "*rows V"]:
    """Rules the end token out while a translation is too short: p'(end) = 0 for t < minimum.

    Args:
        log_probs: of the next token.
        position: how many tokens were generated.
        minimum: shortest translation in tokens, the end token counted.
        end_id: the token that ends a translation.
    """
    too_short = (jnp.arange(log_probs.shape[-1]) == end_id) & (position + 1 < minimum)
    return jnp.where(too_short, -jnp.inf, log_probs)


def force_prefix(
    log_probs: Float[Array, "*rows V"], position: Int[Array, ""] | int, prefix: Sequence[int]
) -> Float[Array, "*rows V"]:
    """Rules out all but the given tokens at the start: p'(v) = 0 for v != prefix_t.

    What is forced keeps its probability, so that scores count it.

    Args:
        log_probs: of the next token.
        position: how many tokens were generated.
        prefix: the tokens that a translation begins with; none is fine.
    """
    if not prefix:
        return log_probs
    wanted = jnp.array(prefix)[jnp.minimum(position, len(prefix) - 1)]
    other = (jnp.arange(log_probs.shape[-1]) != wanted) & (position < len(prefix))
    return jnp.where(other, -jnp.inf, log_probs)


def _generated(tokens: Array, position: Array | int) -> Array:
    """True for the tokens generated: behind the start id, up to `position`."""
    index = jnp.arange(tokens.shape[-1])
    return jnp.broadcast_to((index >= 1) & (index <= position), tokens.shape)


def _mark(tokens: Array, chosen: Array, size: int) -> Array:
    """True for the ids of the chosen tokens: [..., L] -> [..., V]."""
    *rows, length = tokens.shape
    ids = jnp.where(chosen, tokens, size).reshape(-1, length)  # out of bounds, and so dropped
    marked = jnp.zeros((ids.shape[0], size), bool).at[jnp.arange(ids.shape[0])[:, None], ids].set(True, mode="drop")
    return marked.reshape(*rows, size)
