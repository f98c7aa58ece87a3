"""Export of a trained model and its search as one StableHLO artefact.

JAX runs the artefact without this package. Its inputs and outputs are token ids.
"""

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
HORIZONS = (32, 128, 512)  # positions in the cache of each loop but the last


class Artefact(NamedTuple):
    """An exported search.

    Attributes:
        program: Bytes for `jax.export.deserialize`, which needs the package flatbuffers.
        about: What a caller needs to know, as values for JSON. `max_length` is the longest source in tokens, including
            the end token. `normalization` says how to normalize text before tokenizing it, as in `data.normalization`.
            `pad_id` and `end_id` are special ids, and `search` has the settings of the search.
    """

    program: bytes
    about: dict[str, Any]


def _portable(member: tuple[Transformer, Params]) -> tuple[Transformer, Params]:
    """A model whose compiled program is the same on every machine that exports it.

    It uses the plain equations and unrolled layers.
    """
    model, params = member
    config = dataclasses.replace(model.config, implementation="plain", scan_unroll=None)
    return model.clone(config=config, backend="cpu"), params


def _growing(width: Any, rows: Any, max_length: int) -> Shrinking:
    """A schedule with a growing cache.

    With room for the longest translation from the start, short translations took 4.7 times as long.
    """
    return Shrinking(tuple(positions for positions in HORIZONS if positions < max_length), few=0)


def export_search(translator: Translator, search: SearchConfig, longest: int | None = None) -> Artefact:
    """Exports a model and its beam search (section 6.1) for CPU, CUDA and TPU.

    source [B, S] -> (tokens [B, N, L], scores [B, N], lengths [B, N])

    The results are the fields of `generation.Hypotheses`, with N = `search.num_best`. B and S are symbolic, and JAX
    compiles the program for each shape that it is called with. A row of `source` holds the token ids of a sentence
    (int32), then the end id, then pad ids. A row of padding gets no translation. The parameters are constants of the
    program, which multiplies matrices in float32.

    The search is compiled as one loop for each size of its cache, which grows up to the maximum translation length L.
    The number of loops cannot be symbolic, so L is fixed when exporting. A batch of short sentences still ends early,
    and `search.extra_length` limits each translation relative to its source. The program always needs the memory for L.

    Args:
        translator: One model or an ensemble, in its compute dtype.
        search: Settings of the search. Sampling cannot be exported.
        longest: Maximum source length in tokens, including the end token. It is also L, unless `search.max_length` is
            smaller. None uses the number of positions of the model.

    Returns:
        The program, and what a caller needs to know about it.

    Raises:
        InputError: `search.sample` is set, `longest` is not between 1 and the number of positions, or a forbidden
            word is not a single token.
    """
    if search.sample:
        raise InputError("Sampling cannot be exported, only a beam search. Leave out --sample.")
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
        unused = jnp.zeros_like(lengths)  # numbers of the sentences, and the seed, which only sampling needs
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
