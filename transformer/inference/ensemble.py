"""Ensembles of models, which average the probabilities of the next token."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Cache = Any  # the cache of one model, or a tuple of several (see `inference/cache.py`)
Step = Callable[[Cache, Array, Array, Array], tuple[Array, Cache]]  # see `beam_search`
Member = tuple[Step, Cache]  # the `step` of a model, and the cache that it starts with


def mean_step(members: Sequence[Member]) -> Member:
    """Combines the steps of several models into one that averages their probabilities.

    p(y_t | ...) = 1/M sum_m p_m(y_t | ...)

    This is the arithmetic mean, as in Sutskever et al. 2014 (arXiv 1409.3215, section 3.6) and Sennrich et al. 2016
    (arXiv 1606.02891). No single model can veto a token with it, as it could with a geometric mean.

    Args:
        members: The `step` of each model, and the cache that it starts with.

    Returns:
        A `step` and a cache for `beam_search` or `sample`. A single member is returned unchanged.
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
    """Averages probabilities that are given as logarithms.

    log(1/M sum_m exp(l_m))
    """
    if len(log_probs) == 1:
        return log_probs[0]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - math.log(len(log_probs))
