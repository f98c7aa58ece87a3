"""The whole model against a second one in float64 NumPy, with every knob of `ModelConfig` turned at least once."""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

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
        "norm_position": "pre",
        "norm_epsilon": 1e-2,
        "activation": "swish",
        "shared_embeddings": "none",
        "scale_embeddings": False,
        "num_encoder_layers": 1,
        "num_decoder_layers": 3,
        "scan_unroll": 2,
    },
    "batch": {"norm": "batch", "positions": "learned", "num_encoder_layers": 1, "num_decoder_layers": 1},
    "batch scanned": {"norm": "batch", "positions": "learned", "scan_unroll": 1},
    "plain": {"implementation": "plain", "norm_position": "pre", "attention_bias": True},
    "marian": {
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
LABEL_SMOOTHING = 0.1
Arrays = dict[str, np.ndarray]  # parameters or running statistics by their path


class Result(NamedTuple):
    logits: Any
    weights: Any
    batch_stats: Any
    loss: Any
    tokens: Any


def reference(
    config: ModelConfig,
    p: Arrays,
    stats: Arrays,
    batch: Batch,
    training: bool,
    drop: Callable[[str, np.ndarray], np.ndarray],
) -> Result:
    """Figure 1 and every variant that the config knows, written anew and plainly; `drop` is dropout of a named site."""
    p, stats, weights = by_layer(p), by_layer(stats), {}
    new_stats = dict(stats)

    def norm(name, x, mask):
        scale = p[f"{name}/scale"]
        if config.norm == "rms":
            return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon)
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        if config.norm == "batch":
            mean, variance = stats[f"{name}/mean"], stats[f"{name}/variance"]
        if config.norm == "batch" and training:
            kept, old_mean, old_variance = config.batch_norm_momentum, mean, variance
            mean, variance = x[mask].mean(0), x[mask].var(0)
            new_stats[f"{name}/mean"] = kept * old_mean + (1 - kept) * mean
            new_stats[f"{name}/variance"] = kept * old_variance + (1 - kept) * variance
        return scale * (x - mean) / np.sqrt(variance + config.norm_epsilon) + p[f"{name}/bias"]

    def add_and_norm(name, x, mask, sublayer):
        if config.norm_position == "pre":
            return x + drop(f"{name}/dropout", sublayer(norm(f"{name}/norm", x, mask)))
        return norm(f"{name}/norm", x + drop(f"{name}/dropout", sublayer(x)), mask)

    def final_norm(name, x, mask):
        return norm(name, x, mask) if config.norm_position == "pre" else x

    def linear(name, x):
        return x @ p[f"{name}/kernel"] + (p[f"{name}/bias"] if config.attention_bias else 0)

    def split(x):
        return x.reshape(*x.shape[:2], config.num_heads, config.d_model // config.num_heads).swapaxes(1, 2)

    def attention(name, kind, x, memory, visible):
        query, key, value = (
            split(linear(f"{name}/{part}", y)) for part, y in zip(PARTS, (x, memory, memory), strict=True)
        )
        scores = np.where(visible, query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1]), -1e9)
        exponentials = visible * np.exp(scores - scores.max(-1, keepdims=True))
        total = exponentials.sum(-1, keepdims=True)
        weights[kind] = exponentials / np.where(total == 0, 1, total)
        heads = drop(f"{name}/dropout", weights[kind]) @ value
        return linear(f"{name}/output", heads.swapaxes(1, 2).reshape(x.shape))

    def feed_forward(name, x):
        hidden = ACTIVATIONS[config.activation](x @ p[f"{name}/kernel_in"] + p[f"{name}/bias_in"])
        return drop(f"{name}/dropout", hidden) @ p[f"{name}/kernel_out"] + p[f"{name}/bias_out"]

    def encoder_layer(i, x, mask):
        def attend(y):
            return attention(f"encoder/{i}/self_attention", f"encoder/{i}", y, y, mask[:, None, None, :])

        x = add_and_norm(f"encoder/{i}/self_attention_norm", x, mask, attend)
        return add_and_norm(
            f"encoder/{i}/feed_forward_norm", x, mask, lambda y: feed_forward(f"encoder/{i}/feed_forward", y)
        )

    def decoder_layer(i, x, memory, mask):
        def attend_to_past(y):
            past = np.tril(np.ones((y.shape[1], y.shape[1])))
            return attention(f"decoder/{i}/self_attention", f"decoder/{i}", y, y, past)

        def attend_to_source(y):
            return attention(
                f"decoder/{i}/cross_attention", f"cross/{i}", y, memory, batch.source_mask[:, None, None, :]
            )

        x = add_and_norm(f"decoder/{i}/self_attention_norm", x, mask, attend_to_past)
        x = add_and_norm(f"decoder/{i}/cross_attention_norm", x, mask, attend_to_source)
        return add_and_norm(
            f"decoder/{i}/feed_forward_norm", x, mask, lambda y: feed_forward(f"decoder/{i}/feed_forward", y)
        )

    def embed(table, tokens):
        scale = math.sqrt(config.d_model) if config.scale_embeddings else 1
        return p[table][tokens] * scale + positions(config, p)[: tokens.shape[1]]

    source_table, target_table, output_table = {
        "all": ["embedding"] * 3,
        "target": ["source_embedding", "target_embedding", "target_embedding"],
        "none": ["source_embedding", "target_embedding", "output_embedding"],
    }[config.shared_embeddings]

    x = drop("source_dropout", embed(source_table, batch.source))
    for i in range(config.num_encoder_layers):
        x = encoder_layer(i, x, batch.source_mask)
    memory = final_norm("encoder/norm", x, batch.source_mask)
    x = drop("target_dropout", embed(target_table, batch.target_input))
    for i in range(config.num_decoder_layers):
        x = decoder_layer(i, x, memory, batch.target_mask)
    hidden = final_norm("decoder/norm", x, batch.target_mask)
    logits = hidden @ p[output_table].T + (p["logits_bias"] if config.final_logits_bias else 0)

    of_kinds = {
        kind: np.stack([weights[f"{kind}/{i}"] for i in range(layers)])
        for kind, layers in number_of_layers(config).items()
    }
    return Result(logits, of_kinds, stacked(new_stats), smoothed_loss(logits, batch), batch.target_mask.sum())


