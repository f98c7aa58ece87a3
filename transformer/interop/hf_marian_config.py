"""The config of a run, and `config.json` and `generation_config.json` of Hugging Face's `MarianMTModel`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformer.config import ModelConfig, SearchConfig, TokenizerConfig
from transformer.errors import InputError, require

ACTIVATIONS: dict[str, Any] = {
    "relu": "relu",
    "gelu": "gelu",
    "quick_gelu": "gelu_sigmoid",
    "swish": "swish",
    "silu": "swish",
}
"""Hugging Face's names of activations, and ours. The first of two names is written."""
EPSILON = 1e-5
"""Epsilon of layer norm in a `MarianMTModel`, which has no setting for it."""

# What a field means where config.json does not have it.
_DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu",
    "max_position_embeddings": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "decoder_vocab_size": None,
}
# Variants of the architecture that a config.json may name, and the value that a `MarianMTModel` computes.
_VARIANTS = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "static_position_embeddings": True,
}
_SIZES = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "max_position_embeddings",
)
_LIMIT = 2**24  # no size of a model reaches it, and a wrong one must not use up the memory
_IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")

# Settings of generation, and what each means where no file has it. Those that our search has no counterpart of must
# have this value.
_GENERATION: dict[str, Any] = {
    "num_beams": 1,
    "length_penalty": 1.0,
    "max_length": None,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "num_return_sequences": 1,
}
_UNSUPPORTED: dict[str, Any] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "forced_bos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "penalty_alpha": None,
}


class Settings(NamedTuple):
    """What the JSON files of a model say.

    Attributes:
        model: The architecture, with the positions that Hugging Face computes. Its `target_vocabulary_size` is set if
            the embeddings are not shared.
        tokenizer: The special ids.
        search: The search.
        notes: What the search leaves out, as sentences.
    """

    model: ModelConfig
    tokenizer: TokenizerConfig
    search: SearchConfig
    notes: Sequence[str]


def read_settings(config: Mapping[str, Any], generation: Mapping[str, Any]) -> Settings:
    """Converts the settings of a `MarianMTModel`.

    Args:
        config: The values of `config.json`.
        generation: The values of `generation_config.json`; empty if there is none. Older models have them in
            `config.json`.

    Raises:
        InputError: This is no Marian model, a value is missing or is not valid, or the architecture is not supported.
    """
    kind = config.get("model_type")
    require(kind == "marian", f"model_type in config.json is {kind!r:.200}, but only 'marian' can be imported.")
    values = _DEFAULTS | dict(config)
    for name in (*_SIZES, *_IDS):
        require(
            type(values.get(name)) is int and 0 <= values[name] < _LIMIT,
            f"{name} in config.json must be an integer from 0 to {_LIMIT - 1}, but is "
            f"{values.get(name, 'missing')!s:.200}.",
        )
    for name, computed in _VARIANTS.items():
        given = values.get(name, computed)
        require(
            given is computed, f"config.json has {name}={given!s:.200}, which is not supported (only {computed} is)."
        )
    model = _model(values)
    search, notes = _search(_GENERATION | _given(config) | _given(generation), model, values["pad_token_id"])
    ids = TokenizerConfig(
        pad_id=values["pad_token_id"], start_id=values["decoder_start_token_id"], end_id=values["eos_token_id"]
    )
    return Settings(model, ids, search, notes)


def _model(values: Mapping[str, Any]) -> ModelConfig:
    for size in ("attention_heads", "ffn_dim"):
        encoder, decoder = values[f"encoder_{size}"], values[f"decoder_{size}"]
        require(
            encoder == decoder,
            f"The encoder and the decoder of this model differ in {size} ({encoder} and {decoder}), which is not "
            "supported.",
        )
    activation = values["activation_function"]
    require(
        activation in ACTIVATIONS,
        f"activation_function in config.json is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}.",
    )
    try:
        return ModelConfig(
            vocabulary_size=values["vocab_size"],
            target_vocabulary_size=_target_size(values),
            d_model=values["d_model"],
            num_heads=values["encoder_attention_heads"],
            d_ff=values["encoder_ffn_dim"],
            num_encoder_layers=values["encoder_layers"],
            num_decoder_layers=values["decoder_layers"],
            activation=ACTIVATIONS[activation],
            norm_epsilon=EPSILON,
            positions="halved",
            max_positions=values["max_position_embeddings"],
            attention_bias=True,
            shared_embeddings=_sharing(values),
            scale_embeddings=values["scale_embedding"],
            final_logits_bias=True,
            dropout=float(values["dropout"]),
            attention_dropout=float(values["attention_dropout"]),
            activation_dropout=float(values["activation_dropout"]),
            dtype="float32",
        )
    except (TypeError, ValueError, OverflowError) as error:  # also InputError
        raise InputError(f"config.json is not valid: {error}") from error


