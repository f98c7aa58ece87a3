"""Several models as one, whose probability of the next token is the mean of theirs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Cache = Any  # of one model or several, as `inference/cache.py` lays it out
Step = Callable[[Cache, Array, Array, Array], tuple[Array, Cache]]  # (cache, token, position, origins) -> ...
Member = tuple[Step, Cache]  # a model's step, and the cache that it starts with


def mean_step(members: Sequence[Member]) -> Member:
    """One `step` of several models: the next token's probability is the mean of theirs.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...), as in Sutskever et al. 2014 (arXiv 1409.3215, section 3.6): the arithmetic
    mean, in which no model has a veto, as it would in the geometric one.

    Args:
        members: the `step` of each model, and the cache that it starts with.

    Returns:
        A `step` and a cache for `beam_search` or `sample`: those of a single member are its own.
    """
    if len(members) == 1:
        return members[0]
    steps, caches = zip(*members, strict=True)

    def step(caches: Cache, token: Array, position: Array, origins: Array) -> tuple[Array, Cache]:
        results = [one(cache, token, position, origins) for one, cache in zip(steps, caches, strict=True)]
        log_probs = [jax.nn.log_softmax(logits, axis=-1) for logits, _ in results]
        return log_mean(log_probs), tuple(cache for _, cache in results)

    return step, caches


def log_mean(log_probs: Sequence[Float[Array, "*axes"]]) -> Float[Array, "*axes"]:
    """The logarithm of the mean of probabilities: log(1/M sum_m exp(l_m)); of a single one, itself."""
    if len(log_probs) == 1:
        return log_probs[0]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - math.log(len(log_probs))