def number_of_layers(config: ModelConfig) -> dict[str, int]:
    """Of each kind of attention weights."""
    return {
        "encoder": config.num_encoder_layers,
        "decoder": config.num_decoder_layers,
        "cross": config.num_decoder_layers,
    }


def by_layer(arrays: Arrays) -> Arrays:
    """`encoder/layers/...`, whose arrays lead with the axis of layers, as `encoder/0/...`, `encoder/1/...`, ..."""
    found = {}
    for name, array in arrays.items():
        if "/layers/" in name:
            found |= {name.replace("/layers/", f"/{i}/"): layer for i, layer in enumerate(array)}
        else:
            found[name] = array
    return found


def stacked(arrays: Arrays) -> Arrays:
    """The inverse of `by_layer`."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if re.search(r"/\d+/", name):
            found.setdefault(re.sub(r"/\d+/", "/layers/", name), []).append(array)
        else:
            found[name] = array
    return {name: np.stack(array) if isinstance(array, list) else array for name, array in found.items()}


PARTS = ("query", "key", "value")
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def smoothed_loss(logits: np.ndarray, batch: Batch) -> float:
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    true = np.take_along_axis(log_probs, batch.target_output[..., None], axis=-1)[..., 0]
    smoothed = (1 - LABEL_SMOOTHING) * true + LABEL_SMOOTHING * log_probs.mean(-1)
    return -smoothed[batch.target_mask].sum()


def positions(config: ModelConfig, p: Arrays) -> np.ndarray:
    if config.positions == "learned":
        return p["positions"]
    half = config.d_model // 2
    exponent = np.arange(half) / (half - 1 if config.positions == "halved_t2t" else half)
    angle = np.arange(config.max_positions)[:, None] / 10000**exponent
    if config.positions == "interleaved":
        return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(-1, config.d_model)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def by_path(tree: Any) -> Any:
    """{"a": {"b": leaf}} -> {"a/b": leaf}"""
    return flatten_dict(tree, sep="/")


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
    """Three rows, the last of nothing but padding."""
    source, target_input, target_output = np.random.default_rng(1).integers(config.vocabulary_size, size=(3, 3, 8))
    source_mask, target_mask = (np.arange(8) < np.array(lengths)[:, None] for lengths in ([8, 6, 0], [4, 7, 0]))
    row = np.array([4, 0, 7])
    return Batch(source, source_mask, target_input[:, :7], target_output[:, :7], target_mask[:, :7], row)


def quickly_compiled(function: Callable) -> Callable:
    """Jitted, but without optimizing the machine code of each operation: half the time, for arrays so small."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


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

    @quickly_compiled
    def run(params: Any, batch_stats: Any, batch: Batch):
        def loss(params: Any):
            (total, tokens), new_stats = model.apply(
                {"params": params, **batch_stats},
                batch,
                label_smoothing=LABEL_SMOOTHING,
                dropout=key,
                method="loss",
                mutable=list(batch_stats),
            )
            return total, (tokens, new_stats)

        (logits, weights), _ = model.apply(
            {"params": params, **batch_stats},
            *batch[:3],
            batch.target_mask,
            key,
            return_weights=True,
            mutable=list(batch_stats),
        )
        (total, (tokens, new_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return Result(logits, weights, new_stats, total, tokens), gradients

    nested_stats = {"batch_stats": unflatten_dict(stats, sep="/")} if stats else {}
    actual, gradients = jax.device_get(run(unflatten_dict(params, sep="/"), nested_stats, batch))
    actual = actual._replace(batch_stats=by_path(actual.batch_stats.get("batch_stats", {})))

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
    assert case.actual.batch_stats.keys() == case.expected.batch_stats.keys()
    assert bool(case.actual.batch_stats) == (case.config.norm == "batch")
    for name, value in case.expected.batch_stats.items():
        case.assert_close(case.actual.batch_stats[name], value)


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


@pytest.fixture(scope="module")
def paper() -> tuple[Transformer, Any, Batch]:
    return Transformer(TINY), {"params": unflatten_dict(random_variables(TINY)[0], sep="/")}, random_batch(TINY)


def test_weights_are_no_part_of_the_program_unless_asked_for(paper):
    model, variables, batch = paper
    without, asked = (
        jax.make_jaxpr(partial(model.apply, return_weights=asked))(variables, *batch[:3]) for asked in (False, True)
    )
    assert len(without.out_avals) == 1
    assert len(asked.out_avals) == 4
    assert len(without.eqns) == len(asked.eqns)
    assert jax.eval_shape(partial(model.apply, method="encode"), variables, *batch[:2])[1] == {}
    assert jax.eval_shape(model.apply, variables, *batch[:3])[1] == {}


def test_encode_then_decode_is_the_whole(paper):
    model, variables, batch = paper

    @quickly_compiled
    def both(variables, source, source_mask, target):
        apply = partial(model.apply, variables, return_weights=True)
        memory, encoder_weights = apply(source, source_mask, method="encode")
        logits, decoder_weights = apply(target, memory, source_mask, method="decode")
        return (logits, encoder_weights | decoder_weights), apply(source, source_mask, target)

    jax.tree.map(np.testing.assert_array_equal, *both(variables, *batch[:3]))


def test_dropout_depends_on_step_and_row_alone(paper):
    model, variables, batch = paper

    @quickly_compiled
    def logits(variables, step, row, *inputs):
        return model.apply(variables, *inputs, dropout=dropout_key(0, step, row))[0]

    inputs = batch[:3]
    first = logits(variables, 0, batch.row, *inputs)
    np.testing.assert_array_equal(logits(variables, 0, batch.row, *inputs), first)
    assert (logits(variables, 1, batch.row, *inputs) != first).mean() > 0.9
    assert (logits(variables, 0, batch.row + 1, *inputs) != first).mean() > 0.9
    turned = logits(variables, 0, batch.row[::-1], *(array[::-1] for array in inputs))
    np.testing.assert_allclose(turned[::-1], first, atol=1e-5)
