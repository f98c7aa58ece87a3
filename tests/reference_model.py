"""The whole model in float64 NumPy, written anew and plainly: what `test_model.py` holds ours against."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from transformer.config import ModelConfig
from transformer.shapes import Batch

LABEL_SMOOTHING = 0.1
Arrays = dict[str, np.ndarray]  # parameters or running statistics by their path


class Result(NamedTuple):
    logits: Any
    weights: Any
    statistics: Any
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
    """Figure 1 and every variant that the config knows; `drop` is dropout of a named site."""
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
        if config.positions == "rotary" and not kind.startswith("cross"):
            query, key = rotated(query), rotated(key)
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

    def embed(table, tokens, start="token"):
        scale = math.sqrt(config.d_model) if config.scale_embeddings else 1
        embedded = p[table][np.minimum(tokens, len(p[table]) - 1)] * scale
        embedded[:, : start == "zeros"] = 0
        return embedded + positions(config, p)[: tokens.shape[1]]

    source_table, target_table, output_table = {
        "all": ["embedding"] * 3,
        "target": ["source_embedding", "target_embedding", "target_embedding"],
        "none": ["source_embedding", "target_embedding", "output_embedding"],
    }[config.shared_embeddings]

    x = drop("source_dropout", embed(source_table, batch.source))
    for i in range(config.num_encoder_layers):
        x = encoder_layer(i, x, batch.source_mask)
    memory = final_norm("encoder/norm", x, batch.source_mask)
    x = drop("target_dropout", embed(target_table, batch.target_input, config.decoder_start))
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
    "gelu_sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def smoothed_loss(logits: np.ndarray, batch: Batch) -> float:
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.minimum(batch.target_output, logits.shape[-1] - 1)  # padding may have no id
    true = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    smoothed = (1 - LABEL_SMOOTHING) * true + LABEL_SMOOTHING * log_probs.mean(-1)
    return -smoothed[batch.target_mask].sum()


def rotated(heads: np.ndarray) -> np.ndarray:
    """Each pair of features as a complex number, turned by its angle."""
    length, size = heads.shape[-2:]
    angle = np.arange(length)[:, None] / 10000 ** (np.arange(0, size, 2) / size)
    turned = (heads[..., 0::2] + 1j * heads[..., 1::2]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], -1).reshape(heads.shape)


def positions(config: ModelConfig, p: Arrays) -> np.ndarray:
    """What is added to the embeddings."""
    if config.positions == "rotary":
        return np.zeros((config.max_positions, config.d_model))
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
