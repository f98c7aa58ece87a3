"""The whole model against a second one in float64 NumPy, with every knob of `ModelConfig` turned at least once."""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.dropout import dropout, dropout_key
from transformer.shapes import Batch
from transformer.training.step import batch_loss

TINY = ModelConfig(
    vocabulary_size=19,
    d_model=8,
    num_heads=2,
    d_ff=12,
    num_encoder_layers=1,
    num_decoder_layers=1,
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
    },
    "rms": {
        "norm": "rms",
        "norm_position": "pre",
        "norm_epsilon": 1e-2,
        "activation": "swish",
        "shared_embeddings": "none",
        "scale_embeddings": False,
    },
    "batch": {"norm": "batch", "positions": "learned", "num_encoder_layers": 1, "num_decoder_layers": 2},
    "marian": {
        "norm_epsilon": 1e-5,
        "activation": "swish",
        "positions": "halved",
        "attention_bias": True,
        "final_logits_bias": True,
        "num_heads": 4,
    },
}
LABEL_SMOOTHING = 0.1
KEY = dropout_key(seed=3, step=5, row=jnp.array([4, 0, 7]))
Arrays = dict[str, np.ndarray]  # parameters or running statistics by their path


class Result(NamedTuple):
    logits: Any
    weights: Any
    batch_stats: Any
    loss: Any


