"""Marian's configuration as a `ModelConfig`, and back."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from transformer.config import ModelConfig
from transformer.errors import InputError, require

# What this package does not compute: each setting, and the values that it may have. Without the setting, it is fine.
_OFF = (None, False, "", 0)
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-ffn-depth": (2,),
    "transformer-decoder-ffn-depth": (0, 2),
    "transformer-attention-mask": ("default",),
    "factors-combine": ("sum",),
    "input-types": ([], None),
    "transformer-tied-layers": ([], None),
    **dict.fromkeys(
        (
            "factors-dim-emb",
            "lemma-dependency",
            "lemma-dim-emb",
            "right-left",
            "tied-embeddings-src",
            "transformer-no-projection",
            "transformer-rnn-projection",
            "transformer-pool",
            "transformer-train-position-embeddings",
            "transformer-disable-position-embeddings",
            "transformer-no-bias",
            "transformer-no-affine",
            "transformer-alibi-trainable",
        ),
        _OFF,
    ),
}
_NAMES = {
    "rnn": "an RNN or SSRU decoder",
    "average-attention": "an average attention network (aan)",
}
_ACTIVATIONS = {"relu": "relu", "swish": "swish", "gelu": "gelu_sigmoid"}
_VERSION_BEFORE_ERF = (1, 12, 0)  # the last release whose gelu is x sigmoid(1.702 x); later ones compute it by erf


def read_settings(content: bytes, name: str) -> dict[str, Any]:
    """Parses a configuration of Marian.

    Args:
        content: The YAML. Everything from the first NUL on is padding.
        name: Its name, for messages.

    Raises:
        InputError: It is not YAML, or does not consist of settings.
    """
    try:
        settings = yaml.safe_load(content.partition(b"\0")[0].decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also numbers of too many digits
        raise InputError(f"{name} is not a configuration of Marian: it is not valid YAML.") from error
    require(isinstance(settings, dict), f"{name} is not a configuration of Marian: it has no settings.")
    return settings


def model_config(settings: Mapping[str, Any]) -> ModelConfig:
    """Makes the architecture that a configuration of Marian describes.

    Raises:
        InputError: A setting is missing, or is not supported.
    """
    for name, allowed in _ONLY.items():
        value = settings.get(name, allowed[0])
        if value not in allowed:
            known = _NAMES.get(str(value), f"{name}: {value}")
            raise InputError(f"Cannot import this model of Marian: {known} is not supported ({name}).")
    d_ff = _setting(settings, "transformer-dim-ffn", int)
    require(
        settings.get("transformer-decoder-dim-ffn", 0) in (0, d_ff),
        "Cannot import this model of Marian: a decoder with another transformer-decoder-dim-ffn is not supported.",
    )
    sizes = _setting(settings, "dim-vocabs", list)
    require(
        len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes),
        f"Cannot import this model of Marian: dim-vocabs must be two numbers of tokens, but is {sizes}.",
    )
    tied_all, tied = settings.get("tied-embeddings-all", False), settings.get("tied-embeddings", False)
    return ModelConfig(
        vocabulary_size=sizes[0],
        target_vocabulary_size=None if tied_all or sizes[0] == sizes[1] else sizes[1],
        d_model=_setting(settings, "dim-emb", int),
        num_heads=_setting(settings, "transformer-heads", int),
        d_ff=d_ff,
        num_encoder_layers=_setting(settings, "enc-depth", int),
        num_decoder_layers=_setting(settings, "dec-depth", int),
        activation=_activation(settings),  # pyright: ignore[reportArgumentType]
        norm_position=_norm_position(settings),  # pyright: ignore[reportArgumentType]
        norm_epsilon=1e-6,
        positions="halved_t2t",
        attention_bias=True,
        shared_embeddings="all" if tied_all else "target" if tied else "none",
        final_logits_bias=not settings.get("output-omit-bias", False),
        decoder_start="zeros",
        dropout=float(settings.get("transformer-dropout", 0.0)),
        attention_dropout=float(settings.get("transformer-dropout-attention", 0.0)),
        activation_dropout=float(settings.get("transformer-dropout-ffn", 0.0)),
        dtype="float32",
    )


def _activation(settings: Mapping[str, Any]) -> str:
    """The name of the activation here. That of gelu depends on the version of Marian that trained the model."""
    activation = settings.get("transformer-ffn-activation", "swish")
    require(
        activation in _ACTIVATIONS, f"Cannot import this model of Marian: activation {activation} is not supported."
    )
    version = re.match(r"v?(\d+)\.(\d+)\.(\d+)", str(settings.get("version", "")))
    if activation == "gelu" and version and tuple(map(int, version.groups())) > _VERSION_BEFORE_ERF:
        return "gelu"
    return _ACTIVATIONS[activation]


def _setting(settings: Mapping[str, Any], name: str, kind: type) -> Any:
    value = settings.get(name)
    if type(value) is not kind:
        raise InputError(f"Cannot import this model of Marian: its configuration must give {name}, but has {value!r}.")
    return value


def _norm_position(settings: Mapping[str, Any]) -> str:
    """Dropout, `d`, is left out: it is a setting of its own here, and does nothing in translation."""
    names = ("transformer-preprocess", "transformer-postprocess", "transformer-postprocess-top")
    given = [str(settings.get(name) or "").replace("d", "") for name in (*names, "transformer-postprocess-emb")]
    for position, process in (("post", ["", "an", "", ""]), ("pre", ["n", "a", "n", ""])):
        if given == process:
            return position
    listed = ", ".join(f"{name}: {settings.get(name)!r}" for name in (*names, "transformer-postprocess-emb"))
    raise InputError(f"Cannot import this model of Marian: this order of operations is not supported ({listed}).")


def to_settings(config: ModelConfig) -> dict[str, Any]:
    """Makes the configuration of Marian that describes an architecture.

    Raises:
        InputError: Marian cannot compute this architecture.
    """
    needed = {
        "norm": "layer",
        "norm_epsilon": 1e-6,
        "positions": "halved_t2t",
        "attention_bias": True,
        "decoder_start": "zeros",
        "scale_embeddings": True,
    }
    for name, value in needed.items():
        if getattr(config, name) != value:
            raise InputError(
                f"Marian cannot compute this model: it needs model.{name}={value}, but the run has "
                f"{getattr(config, name)}."
            )
    activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()} | {"gelu": "gelu"}
    is_pre = config.norm_position == "pre"
    return {
        "type": "transformer",
        "dim-vocabs": [config.vocabulary_size, config.target_size],
        "dim-emb": config.d_model,
        "enc-depth": config.num_encoder_layers,
        "dec-depth": config.num_decoder_layers,
        "tied-embeddings": config.shared_embeddings == "target",
        "tied-embeddings-src": False,
        "tied-embeddings-all": config.shared_embeddings == "all",
        "output-omit-bias": not config.final_logits_bias,
        "transformer-heads": config.num_heads,
        "transformer-dim-ffn": config.d_ff,
        "transformer-ffn-activation": activations[config.activation],
        "transformer-decoder-autoreg": "self-attention",
        "transformer-preprocess": "n" if is_pre else "",
        "transformer-postprocess-emb": "d",
        "transformer-postprocess": "da" if is_pre else "dan",
        "transformer-postprocess-top": "n" if is_pre else "",
        "version": "v1.12.42" if config.activation == "gelu" else "v1.12.0",
    }


def write_settings(settings: Mapping[str, Any]) -> bytes:
    """Formats a configuration of Marian as YAML."""
    return yaml.safe_dump(dict(settings), sort_keys=False).encode()
