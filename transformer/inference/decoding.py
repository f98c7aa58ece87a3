"""Token ids in, token ids out: any number of sentences, in batches of few shapes, with one compiled program for each.

`translator.py` has text around it, and `search.py` the search itself, which knows no model.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from transformer.config import SearchConfig
from transformer.data.rows import of_one_width, pad
from transformer.inference.backend import ACCELERATOR, Backend
from transformer.inference.cache import Cache
from transformer.inference.cpu import CPU
from transformer.inference.ensemble import Member, mean_step
from transformer.inference.generation import Constrain, Hypotheses
from transformer.inference.search import beam_search, sample
from transformer.interruption import check
from transformer.model import Side, Transformer
from transformer.ops import logits
from transformer.shapes import Params

Members = tuple[tuple[Transformer, Params], ...]  # one model, or several that translate together


@functools.cache
def default_backend() -> Backend:
    """What serves the backend that jax computes on."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


class SearchIds(NamedTuple):
    """The token ids that a search knows: what a translation starts from, ends with and is padded with, what it never
    has, and what it always begins with."""

    pad_id: int
    start_id: int
    end_id: int
    forbidden: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()


def decode(
    members: Members,
    sources: Sequence[Sequence[int]],
    numbers: np.ndarray,
    search: SearchConfig,
    ids: SearchIds,
    backend: Backend | None = None,
) -> Iterator[tuple[np.ndarray, Hypotheses]]:
    """Translates sentences of token ids, in batches of about the same source length; neighbours change nothing.

    Args:
        members: one model, or several, whose mean probability is searched; their parameters on the device.
        sources: the sentences, each without its end id, shorter than `longest_source`.
        numbers: of each sentence, for the random numbers of the samples.
        search: how is searched or drawn, and how much at a time; its words (`forbidden`, `prefix`) are not looked at.
        ids: of the vocabulary, and those of these words.

    Returns:
        The batches: places in `sources`, and what was found for these.
    """
    backend = backend or default_backend()
    program = search_program(members, search, ids, backend)
    beam = search.num_best if search.sample else search.beam_size
    longest, longest_target = longest_source(members), longest_translation(members, search)
    seed = np.int32(search.seed % 2**31)
    lengths = np.array([len(ids) + 1 for ids in sources], int)  # with the end id

    def run(batch: tuple[int, int, np.ndarray]) -> tuple[np.ndarray, Hypotheses]:
        check()
        width, rows, chosen = batch
        with_end = [[*sources[place], ids.end_id] for place in chosen]
        source, mask = pad(with_end, rows, width, ids.pad_id)
        max_lengths, of_rows = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        max_lengths[: len(chosen)] = np.minimum(lengths[chosen] + search.extra_length, longest_target)
        of_rows[: len(chosen)] = numbers[chosen]
        max_length = min(width + search.extra_length, longest_target)
        with starting[width, rows]:  # no shape is compiled twice
            found = program(source, mask, max_lengths, of_rows, seed, max_length=max_length)
        return chosen, jax.tree.map(lambda leaf: np.asarray(leaf)[: len(chosen)], found)

    tokens = (search.batch_tokens or backend.batch_tokens) // beam
    batches = list(of_one_width(lengths, backend.widths(longest), tokens, backend.row_divisor))
    starting = {(w, r): Lock() for w, r, _ in batches}
    with ThreadPoolExecutor(backend.at_once, "decode") as executor:
        yield from executor.map(run, batches)


def search_program(
    members: Members, search: SearchConfig, ids: SearchIds, backend: Backend
) -> Callable[..., Hypotheses]:
    """Encoder and search as one jitted function of (source [B, S], source_mask [B, S], max_lengths [B], numbers [B],
    seed []) and, compiled in, `max_length`; see `decode` and `search`."""
    return partial(
        _search,
        tuple(params for _, params in members),
        models=tuple(model for model, _ in members),
        # What changes nothing in the compiled program has no part in its name.
        search=dataclasses.replace(
            search, seed=0, batch_tokens=1, extra_length=1, max_length=None, long_input="refuse"
        ),
        ids=ids,
        backend=backend,
    )


