"""A trained search as one StableHLO artefact, which jax runs without this package: token ids in, token ids out."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, export

from transformer.config import SearchConfig
from transformer.data.lengths import check_lengths
from transformer.errors import InputError
from transformer.inference.backend import ACCELERATOR
from transformer.inference.cpu import Shrinking
from transformer.inference.decoding import longest_source, longest_translation, search_program
from transformer.inference.translation import search_ids
from transformer.inference.translator import Translator
from transformer.model import Transformer
from transformer.shapes import Params

PLATFORMS = ("cpu", "cuda", "tpu")
HORIZONS = (32, 128, 512)  # positions of the cache before the last one


class Artefact(NamedTuple):
    """An exported search.

    program: what `jax.export.deserialize` reads; it needs the package flatbuffers.
    about: what a caller has to know, for JSON: `pad_id`, `end_id`, `max_length`, `normalization` (that of
        text before it is tokenized, `data.normalization`), and for the record `search`.
    """

    program: bytes
    about: dict[str, Any]


def _portable(member: tuple[Transformer, Params]) -> tuple[Transformer, Params]:
    """A model whose program does not depend on the machine that exports it: the plain equations, layers unrolled."""
    model, params = member
    config = dataclasses.replace(model.config, implementation="plain", scan_unroll=None)
    return model.clone(config=config, backend="cpu"), params


def _growing(width: Any, rows: Any, max_length: int) -> Shrinking:
    """A cache that grows: with room for the longest translation from the start, short ones took 4.7 times as long."""
    return Shrinking(tuple(positions for positions in HORIZONS if positions < max_length), few=0)


def export_search(translator: Translator, search: SearchConfig, longest: int | None = None) -> Artefact:
    """Encoder, decoder and the whole beam search (section 6.1) as one program for CPU, CUDA and TPU.

    source [B, S] -> (tokens [B, N, L], scores [B, N], lengths [B, N]), as in `search.Hypotheses`, N = `search.num_best`

    B and S are open; jax compiles the program for each shape that it is called with. A row of `source` is a sentence's
    ids (int32), the end id last, padded with the pad id; a row of padding gets no translation. The parameters are
    constants of the program, which multiplies matrices in float32.

    The search has a loop for each size of its cache, which grows up to the longest translation L. How many loops there
    are cannot be left open, so L is settled here. A batch of short sentences still ends early, and
    `search.extra_length` bounds each translation by its own source; but the memory of the program is that of L.

    Args:
        translator: one model or several, in their compute type.
        search: how is searched; sampling cannot be exported.
        longest: the longest source, and L where `search.max_length` is not less, in tokens with the end id; the
            model's positions unless given.

    Raises:
        InputError: the search draws samples; or `longest` is not between 1 and the number of positions; or a
            forbidden word is not one token.
    """
    if search.sample:
        raise InputError("Only a search can be exported, but search.sample draws translations at random: leave it out.")
    positions = longest_source(translator.members)
    longest = positions if longest is None else longest
    if longest < 1:
        raise InputError(f"--longest must be at least 1, but is {longest}.")
    check_lengths([longest], positions, lambda _: "The longest source (--longest)", f"Give at most {positions}.")
    max_length = min(longest, longest_translation(translator.members, search))
    tokenizer = translator.tokenizer
    members = tuple(map(_portable, translator.members))
    backend = ACCELERATOR._replace(schedule=_growing)
    program = search_program(members, search, search_ids(tokenizer, search), backend)

    def translate(source: Array) -> tuple[Array, Array, Array]:
        mask = source != tokenizer.pad_id
        lengths = mask.sum(axis=1)
        max_lengths = jnp.where(lengths > 0, jnp.minimum(lengths + search.extra_length, max_length), 0)
        unused = jnp.zeros_like(lengths)  # the sentences' numbers and the seed, which only sampling asks for
        found = program(source, mask, max_lengths, unused, unused[0], max_length=max_length)
        return found.tokens, found.scores, found.lengths

    rows, width = export.symbolic_shape("B, S", constraints=[f"S <= {longest}"])
    exported = export.export(jax.jit(translate), platforms=PLATFORMS)(jax.ShapeDtypeStruct((rows, width), jnp.int32))
    about = {
        "pad_id": tokenizer.pad_id,
        "end_id": tokenizer.end_id,
        "max_length": longest,
        "normalization": tokenizer.normalization,
        "search": dataclasses.asdict(search),
    }
    return Artefact(bytes(exported.serialize()), about)