def reference(
    config: ModelConfig,
    p: Arrays,
    stats: Arrays,
    batch: Batch,
    training: bool,
    drop: Callable[[str, np.ndarray], np.ndarray],
) -> Result:
    """Figure 1 and every variant that the config knows, written anew and plainly; `drop` is dropout of a named site."""
    weights, new_stats = {}, dict(stats)

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
        query, key, value = (split(linear(f"{name}/{part}", y)) for part, y in zip(PARTS, (x, memory, memory)))
        exponentials = visible * np.exp(query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1]))
        total = exponentials.sum(-1, keepdims=True)
        weights[kind] = exponentials / np.where(total == 0, 1, total)
        heads = drop(f"{name}/dropout", weights[kind]) @ value
        return linear(f"{name}/output", heads.swapaxes(1, 2).reshape(x.shape))

    def feed_forward(name, x):
        hidden = ACTIVATIONS[config.activation](x @ p[f"{name}/kernel_in"] + p[f"{name}/bias_in"])
        return drop(f"{name}/dropout", hidden) @ p[f"{name}/kernel_out"] + p[f"{name}/bias_out"]

    def encoder_layer(i, x, mask):
        def attend(y):
            return attention(f"encoder_{i}/attention", f"encoder/{i}", y, y, mask[:, None, None, :])

        x = add_and_norm(f"encoder_{i}/attention_norm", x, mask, attend)
        return add_and_norm(
            f"encoder_{i}/feed_forward_norm", x, mask, lambda y: feed_forward(f"encoder_{i}/feed_forward", y)
        )

    def decoder_layer(i, x, memory, mask):
        def attend_to_past(y):
            past = np.tril(np.ones((y.shape[1], y.shape[1])))
            return attention(f"decoder_{i}/self_attention", f"decoder/{i}", y, y, past)

        def attend_to_source(y):
            return attention(
                f"decoder_{i}/cross_attention", f"cross/{i}", y, memory, batch.source_mask[:, None, None, :]
            )

        x = add_and_norm(f"decoder_{i}/self_attention_norm", x, mask, attend_to_past)
        x = add_and_norm(f"decoder_{i}/cross_attention_norm", x, mask, attend_to_source)
        return add_and_norm(
            f"decoder_{i}/feed_forward_norm", x, mask, lambda y: feed_forward(f"decoder_{i}/feed_forward", y)
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
    memory = final_norm("encoder_norm", x, batch.source_mask)
    x = drop("target_dropout", embed(target_table, batch.target_input))
    for i in range(config.num_decoder_layers):
        x = decoder_layer(i, x, memory, batch.target_mask)
    hidden = final_norm("decoder_norm", x, batch.target_mask)
    logits = hidden @ p[output_table].T + (p["logits_bias"] if config.final_logits_bias else 0)

    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = (1 - LABEL_SMOOTHING) * np.eye(config.vocabulary_size)[batch.target_output]
    wanted += LABEL_SMOOTHING / config.vocabulary_size
    return Result(logits, weights, new_stats, -(wanted * log_probs).sum(-1)[batch.target_mask].sum())


PARTS = ("query", "key", "value")
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def positions(config: ModelConfig, p: Arrays) -> np.ndarray:
    if config.positions == "learned":
        return p["positions"]
    half = config.d_model // 2
    exponent = np.arange(half) / (half - 1 if config.positions == "halved_t2t" else half)
    angle = np.arange(config.max_positions)[:, None] / 10000**exponent
    if config.positions == "interleaved":
        return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(-1, config.d_model)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def random_variables(config: ModelConfig) -> tuple[Arrays, Arrays]:
    """Parameters and running statistics, none of them at its neutral value."""
    rng = np.random.default_rng(0)
    token, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    variables = jax.eval_shape(Transformer(config).init, jax.random.key(0), token, mask, token)
    params, stats = {}, {}
    for name, leaf in flatten_dict(variables["params"], sep="/").items():
        deviation = 0.4 if leaf.ndim == 2 else 0.2
        params[name] = (name.endswith("/scale") + deviation * rng.normal(size=leaf.shape)).astype(np.float32)
    for name, leaf in flatten_dict(variables.get("batch_stats", {}), sep="/").items():
        draw = rng.uniform(0.5, 2, leaf.shape) if name.endswith("/variance") else rng.normal(size=leaf.shape)
        stats[name] = draw.astype(np.float32)
    return params, stats


def random_batch(config: ModelConfig) -> Batch:
    """Three rows, the last of nothing but padding."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(config.vocabulary_size, size=(3, 3, 5))
    source_mask, target_mask = (np.arange(5) < np.array(lengths)[:, None] for lengths in ([5, 3, 0], [2, 4, 0]))
    return Batch(tokens[0], source_mask, tokens[1, :, :4], tokens[2, :, :4], target_mask[:, :4], np.arange(3))


class Case(NamedTuple):
    config: ModelConfig
    dtype: str
    training: bool
    batch: Batch
    params: Arrays
    result: Result
    gradients: Arrays
    expected: Result
    expected_loss: Callable[[Arrays], float]


CASES = [
    ("paper", "float32", False),
    ("pre", "float32", True),
    ("rms", "float32", False),
    ("marian", "float32", True),
    ("batch", "float32", False),
    ("batch", "float32", True),
    ("paper", "bfloat16", True),
    ("pre", "bfloat16", False),
    ("batch", "bfloat16", True),
]


def quickly_compiled(function: Callable) -> Callable:
    """Jitted as always, but the machine code of the operations is not optimized, which takes half the time here."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case[:2]) + "-training" * case[2])
def case(request: pytest.FixtureRequest) -> Case:
    """One model, run once by us, compiled in one piece, and made ready to be run by the reference."""
    variant, dtype, training = request.param
    config = dataclasses.replace(TINY, **VARIANTS[variant])
    model, batch, (params, stats) = Transformer(config, jnp.dtype(dtype)), random_batch(config), random_variables(config)
    key = KEY if training else None

    @quickly_compiled
    def run(params: Any, batch_stats: Any, batch: Batch):
        (logits, weights), _ = model.apply(
            {"params": params, **batch_stats},
            *batch[:3],
            batch.target_mask,
            key,
            return_weights=True,
            mutable=list(batch_stats),
        )
        (loss, (_, new_stats)), gradients = jax.value_and_grad(
            lambda p: batch_loss(model, p, batch_stats, batch, label_smoothing=LABEL_SMOOTHING, dropout=key),
            has_aux=True,
        )(params)
        return Result(logits, weights, new_stats, loss), gradients

    nested_stats = {"batch_stats": unflatten_dict(stats, sep="/")} if stats else {}
    result, gradients = jax.device_get(run(unflatten_dict(params, sep="/"), nested_stats, batch))
    result = result._replace(batch_stats=flatten_dict(result.batch_stats.get("batch_stats", {}), sep="/"))

    def drop(name: str, x: np.ndarray) -> np.ndarray:
        part = name.split("/")[-2] if "/" in name else ""
        rate = config.dropout
        if part == "feed_forward":
            rate = config.activation_dropout
        elif part.endswith("attention"):
            rate = config.attention_dropout
        site = zlib.crc32(name.encode()) >> 1
        return x * np.asarray(dropout(jnp.ones(x.shape), rate, KEY, site)) if training else x

    exact = [{name: leaf.astype(np.float64) for name, leaf in leaves.items()} for leaves in (params, stats)]
    return Case(
        config,
        dtype,
        training,
        batch,
        exact[0],
        result,
        flatten_dict(gradients, sep="/"),
        reference(config, *exact, batch, training, drop),
        lambda changed: reference(config, changed, exact[1], batch, training, drop).loss,
    )


def test_x(case):
    r, e = case.result, case.expected
    print("logits", np.abs(r.logits - e.logits).max() / np.abs(e.logits).max())
    print("loss", r.loss, e.loss)
    for k in e.weights: print(k, np.abs(r.weights[k] - e.weights[k]).max())
    for k in e.batch_stats: print(k, np.abs(r.batch_stats[k] - e.batch_stats[k]).max())
    rng = np.random.default_rng(2)
    total = np.sqrt(sum((g**2).sum() for g in case.gradients.values()))
    out=[]
    for name, g in case.gradients.items():
        d = rng.normal(size=g.shape)
        s = (case.expected_loss({**case.params, name: case.params[name] + 1e-6 * d}) - case.expected_loss({**case.params, name: case.params[name] - 1e-6 * d})) / 2e-6
        a = (d * g).sum()
        out.append((abs(a-s)/np.linalg.norm(g), abs(a-s)/total, np.linalg.norm(g)/total, name, a, s))
    out.sort(key=lambda t: t[0]); print(total); [print(*o) for o in out[-4:]]
    out.sort(key=lambda t: t[1]); [print(*o) for o in out[-4:]]
    assert 0