def longest_source(members: Members) -> int:
    """How many tokens a source may have, the end token counted: the positions of the model that has the fewest."""
    return min(model.config.max_positions for model, _ in members)


def longest_translation(members: Members, search: SearchConfig) -> int:
    """How many tokens any translation may have, the end token counted."""
    longest = longest_source(members)
    return longest if search.max_length is None else min(longest, search.max_length)


@partial(jax.jit, static_argnames=("models", "search", "max_length", "ids", "backend"))
def _search(
    params: tuple[Params, ...],
    source: Array,
    source_mask: Array,
    max_lengths: Array,
    numbers: Array,
    seed: Array,
    *,
    models: tuple[Transformer, ...],
    search: SearchConfig,
    max_length: int,
    ids: SearchIds,
    backend: Backend,
) -> Hypotheses:
    members = [_decoder(*member, source, source_mask) for member in zip(models, params, strict=True)]
    step, cache = mean_step(members)
    rows, width = source.shape
    schedule = backend.schedule(width, rows, max_length)
    constrain = _constraints(search, ids)
    settled = {"max_length": max_length, "pad_id": ids.pad_id, "start_id": ids.start_id, "end_id": ids.end_id}
    if search.sample:
        number = search.num_best
        return sample(
            step,
            cache,
            max_lengths,
            numbers,
            **settled,
            num_samples=number,
            seed=seed,
            constrain=constrain,
            schedule=schedule,
        )
    return beam_search(
        step,
        cache,
        max_lengths,
        **settled,
        beam_size=search.beam_size,
        length_penalty=search.length_penalty,
        length_penalty_form=search.length_penalty_form,
        num_best=search.num_best,
        constrain=constrain,
        schedule=schedule,
        top_k=backend.top_k,
    )


def _decoder(model: Transformer, params: Params, source: Array, source_mask: Array) -> Member:
    """A model's `step` for the search, and the cache that it starts with."""
    encoded, _ = model.apply(params, Side(source, source_mask), method="encode")
    past, keys_and_values = model.apply(params, encoded, method="start_decoding")

    def step(cache: Cache, token: Array, position: Array, origins: Array) -> tuple[Array, Cache]:
        logits, past = model.apply(params, token, position, origins, *cache, method="decode_step")
        return logits, cache._replace(past=past)

    return step, Cache(past, keys_and_values, source_mask)


def _constraints(search: SearchConfig, ids: SearchIds) -> Constrain | None:
    """What a search config asks of the next token, composed; None where it asks nothing."""
    parts: list[Constrain] = []
    if ids.forbidden:
        parts.append(lambda log_probs, *_: logits.forbid(log_probs, ids.forbidden))
    if search.no_repeat_ngram:
        parts.append(partial(logits.block_repeated_ngrams, n=search.no_repeat_ngram))
    if search.repetition_penalty != 1:
        parts.append(partial(logits.repetition_penalty, penalty=search.repetition_penalty))
    if search.min_length:
        parts.append(lambda log_probs, _, t: logits.require_length(log_probs, t, search.min_length, ids.end_id))
    if ids.prefix:
        parts.append(lambda log_probs, _, t: logits.force_prefix(log_probs, t, ids.prefix))
    if search.sample:  # normalizes what the constraints have left, too
        parts.append(lambda log_probs, *_: logits.temperature(log_probs, search.temperature))
    if search.top_k:
        parts.append(lambda log_probs, *_: logits.keep_top_k(log_probs, search.top_k))
    if search.top_p < 1:
        parts.append(lambda log_probs, *_: logits.keep_top_p(log_probs, search.top_p))
    if not parts:
        return None
    return lambda log_probs, tokens, t: functools.reduce(lambda kept, part: part(kept, tokens, t), parts, log_probs)
