"""The settings of a backend do not change translations."""

import dataclasses
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.inference import decoding
from transformer.inference.backend import ACCELERATOR
from transformer.inference.cpu import CPU
from transformer.inference.translation import search_ids
from transformer.model import Transformer
from transformer.shapes import Side

pytestmark = pytest.mark.usefixtures("quick_compilation")


def sources(seed: int, number: int, longest: int = 36) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(3, 270) for _ in range(generator.randint(1, longest))] for _ in range(number)]


def found(translator, sentences, search, backend) -> list[tuple]:
    """Translates sentences, and returns the tokens, scores and lengths of each."""
    ids = search_ids(translator.tokenizer, search)
    results: list[Any] = [None] * len(sentences)
    numbers = np.arange(len(sentences), dtype=np.int32)
    for chosen, hypotheses in decoding.decode(translator.members, sentences, numbers, search, ids, backend):
        for row, sentence in enumerate(chosen):
            results[sentence] = tuple(np.asarray(leaf)[row] for leaf in hypotheses)
    return results


@pytest.mark.parametrize(
    "changes", [{"beam_size": 1}, {"beam_size": 3, "num_best": 2}, {"sample": True, "num_best": 2}], ids=str
)
def test_an_accelerator_and_a_cpu_translate_alike(random_translator, changes):
    search = dataclasses.replace(random_translator.config.search, batch_tokens=160, **changes)
    narrow = ACCELERATOR._replace(widths=lambda longest: [8, longest])  # the model has no 64 positions
    sentences = sources(0, 30)
    for own, other in zip(
        *(found(random_translator, sentences, search, backend) for backend in (CPU, narrow)), strict=True
    ):
        length = min(own[0].shape[-1], other[0].shape[-1])
        np.testing.assert_array_equal(own[0][:, :length], other[0][:, :length])
        np.testing.assert_array_equal(own[2], other[2])
        np.testing.assert_allclose(own[1], other[1], rtol=1e-5, atol=1e-5)


def test_an_accelerator_compiles_at_most_two_searches(random_translator):
    search = dataclasses.replace(random_translator.config.search, batch_tokens=160, beam_size=2)
    narrow = ACCELERATOR._replace(widths=lambda longest: [8, longest])
    searches: Any = decoding._search
    compiled = searches._cache_size()
    for seed, number, longest in ((0, 30, 36), (1, 1, 3), (2, 47, 20), (3, 5, 36)):
        found(random_translator, sources(seed, number, longest), search, narrow)
    assert searches._cache_size() - compiled == 2


def test_an_accelerators_widths_are_at_most_two():
    for longest in (1, 40, 64, 65, 1024):
        widths = ACCELERATOR.widths(longest)
        assert len(widths) <= 2
        assert widths[-1] == longest
        assert sorted(widths) == [*widths]


def test_what_a_backend_decodes_with_is_known_to_jax():
    assert decoding.default_backend() is (CPU if jax.default_backend() == "cpu" else ACCELERATOR)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_position": "pre", "positions": "halved", "attention_bias": True, "decoder_start": "zeros"},
        {"norm": "batch", "positions": "learned", "shared_embeddings": "none", "final_logits_bias": True},
        {
            "norm": "rms",
            "positions": "rotary",
            "shared_embeddings": "target",
            "scale_embeddings": False,
            "activation": "swish",
        },
    ],
)
def test_decoding_step_by_step_equals_decoding_at_once(translator, draw_variables, changes):
    config, generator = dataclasses.replace(translator.config.model, **changes), np.random.default_rng(0)
    model, variables = Transformer(config), draw_variables(config)
    source, target = jnp.array(generator.integers(3, 300, (3, 9))), jnp.array(generator.integers(3, 300, (3, 2, 7)))
    source_mask = jnp.arange(9) < jnp.array([9, 4, 6])[:, None]

    @jax.jit
    def at_once():
        whole = [model.apply(variables, source, source_mask, target[:, k])[0] for k in range(2)]
        memory, _ = model.apply(variables, Side(source, source_mask), method="encode")
        return jnp.stack(whole, axis=1), model.apply(variables, memory, method="start_decoding")

    @jax.jit
    def step(cache, token, position):
        origins = jnp.broadcast_to(jnp.arange(2)[:, None], (3, 2, 10))
        return model.apply(
            variables, token, position, origins, cache, keys_and_values, source_mask, method="decode_step"
        )

    whole, (cache, keys_and_values) = at_once()
    cache = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, 20), (0, 0))), cache)
    for position in range(7):
        logits, cache = step(cache, target[:, :, position], position)
        expected = whole[:, :, position]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