def _sharing(values: Mapping[str, Any]) -> Any:
    """The value of `model.shared_embeddings`.

    Hugging Face ties the output layer to the target's embedding, whether or not this is the source's as well.
    """
    if not values["tie_word_embeddings"]:
        return "none"
    return "all" if values["share_encoder_decoder_embeddings"] else "target"


def _target_size(values: Mapping[str, Any]) -> int | None:
    """The value of `model.target_vocabulary_size`."""
    if values["share_encoder_decoder_embeddings"]:
        return None
    return values["vocab_size"] if values["decoder_vocab_size"] is None else values["decoder_vocab_size"]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of generation among `values`; null is the same as none."""
    names = {*_GENERATION, *_UNSUPPORTED, "bad_words_ids"}
    return {name: value for name, value in values.items() if name in names and value is not None}


def _search(values: Mapping[str, Any], model: ModelConfig, pad_id: int) -> tuple[SearchConfig, list[str]]:
    """Converts the settings of generation.

    Hugging Face's lengths include the start token, and ours do not. The length of its source limits no translation.
    """
    longest, new = values["max_length"], values["max_new_tokens"]
    try:
        limit = new if new is not None else None if longest is None else max(longest - 1, 1)
        shortest = values["min_length"] if values["min_new_tokens"] is None else values["min_new_tokens"] + 1
        limit = model.max_positions if limit is None else min(limit, model.max_positions)
        search = SearchConfig(
            beam_size=values["num_beams"],
            length_penalty=max(float(values["length_penalty"]), 0.0),
            length_penalty_form="power",
            extra_length=limit,
            min_length=min(max(shortest - 1, 0), limit),
            max_length=limit,
            no_repeat_ngram=values["no_repeat_ngram_size"],
            repetition_penalty=float(values["repetition_penalty"]),
            num_best=values["num_return_sequences"],
        )
    except (TypeError, ValueError, OverflowError) as error:  # also InputError
        raise InputError(f"The settings of generation are not valid: {error}") from error
    left_out = [name for name, neutral in _UNSUPPORTED.items() if values.get(name, neutral) != neutral]
    left_out += ["bad_words_ids"] * (values.get("bad_words_ids", [[pad_id]]) != [[pad_id]])
    left_out += ["length_penalty"] * (values["length_penalty"] < 0)
    return search, [f"The search has no counterpart of {name} in the settings of generation." for name in left_out]


def config_values(model: ModelConfig, ids: TokenizerConfig) -> dict[str, Any]:
    """Makes the values of `config.json`.

    Args:
        model: An architecture that a `MarianMTModel` can express.
        ids: The special ids.
    """
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == model.activation)
    sides: dict[str, Any] = {}
    for side, layers in (("encoder", model.num_encoder_layers), ("decoder", model.num_decoder_layers)):
        sides |= {f"{side}_layers": layers, f"{side}_attention_heads": model.num_heads}
        sides |= {f"{side}_ffn_dim": model.d_ff, f"{side}_layerdrop": 0.0}
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": model.vocabulary_size,
        "decoder_vocab_size": model.target_size,
        "d_model": model.d_model,
        **sides,
        "activation_function": activation,
        "max_position_embeddings": model.max_positions,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.activation_dropout,
        "scale_embedding": model.scale_embeddings,
        "share_encoder_decoder_embeddings": model.shared_embeddings == "all",
        "tie_word_embeddings": model.shared_embeddings != "none",
        "pad_token_id": ids.pad_id,
        "eos_token_id": ids.end_id,
        "forced_eos_token_id": ids.end_id,
        "bos_token_id": None,
        "decoder_start_token_id": ids.start_id,
        "use_cache": True,
        "dtype": "float32",
    }


def generation_values(search: SearchConfig, ids: TokenizerConfig, positions: int) -> dict[str, Any]:
    """Makes the values of `generation_config.json`.

    Args:
        search: The search of the run.
        ids: The special ids.
        positions: Number of positions of the model.
    """
    longest = min(search.max_length or positions, positions)
    values = {
        "num_beams": search.beam_size,
        "max_length": longest + 1,  # with the start token
        "min_length": search.min_length + 1 if search.min_length else 0,
        "no_repeat_ngram_size": search.no_repeat_ngram,
        "repetition_penalty": search.repetition_penalty,
        "num_return_sequences": search.num_best,
        "bad_words_ids": [[index] for index in sorted({ids.pad_id, ids.start_id})],
        "pad_token_id": ids.pad_id,
        "eos_token_id": ids.end_id,
        "forced_eos_token_id": ids.end_id,
        "decoder_start_token_id": ids.start_id,
    }
    if search.beam_size > 1:  # `never` stops a search where ours stops
        values |= {"length_penalty": search.length_penalty, "early_stopping": "never"}
    return values
