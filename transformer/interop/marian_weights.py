"""Names and shapes of Marian's weights, and reading and writing them as npz."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer import parameters
from transformer.config import ModelConfig
from transformer.errors import InputError, require
from transformer.model import Transformer
from transformer.shapes import Params

SETTINGS = "special:model.yml"
SETTINGS_LIMIT = 2**20  # bytes
RATIO_LIMIT = 20  # a larger share of what an archive declares than of what it holds is no model
Names = dict[tuple[str, ...], str]  # a path in our tree -> Marian's name; `{}` in it is the number of the layer
_PARTS = {"query": "q", "key": "k", "value": "v", "output": "o"}


def names(config: ModelConfig) -> Names:
    """Marian's name for each parameter of a model. Layers are counted from 1, in `{}`."""
    pre = "_pre" if config.norm_position == "pre" else ""
    embeddings: dict[str, Names] = {
        "all": {("embedding",): "Wemb"},
        "target": {("source_embedding",): "encoder_Wemb", ("target_embedding",): "decoder_Wemb"},
        "none": {
            ("source_embedding",): "encoder_Wemb",
            ("target_embedding",): "decoder_Wemb",
            ("output_embedding",): "decoder_ff_logit_out_Wt",
        },
    }
    found = embeddings[config.shared_embeddings]
    if config.final_logits_bias:
        found["logits_bias",] = "decoder_ff_logit_out_b"
    for stack in ("encoder", "decoder"):
        attentions = {"self_attention": "self", "cross_attention": "context"}
        for ours, theirs in attentions.items():
            if stack == "encoder" and ours == "cross_attention":
                continue
            for part, letter in _PARTS.items():
                found[stack, "layers", ours, part, "kernel"] = f"{stack}_l{{}}_{theirs}_W{letter}"
                found[stack, "layers", ours, part, "bias"] = f"{stack}_l{{}}_{theirs}_b{letter}"
            for leaf in ("scale", "bias"):
                found[stack, "layers", f"{ours}_norm", "norm", leaf] = f"{stack}_l{{}}_{theirs}_Wo_ln_{leaf}{pre}"
        for leaf, name in (("kernel_in", "W1"), ("bias_in", "b1"), ("kernel_out", "W2"), ("bias_out", "b2")):
            found[stack, "layers", "feed_forward", leaf] = f"{stack}_l{{}}_ffn_{name}"
        for leaf in ("scale", "bias"):
            found[stack, "layers", "feed_forward_norm", "norm", leaf] = f"{stack}_l{{}}_ffn_ffn_ln_{leaf}{pre}"
            if pre:
                found[stack, "norm", leaf] = f"{stack}_top_ln_{leaf}"
    return found


def to_arrays(config: ModelConfig, params: Params) -> dict[str, np.ndarray]:
    """Converts parameters to Marian's weights, by their names. Vectors are [1, D] there."""
    tree: dict[tuple[str, ...], Any] = flatten_dict(jax.device_get(params["params"]))  # pyright: ignore
    found = {}
    for path, name in names(config).items():
        layers = tree[path] if "layers" in path else [tree[path]]
        for number, leaf in enumerate(layers, start=1):
            found[name.format(number)] = np.atleast_2d(np.asarray(leaf, np.float32))
    return found


def from_arrays(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> Params:
    """Converts Marian's weights to parameters.

    Raises:
        InputError: A weight is missing, is none of the model's, or has another shape.
    """
    arrays, untransposed = dict(arrays), "decoder_ff_logit_out_W"  # as older models have it
    if config.shared_embeddings == "none" and untransposed in arrays:
        arrays["decoder_ff_logit_out_Wt"] = np.ascontiguousarray(arrays.pop(untransposed).T)
    shapes: dict[tuple[str, ...], Any] = flatten_dict(parameters.shapes(Transformer(config))["params"])  # pyright: ignore
    known, tree = names(config), {}
    for path, name in known.items():
        shape = shapes[path].shape
        if "layers" in path:
            layers = [_take(arrays, name.format(number), shape[1:]) for number in range(1, shape[0] + 1)]
            tree[path] = np.stack(layers)
        else:
            tree[path] = _take(arrays, name, shape)
    require(not arrays, f"The model has weights that its configuration does not name: {', '.join(sorted(arrays)[:5])}.")
    return {"params": unflatten_dict(tree)}


def _take(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    require(name in arrays, f"The model lacks the weight {name}, which its configuration needs.")
    array, expected = arrays.pop(name), shape if len(shape) == 2 else (1, *shape)
    require(
        array.shape == expected,
        f"The weight {name} has the shape {list(array.shape)}, but the configuration needs {list(expected)}.",
    )
    return array.reshape(shape)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an npz.

    Raises:
        InputError: The file is not an npz, is damaged, or declares far more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            require(
                size <= RATIO_LIMIT * path.stat().st_size,
                f"{path} is not a model: unpacked, it would have {size / 1e6:,.0f} MB.",
            )
            yield archive
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path} is not a model of Marian, or it is damaged ({error}).") from error


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Reads one array. Objects, which could execute code, are refused.

    Raises:
        InputError: It is not an array of numbers, or is damaged.
    """
    try:
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, KeyError, MemoryError) as error:  # the shape in its header may be any
        raise InputError(f"{archive.filename} is damaged: {name} is not an array of numbers.") from error


def read_weights(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Reads all weights as float32.

    Raises:
        InputError: A weight is damaged, or is quantized.
    """
    found = {}
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        if name == SETTINGS:
            continue
        array = read_array(archive, name)
        require(
            array.dtype in (np.float32, np.float16),
            f"The weight {name} has the type {array.dtype}. Quantized models are not supported.",
        )
        found[name] = array.astype(np.float32)
    return found


def write_archive(path: Path, arrays: Mapping[str, np.ndarray], settings: bytes) -> None:
    """Writes weights and configuration as Marian does, in the order of their names.

    The configuration ends with NUL bytes, up to a multiple of 256.
    """
    padded = settings.ljust((len(settings) // 256 + 1) * 256, b"\0")
    members: dict[str, Any] = {name: arrays[name] for name in sorted(arrays)}
    np.savez(path, allow_pickle=False, **members, **{SETTINGS: np.frombuffer(padded, np.int8)})
