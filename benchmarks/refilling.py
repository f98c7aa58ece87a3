"""Continuous refilling against batches that shrink: greedy search on the same sentences, in turns.

    python benchmarks/refilling.py --run runs/decoding --source test.en

Refilled, a row of the batch whose sentence has ended gets the next sentence, so rows are at different positions: each
writes its own place of the cache, and an eighth of the rows is refilled at a time, since that copies the encoder's keys
and values. Shrinking is what the project does: sentences of about the same length together, and when two thirds of the
rows are done, the other third goes on by itself. Both search the sentences of each padded width by themselves, with as
many rows. Printed are seconds (median, fastest and slowest turn), and the share of all row-steps that made a token.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from functools import partial
from typing import Any, NamedTuple

from transformer.runtime import keep_freed_memory, use_compilation_cache

keep_freed_memory()
use_compilation_cache()

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from transformer.data.rows import of_one_width, pad
from transformer.data.text import read_lines
from transformer.errors import InputError
from transformer.inference.decoding import SearchIds, decode, longest_source
from transformer.inference.translator import load
from transformer.model import Transformer


class State(NamedTuple):
    next: Array  # the sentence that the next free row gets
    steps: Array  # taken so far
    place: Array  # [B], the sentence of each row; one too many where there is none
    position: Array  # [B], of its newest token
    ended: Array  # [B]
    tokens: Array  # [B, 1 + L], the start id first
    cache: Any  # [B, ...]
    memory: Any  # [B, ...], what the row's sentence is to the decoder
    outputs: Array  # [N + 1, 1 + L]


@partial(jax.jit, static_argnames=("model", "ids", "rows", "length"))
def refilled(
    params: Any,
    source: Array,
    mask: Array,
    longest: Array,
    *,
    model: Transformer,
    ids: SearchIds,
    rows: int,
    length: int,
) -> tuple[Array, Array]:
    """Greedy translations [N, 1 + L] of sentences [N, S], and the number of steps, in a batch that is refilled."""
    number = len(source)
    encoded, _ = model.apply(params, source, mask, method="encode")
    cache, keys_and_values = model.apply(params, encoded, method="start_decoding")
    # One sentence more, which no row works on: what rows read that have nothing to do.
    everything = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]])[:, None], (keys_and_values, mask, longest))
    cache = jax.tree.map(lambda leaf: jnp.zeros((rows, 1, leaf.shape[1], length, leaf.shape[3]), leaf.dtype), cache)
    never = jnp.zeros(model.config.vocabulary_size, bool).at[jnp.array([ids.start_id, ids.pad_id])].set(True)
    never = never.at[ids.end_id].set(False)
    origins = jnp.zeros((1, 1, length), int)

    def step(token: Array, position: Array, cache: Any, memory: Any) -> Any:
        return model.apply(params, token[None, None], position, origins, cache, *memory, method="decode_step")

    def refill(state: State) -> State:
        outputs = state.outputs.at[jnp.where(state.ended, state.place, number)].set(state.tokens)
        place = jnp.where(state.ended, state.next + jnp.cumsum(state.ended) - 1, state.place)
        place = jnp.minimum(place, number)
        fresh = jnp.full_like(state.tokens, ids.pad_id).at[:, 0].set(ids.start_id)
        return state._replace(
            next=state.next + state.ended.sum(),
            place=place,
            position=jnp.where(state.ended, 0, state.position),
            ended=place == number,
            tokens=jnp.where(state.ended[:, None], fresh, state.tokens),
            memory=jax.tree.map(lambda leaf: leaf[place], everything),
            outputs=outputs,
        )

    def advance(state: State) -> State:
        keys_and_values, mask, longest = state.memory
        token = jnp.take_along_axis(state.tokens, state.position[:, None], axis=1)[:, 0]
        logits, cache = jax.vmap(step)(token, state.position, state.cache, (keys_and_values, mask))
        token = jnp.argmax(jnp.where(never, -jnp.inf, logits[:, 0, 0]), axis=-1)
        position = jnp.where(state.ended, state.position, state.position + 1)
        token = jnp.where(position >= longest[:, 0], ids.end_id, token)
        written = state.tokens.at[jnp.arange(rows), position].set(token)
        state = state._replace(
            steps=state.steps + 1,
            position=position,
            ended=state.ended | (token == ids.end_id),
            tokens=jnp.where(state.ended[:, None], state.tokens, written),
            cache=cache,
        )
        free = state.ended.sum()
        due = jnp.where(state.next < number, free >= max(1, rows // 8), free == rows)
        return lax.cond(due, refill, lambda state: state, state)

    nothing = State(
        next=jnp.array(0),
        steps=jnp.array(0),
        place=jnp.full(rows, number),
        position=jnp.zeros(rows, int),
        ended=jnp.ones(rows, bool),
        tokens=jnp.full((rows, 1 + length), ids.pad_id),
        cache=cache,
        memory=jax.tree.map(lambda leaf: leaf[:rows], everything),
        outputs=jnp.full((number + 1, 1 + length), ids.pad_id),
    )
    state = lax.while_loop(lambda state: ~state.ended.all(), advance, refill(nothing))
    return state.outputs[:number], state.steps


def run(options: argparse.Namespace) -> None:
    translator = load(options.run, dtype="float32")
    tokenizer = translator.tokenizer
    search = dataclasses.replace(translator.config.search, beam_size=1, num_best=1, batch_tokens=options.batch_tokens)
    ids = SearchIds(tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
    sources = tokenizer.encode_batch(read_lines(options.source))
    longest = longest_source(translator.members)

    def shrinking() -> list[list[int]]:
        found: list[list[int]] = [[]] * len(sources)
        for places, best in decode(translator.members, sources, np.arange(len(sources)), search, ids):
            for row, place in enumerate(places):
                found[place] = best.tokens[row, 0, : best.lengths[row, 0]].tolist()
        return found

    row_steps = 0

    def refilling() -> list[list[int]]:
        nonlocal row_steps
        found: list[list[int]] = [[]] * len(sources)
        row_steps = 0
        lengths = np.array([len(source) + 1 for source in sources])
        for width, number, places in of_one_width(lengths, 2**30, longest):
            rows = min(number, max(1, options.batch_tokens // width))
            with_end = [[*sources[place], ids.end_id] for place in places]
            source, mask = pad(with_end, len(places), width, ids.pad_id)
            most = np.minimum(lengths[places] + search.extra_length, longest)
            tokens, steps = refilled(
                translator.params,
                source,
                mask,
                most,
                model=translator.model,
                ids=ids,
                rows=rows,
                length=min(width + search.extra_length, longest),
            )
            row_steps += rows * int(steps)
            for place, row in zip(places, np.asarray(tokens)[:, 1:].tolist(), strict=True):
                found[place] = row[: row.index(ids.end_id) + 1]
        return found

    ways = {"shrunk": shrinking, "refilled": refilling}
    first = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
    made = sum(map(len, first["refilled"]))
    same = sum(a == b for a, b in zip(*first.values(), strict=True))
    print(f"refilled: {made / row_steps:.1%} of {row_steps:,} row-steps made a token")
    print(f"{same:,} of {len(sources):,} translations are the same")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--source", required=True, help="source sentences, one a line (.gz, .xz and .zst too)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="width times rows of a batch, at the most")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    try:
        run(options)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
