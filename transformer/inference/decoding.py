"""Translation of token ids in batches.

Batches have few shapes, with one compiled program for each. `translation.py` adds the text, and `search.py` has the
search itself, which is independent of the model.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from transformer import devices, processes
from transformer.config import SearchConfig
from transformer.data.rows import deal, of_one_width, pad
from transformer.inference.backend import ACCELERATOR, Backend
from transformer.inference.cache import Cache
from transformer.inference.cpu import CPU
from transformer.inference.ensemble import Member, mean_step
from transformer.inference.generation import Constrain, Hypotheses
from transformer.inference.search import beam_search, sample
from transformer.interruption import check
from transformer.model import Transformer
from transformer.ops import logits
from transformer.shapes import Params, Side

Members = tuple[tuple[Transformer, Params], ...]  # one model, or several whose probabilities are averaged


@functools.cache
def default_backend() -> Backend:
    """The settings for the backend that JAX uses by default."""
    return CPU if jax.default_backend() == "cpu" else ACCELERATOR


class SearchIds(NamedTuple):
    """The token ids that a search needs.

    Attributes:
        pad_id: Fills a row after the end of its sentence.
        start_id: Starts every translation.
        end_id: Ends every translation.
        forbidden: Never generated.
        prefix: Begins every translation.
    """

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
) -> Generator[tuple[np.ndarray, Hypotheses], None, None]:
    """Translates sentences of token ids, in batches of similar source length.

    The translation of a sentence does not depend on the other sentences. The rows of a batch are dealt out to the local
    devices, each of which searches as it would alone. Sentences are dealt out to the processes of a job.

    Args:
        members: One model, or several whose probabilities are averaged. The parameters are on all local devices.
        sources: The token ids of each sentence, without the end id, fewer than `longest_source`.
        numbers: Random-stream id of each sentence, for sampling.
        search: Search settings and batch size. `forbidden` and `prefix` are ignored here; their token ids come in
            `ids`.
        ids: Special ids, and the ids of `forbidden` and `prefix`.
        backend: How to compute. None uses the settings for the default backend.

    Yields:
        For each batch of this process, indices into `sources`, and the translations of these sources. Threads end with
        the generator, so close it (`contextlib.closing`) rather than leave that to garbage collection.
    """
    backend = backend or default_backend()
    shards = devices.count()
    program = search_program(members, search, ids, backend, shards)
    beam = search.num_best if search.sample else search.beam_size
    longest, longest_target = longest_source(members), longest_translation(members, search)
    seed = np.int32(search.seed % 2**31)
    lengths = np.array([len(ids) + 1 for ids in sources], int)  # with the end id

    def run(batch: tuple[int, int, np.ndarray]) -> tuple[np.ndarray, Hypotheses]:
        check()
        width, rows, chosen = batch
        row = deal(len(chosen), rows, shards)
        with_end: list[list[int]] = [[]] * (rows * shards)
        for index, own in zip(chosen, row, strict=True):
            with_end[own] = [*sources[index], ids.end_id]
        source, mask = pad(with_end, rows * shards, width, ids.pad_id)
        max_lengths, of_rows = np.zeros(rows * shards, np.int32), np.zeros(rows * shards, np.int32)
        max_lengths[row] = np.minimum(lengths[chosen] + search.extra_length, longest_target)
        of_rows[row] = numbers[chosen]
        max_length = min(width + search.extra_length, longest_target)
        with starting[width, rows]:  # so that two threads never compile the same shape
            found = program(source, mask, max_lengths, of_rows, seed, max_length=max_length)
        return chosen, jax.tree.map(lambda leaf: np.asarray(leaf)[row], found)

    tokens = (search.batch_tokens or backend.batch_tokens) // beam
    batches = list(own_batches(lengths, backend.widths(longest), tokens, backend))
    starting = {(w, r): Lock() for w, r, _ in batches}
    with ThreadPoolExecutor(backend.at_once, "decode") as executor:
        yield from executor.map(run, batches)


def own_batches(
    lengths: np.ndarray, widths: Sequence[int], tokens: int, backend: Backend
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Groups this process's share of the sequences into batches for its devices, as `rows.of_one_width` does."""
    processes.require_same("The sentences are", lengths.tolist())
    own = processes.own(np.argsort(-lengths, kind="stable"))
    for width, rows, chosen in of_one_width(lengths[own], widths, tokens, backend.row_divisor, devices.count()):
        yield width, rows, own[chosen]


