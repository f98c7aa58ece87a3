"""Parameters of a model, and tensors of Hugging Face's `MarianMTModel`.

Both have the same numbers under other names: `LAYER` says which. Hugging Face stores each kernel as [out, in] and each
layer separately, where ours are [in, out] with a leading axis of layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.config import ModelConfig
from transformer.errors import require
from transformer.model import Transformer
from transformer.ops.positions import sinusoidal_positions
from transformer.parameters import shapes
from transformer.shapes import Params

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
_PARTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LAYER = {
    "feed_forward/kernel_in": "fc1.weight",
    "feed_forward/bias_in": "fc1.bias",
    "feed_forward/kernel_out": "fc2.weight",
    "feed_forward/bias_out": "fc2.bias",
    **{
        f"{ours}/{projection}/{part}": f"{theirs}.{_ATTENTION[projection]}.{_PARTS[part]}"
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn"))
        for projection in _ATTENTION
        for part in ("kernel", "bias")
    },
    **{
        f"{ours}_norm/norm/{part}": f"{theirs}_layer_norm.{_PARTS[part]}"
        for ours, theirs in (
            ("self_attention", "self_attn"),
            ("cross_attention", "encoder_attn"),
            ("feed_forward", "final"),
        )
        for part in ("scale", "bias")
    },
}
"""Names of a layer's parameters, ours and Hugging Face's. The encoder has no cross-attention."""

_SOURCE, _TARGET, _OUTPUT = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"
_SHARED, _BIAS = "model.shared.weight", "final_logits_bias"
_TABLES = {
    "embedding": (_SHARED, _SOURCE, _TARGET, _OUTPUT),
    "source_embedding": (_SOURCE,),
    "target_embedding": (_TARGET, _OUTPUT),
    "output_embedding": (_OUTPUT,),
}
"""The names that an embedding may have. The first is written; a file may have several, which are equal."""
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
"""Tables that Hugging Face computes, unless the file has them."""


def to_params(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Converts the tensors of a file to parameters in float32.

    Args:
        tensors: The tensors by name, in any floating-point dtype.
        config: Architecture of the model, with `final_logits_bias` set.

    Returns:
        The tree that `Transformer.apply` takes first.

    Raises:
        InputError: A tensor is missing, is unknown, or has another shape than the config says. The message names
            it.
    """
    tables = _tables_of(tensors, config)
    known = {*POSITIONS, *({_SHARED} if config.shared_embeddings == "none" else ())}

    def tensor(names: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        present = [name for name in names if name in tensors]
        require(bool(present), f"The tensor {names[0]} is missing.")
        known.update(present)
        for name in present:
            _check(name, tensors[name], shape)
        for name in present[1:]:
            require(
                np.array_equal(tensors[name], tensors[present[0]]),
                f"The tensors {present[0]} and {name} differ, but the config says that they are one.",
            )
        return tensors[present[0]].astype(np.float32)

    flat: dict[str, np.ndarray] = {}
    expected: Any = flatten_dict(shapes(Transformer(config))["params"], sep="/")
    for path, like in expected.items():
        if path in tables:
            flat[path] = tensor(tables[path], like.shape)
        elif path == "logits_bias":
            flat[path] = tensor((_BIAS,), (1, *like.shape))[0] if _BIAS in tensors else np.zeros(like.shape, np.float32)
        else:
            stack, layer = path.split("/layers/")
            shape = like.shape[:0:-1] if "/kernel" in layer else like.shape[1:]
            names = (f"model.{stack}.layers.{index}.{LAYER[layer]}" for index in range(like.shape[0]))
            flat[path] = np.stack([tensor((name,), shape).T for name in names])
    surplus = sorted(tensors.keys() - known)
    require(not surplus, f"The tensor {', '.join(surplus[:3])} is unknown to the model that the config describes.")
    return {"params": unflatten_dict(flat, sep="/")}


def _tables_of(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The names of the embeddings.

    If the output layer is not tied, nothing is. A file may still have a shared embedding, which counts only where a
    side has none of its own.
    """
    tables: dict[str, tuple[str, ...]] = dict(_TABLES)
    if config.positions == "learned":
        tables["positions"] = POSITIONS
    if config.shared_embeddings == "none":
        own = (("source_embedding", _SOURCE), ("target_embedding", _TARGET))
        tables |= {path: (name if name in tensors else _SHARED,) for path, name in own}
    return tables


def _check(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> None:
    require(
        tensor.shape == shape, f"The tensor {name} has the shape {[*tensor.shape]}, but the config says {[*shape]}."
    )


def layout_of(tensors: Mapping[str, np.ndarray], rows: int, d_model: int) -> Any:
    """The value of `model.positions` that gives a file's tables of positions.

    Args:
        tensors: The tensors of the file. Without tables, Hugging Face computes `halved`.
        rows: Number of positions.
        d_model: Width of the model.

    Returns:
        The layout whose table is equal up to the rounding of bfloat16, or `learned`.

    Raises:
        InputError: A table has another shape.
    """
    present = [name for name in POSITIONS if name in tensors]
    if not present:
        return "halved"
    for name in present:
        _check(name, tensors[name], (rows, d_model))
    for layout in ("halved", "halved_t2t", "interleaved"):
        table = np.asarray(sinusoidal_positions(rows, d_model, layout))
        if all(np.allclose(tensors[name].astype(np.float32), table, rtol=0, atol=5e-3) for name in present):
            return layout
    return "learned"


def to_tensors(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Converts parameters to the tensors of a `MarianMTModel`, in float32.

    Biases that the model lacks are zeros. Positions in `interleaved` order become `halved` by reordering the features
    of the residual stream, which changes no logit. Other tables than `halved` are written, because Hugging Face reads
    them where the file has them.

    Args:
        params: The tree that `Transformer.apply` takes first.
        config: Architecture of the model, which a `MarianMTModel` can express.

    Returns:
        The tensors by name.
    """
    given: Any = flatten_dict(params["params"], sep="/")
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in given.items()}
    if config.positions == "interleaved":
        flat = {path: _halved(path, leaf) for path, leaf in flat.items()}
    tensors = {names[0]: flat[path] for path, names in _TABLES.items() if path in flat}
    output = flat[
        {"all": "embedding", "target": "target_embedding", "none": "output_embedding"}[config.shared_embeddings]
    ]
    tensors[_BIAS] = flat.get("logits_bias", np.zeros(len(output), np.float32))[None]
    if config.positions == "learned":
        tensors |= dict.fromkeys(POSITIONS, flat["positions"])
    elif config.positions == "halved_t2t":
        table = np.asarray(sinusoidal_positions(config.max_positions, config.d_model, "halved_t2t"))
        tensors |= dict.fromkeys(POSITIONS, table)
    for stack, number in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        for index in range(number):
            for name, tensor in _layer(flat, stack, index):
                tensors[f"model.{stack}.layers.{index}.{name}"] = tensor
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _layer(flat: Mapping[str, np.ndarray], stack: str, index: int) -> Iterator[tuple[str, np.ndarray]]:
    for ours, theirs in LAYER.items():
        path = f"{stack}/layers/{ours}"
        if path in flat:
            yield theirs, flat[path][index].T
        elif ours.endswith("/bias") and (kernel := f"{path.removesuffix('bias')}kernel") in flat:
            yield theirs, np.zeros(flat[kernel].shape[-1], np.float32)


def _halved(path: str, leaf: np.ndarray) -> np.ndarray:
    """Reorders the features of the residual stream: those at even indices first."""
    *_, module, name = "", *path.split("/")
    if path == "logits_bias" or name == "bias_in" or (name == "bias" and module in ("query", "key", "value")):
        return leaf
    reads = name == "kernel_in" or (name == "kernel" and module in ("query", "key", "value"))
    axis = leaf.ndim - (2 if reads else 1)
    size = leaf.shape[axis]
    return leaf.take(np.r_[0:size:2, 1:size:2], axis)
