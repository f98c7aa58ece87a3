"""The whole model against a second one in float64 NumPy, with every field of `ModelConfig` varied at least once."""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from numerics import quick_jit
from reference_model import (
    LABEL_SMOOTHING,
    Arrays,
    Result,
    by_path,
    number_of_layers,
    reference,
    smoothed_loss,
)

from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.dropout import dropout, dropout_key, fold_in
from transformer.shapes import Batch

TINY = ModelConfig(
    vocabulary_size=19,
    d_model=8,
    num_heads=2,
    d_ff=12,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_positions=16,
    dropout=0.2,
    attention_dropout=0.1,
    activation_dropout=0.3,
    batch_norm_momentum=0.8,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "pre": {
        "norm_position": "pre",
        "activation": "gelu",
        "positions": "halved_t2t",
        "attention_bias": True,
        "shared_embeddings": "target",
        "scan_unroll": 1,
    },
    "rms": {
        "norm": "rms",
        "positions": "rotary",
        "norm_position": "pre",
        "norm_epsilon": 1e-2,
        "activation": "swish",
        "shared_embeddings": "none",
        "target_vocabulary_size": 23,
        "scale_embeddings": False,
        "num_encoder_layers": 1,
        "num_decoder_layers": 3,
        "scan_unroll": 2,
    },
    "batch": {"norm": "batch", "positions": "learned", "num_encoder_layers": 1, "num_decoder_layers": 1},
    "batch scanned": {"norm": "batch", "positions": "learned", "scan_unroll": 1},
    "plain": {
        "implementation": "plain",
        "activation": "gelu_sigmoid",
        "norm_position": "pre",
        "attention_bias": True,
        "positions": "rotary",
        "decoder_start": "zeros",
    },
    "marian": {  # as Marian computes it, with two vocabularies and a pad id that no token has
        "activation": "gelu_sigmoid",
        "positions": "halved_t2t",
        "attention_bias": True,
        "shared_embeddings": "target",
        "target_vocabulary_size": 15,
        "final_logits_bias": True,
        "decoder_start": "zeros",
    },
    "hugging face": {
        "norm_epsilon": 1e-5,
        "activation": "swish",
        "positions": "halved",
        "attention_bias": True,
        "final_logits_bias": True,
        "num_heads": 4,
        "num_decoder_layers": 1,
    },
}
# Relative error of a whole array. Measured are up to 1e-6 and 2e-2: about twenty roundings, each to 6e-8 or 4e-3, lie
# between the tokens and the logits, as many again on the way back to a parameter, and normalization magnifies some.
TOLERANCE = {"float32": 5e-6, "bfloat16": 5e-2}


def random_variables(config: ModelConfig) -> tuple[Arrays, Arrays]:
    """Parameters and running statistics, none of them at its neutral value."""
    rng = np.random.default_rng(0)
    token, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    variables = jax.eval_shape(Transformer(config).init, jax.random.key(0), token, mask, token)
    params, stats = {}, {}
    for name, leaf in by_path(variables["params"]).items():
        deviation = 0.4 if leaf.ndim - ("/layers/" in name) == 2 else 0.2
        params[name] = (name.endswith("/scale") + deviation * rng.normal(size=leaf.shape)).astype(np.float32)
    for name, leaf in by_path(variables.get("batch_stats", {})).items():
        draw = rng.uniform(0.5, 2, leaf.shape) if name.endswith("/variance") else rng.normal(size=leaf.shape)
        stats[name] = draw.astype(np.float32)
    return params, stats


def random_batch(config: ModelConfig) -> Batch:
    """Three rows, the last of nothing but padding, whose id is no token's where the config allows that."""
    source, target_input, target_output = np.random.default_rng(1).integers(config.vocabulary_size, size=(3, 3, 8))
    target_input, target_output = target_input % config.target_size, target_output % config.target_size
    source_mask, target_mask = (np.arange(8) < np.array(lengths)[:, None] for lengths in ([8, 6, 0], [4, 7, 0]))
    if config.decoder_start == "zeros":
        no_token = max(config.vocabulary_size, config.target_size)
        source, target_output = np.where(source_mask, source, no_token), np.where(target_mask, target_output, no_token)
        target_input = np.where(target_mask & (np.arange(8) > 0), target_input, no_token)
    row = np.array([4, 0, 7])
    return Batch(source, source_mask, target_input[:, :7], target_output[:, :7], target_mask[:, :7], row)


class Case(NamedTuple):
    """One model, run by us and by the reference."""

    config: ModelConfig
    dtype: str
    training: bool
    batch: Batch
    params: Arrays
    actual: Result
    gradients: Arrays
    expected: Result
    expected_loss: Callable[[Arrays], float]

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        """Equality up to rounding, relative to the whole array: single elements may be ill-conditioned."""
        error = np.linalg.norm(actual.astype(np.float64) - expected)
        assert actual.shape == expected.shape
        assert error <= TOLERANCE[self.dtype] * np.linalg.norm(expected)


CASES = [
    ("paper", "float32", False),
    ("pre", "float32", True),
    ("rms", "float32", False),
    ("marian", "float32", True),
    ("hugging face", "float32", False),
    ("batch", "float32", False),
    ("batch", "float32", True),
    ("batch scanned", "float32", True),
    ("plain", "float32", True),
    ("plain", "bfloat16", True),
    ("paper", "bfloat16", True),
    ("pre", "bfloat16", True),
    ("batch", "bfloat16", True),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case[:2]) + "-training" * case[2])