def search_program(
    members: Members, search: SearchConfig, ids: SearchIds, backend: Backend, shards: int = 1
) -> Callable[..., Hypotheses]:
    """Encoder and search as one jitted function, whose rows are split over `shards` local devices.

    Its arguments are (source [B, S], source_mask [B, S], max_lengths [B], numbers [B], seed []) and the static keyword
    argument `max_length`. They are explained in `decode` and `beam_search`.
    """
    return partial(
        _search,
        tuple(params for _, params in members),
        models=tuple(model for model, _ in members),
        # Fields that do not affect the compiled program get a fixed value, so that changing them compiles nothing.
        search=dataclasses.replace(
            search, seed=0, batch_tokens=1, extra_length=1, max_length=None, long_input="refuse"
        ),
        ids=ids,
        backend=backend,
        shards=shards,
    )


def longest_source(members: Members) -> int:
    """Maximum source length in tokens, including the end token, for all models."""
    return min(model.config.max_positions for model, _ in members)


def longest_translation(members: Members, search: SearchConfig) -> int:
    """Maximum translation length in tokens, including the end token."""
    longest = longest_source(members)
    return longest if search.max_length is None else min(longest, search.max_length)


@partial(jax.jit, static_argnames=("models", "search", "max_length", "ids", "backend", "shards"))
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
    shards: int,
) -> Hypotheses:
    constrain = _constraints(search, ids)
    settled = {"max_length": max_length, "pad_id": ids.pad_id, "start_id": ids.start_id, "end_id": ids.end_id}

    def search_rows(replicated: tuple[tuple[Params, ...], Array], rows: tuple[Array, ...]) -> Hypotheses:
        (params, seed), (source, source_mask, max_lengths, numbers) = replicated, rows
        members = [_decoder(*member, source, source_mask) for member in zip(models, params, strict=True)]
        step, cache = mean_step(members)
        schedule = backend.schedule(source.shape[1], source.shape[0], max_length)
        if search.sample:
            return sample(
                step,
                cache,
                max_lengths,
                numbers,
                **settled,
                num_samples=search.num_best,
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

    rows = source, source_mask, max_lengths, numbers
    return devices.map_rows(search_rows, (params, seed), rows, shards)


def _decoder(model: Transformer, params: Params, source: Array, source_mask: Array) -> Member:
    """The `step` of a model for the search, and the cache that it starts with."""
    encoded, _ = model.apply(params, Side(source, source_mask), method="encode")
    past, keys_and_values = model.apply(params, encoded, method="start_decoding")

    def step(cache: Cache, token: Array, position: Array, origins: Array) -> tuple[Array, Cache]:
        logits, past = model.apply(params, token, position, origins, *cache, method="decode_step")
        return logits, cache._replace(past=past)

    return step, Cache(past, keys_and_values, source_mask)


def _constraints(search: SearchConfig, ids: SearchIds) -> Constrain | None:
    """Composes the constraints of a search config. None if there are none."""
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
    if search.sample:  # even at a temperature of 1, to renormalize after the constraints
        parts.append(lambda log_probs, *_: logits.temperature(log_probs, search.temperature))
    if search.top_k:
        parts.append(lambda log_probs, *_: logits.keep_top_k(log_probs, search.top_k))
    if search.top_p < 1:
        parts.append(lambda log_probs, *_: logits.keep_top_p(log_probs, search.top_p))
    if not parts:
        return None
    return lambda log_probs, tokens, t: functools.reduce(lambda kept, part: part(kept, tokens, t), parts, log_probs)