def case(request: pytest.FixtureRequest) -> Case:
    variant, dtype, training = request.param
    # A rounding of bfloat16 is large: with two layers a side there would be twice as many as its tolerance is for.
    depth = {"num_encoder_layers": 1, "num_decoder_layers": 1} if dtype == "bfloat16" else {}
    config = dataclasses.replace(TINY, **VARIANTS[variant] | depth)
    model, batch = Transformer(config, jnp.dtype(dtype)), random_batch(config)
    params, stats = random_variables(config)
    key = dropout_key(seed=3, step=5, row=jnp.array(batch.row)) if training else None

    @quick_jit
    def run(params: Any, variables: Any, batch: Batch):
        def loss(params: Any):
            (total, tokens), new_stats = model.apply(
                {"params": params, **variables},
                batch,
                label_smoothing=LABEL_SMOOTHING,
                dropout=key,
                method="loss",
                mutable=list(variables),
            )
            return total, (tokens, new_stats)

        (logits, weights), _ = model.apply(
            {"params": params, **variables},
            *batch[:3],
            batch.target_mask,
            key,
            return_weights=True,
            mutable=list(variables),
        )
        (total, (tokens, new_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return Result(logits, weights, new_stats, total, tokens), gradients

    nested_stats = {"batch_stats": unflatten_dict(stats, sep="/")} if stats else {}
    actual, gradients = jax.device_get(run(unflatten_dict(params, sep="/"), nested_stats, batch))
    actual = actual._replace(statistics=by_path(actual.statistics.get("batch_stats", {})))

    @cache
    def mask(site: str, shape: tuple[int, ...]) -> np.ndarray:
        place = site.split("/")[-2] if "/" in site else ""
        rate = config.dropout
        if place == "feed_forward":
            rate = config.activation_dropout
        elif place.endswith("attention"):
            rate = config.attention_dropout
        assert key is not None
        layer = re.search(r"/(\d+)/", site)
        own = key if layer is None else fold_in(key, int(layer[1]))
        path = re.sub(r"/\d+/", "/layers/", site)
        return np.asarray(dropout(jnp.ones(shape), rate, own, zlib.crc32(path.encode()) >> 1), np.float64)

    def drop(site: str, x: np.ndarray) -> np.ndarray:
        return x * mask(site, x.shape) if training else x

    params, stats = ({name: leaf.astype(np.float64) for name, leaf in leaves.items()} for leaves in (params, stats))

    def expect(params: Arrays) -> Result:
        return reference(config, params, stats, batch, training, drop)

    return Case(
        config,
        dtype,
        training,
        batch,
        params,
        actual,
        by_path(gradients),
        expect(params),
        lambda changed: expect(changed).loss,
    )


def test_logits(case):
    assert case.actual.logits.dtype == np.float32
    case.assert_close(case.actual.logits, case.expected.logits)


def test_attention_weights(case):
    """[L, B, H, Q, K] of every kind; each query's sum to one, but those of a row of padding to zero."""
    config, (rows, source_length), target_length = (
        case.config,
        case.batch.source.shape,
        case.batch.target_input.shape[1],
    )
    shapes = {
        kind: (layers, rows, config.num_heads, *lengths)
        for (kind, layers), lengths in zip(
            number_of_layers(config).items(),
            ((source_length, source_length), (target_length, target_length), (target_length, source_length)),
            strict=True,
        )
    }
    assert {name: weights.shape for name, weights in case.actual.weights.items()} == shapes
    for name, weights in case.actual.weights.items():
        assert weights.dtype == np.float32
        total = 1 if name == "decoder" else case.batch.source_mask.any(1)[:, None, None]
        np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(total, weights.shape[:4]), atol=1e-6)
        case.assert_close(weights, case.expected.weights[name])


def test_the_loss_is_that_of_the_logits(case):
    """`loss`, which never holds all the logits, is what the formula makes of those of `__call__`."""
    assert case.actual.tokens == case.expected.tokens
    from_logits = smoothed_loss(case.actual.logits.astype(np.float64), case.batch)
    # In bfloat16 each of them rounds the same products in its own order.
    np.testing.assert_allclose(case.actual.loss, from_logits, rtol={"float32": 1e-6, "bfloat16": 1e-3}[case.dtype])
    np.testing.assert_allclose(case.actual.loss, case.expected.loss, rtol=TOLERANCE[case.dtype])


def test_running_statistics_are_updated_in_training_only(case):
    assert case.actual.statistics.keys() == case.expected.statistics.keys()
    assert bool(case.actual.statistics) == (case.config.norm == "batch")
    for name, value in case.expected.statistics.items():
        case.assert_close(case.actual.statistics[name], value)


def test_gradients(case):
    """Each parameter's against the slope of the reference in a random direction; with a row of padding in the batch."""
    assert case.gradients.keys() == case.params.keys()
    rng = np.random.default_rng(2)
    norm = math.sqrt(sum(np.sum(np.square(gradient)) for gradient in case.gradients.values()))
    for name, gradient in case.gradients.items():
        value = case.params[name]
        assert gradient.dtype == np.float32
        assert np.isfinite(gradient).all(), name
        # A key's bias adds the same to all scores of a query, which the softmax takes away again.
        assert gradient.any() or name.endswith("key/bias"), name
        direction = rng.normal(size=value.shape)
        ahead, behind = (case.expected_loss(case.params | {name: value + h * direction}) for h in (1e-6, -1e-6))
        tolerance = TOLERANCE[case.dtype] * (np.linalg.norm(gradient) + 1e-2 * norm)
        assert abs(np.sum(direction * gradient) - (ahead - behind) / 2e-6) < 3 * tolerance, name
