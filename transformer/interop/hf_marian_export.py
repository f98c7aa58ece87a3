"""Writing a run in the format of Hugging Face's `MarianMTModel`."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.config import Config, ModelConfig, SearchConfig, TokenizerConfig
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import require
from transformer.files import as_json
from transformer.interop.hf_marian_config import EPSILON, config_values, generation_values
from transformer.interop.hf_marian_tokenizer import tokenizer_files
from transformer.interop.hf_marian_weights import to_tensors
from transformer.interop.tensor_files import SAFETENSORS
from transformer.ops.positions import sinusoidal_positions
from transformer.runtime import require_package
from transformer.shapes import Params

_NEVER = -1e9  # bias of a token that no translation contains


class Exported(NamedTuple):
    """A run in another format.

    Attributes:
        files: The contents of the files, by name.
        notes: What differs between the run and its export, as sentences.
    """

    files: dict[str, bytes]
    notes: Sequence[str]


def export_hf_marian(config: Config, tokenizer: Tokenizer, params: Params) -> Exported:
    """Makes the files that `MarianMTModel.from_pretrained` and `AutoTokenizer.from_pretrained` read.

    Args:
        config: The config of the run.
        tokenizer: Its tokenizer.
        params: Its parameters, the tree that `Transformer.apply` takes first.

    Raises:
        InputError: A `MarianMTModel` cannot express the architecture, or the package safetensors is missing.
    """
    require_package("safetensors")
    from safetensors.numpy import save

    check_expressible(config)
    model, ids, params = with_start_token(config, params)
    languages = {"source_lang": config.data.source_language, "target_lang": config.data.target_language}
    files = {
        "config.json": as_json(config_values(model, ids)),
        "generation_config.json": as_json(generation_values(config.search, ids, model.max_positions)),
        **tokenizer_files(tokenizer, ids, {**languages, "model_max_length": model.max_positions}),
        SAFETENSORS: save(to_tensors(params, model), {"format": "pt"}),
    }
    notes = [*_model_differences(config.model), *_search_differences(config.search, model.max_positions)]
    if isinstance(tokenizer, BpeTokenizer):
        notes.append("Load its tokenizer with AutoTokenizer, because MarianTokenizer only reads SentencePiece.")
    return Exported(files, notes)


def check_expressible(config: Config) -> None:
    """Raises InputError unless a `MarianMTModel` can express the architecture.

    Args:
        config: The config of the run.
    """
    model, ids = config.model, config.tokenizer
    for name, expected in (("norm", "layer"), ("norm_position", "post")):
        given = getattr(model, name)
        require(
            given == expected,
            f"Hugging Face's MarianMTModel has no model.{name}={given}. Only {expected} can be exported to hf-marian.",
        )
    require(
        model.positions != "rotary",
        "Hugging Face's MarianMTModel has no model.positions=rotary. All other positions can be exported to hf-marian.",
    )
    require(
        model.decoder_start == "token" or ids.start_id >= model.target_size,
        "Hugging Face's MarianMTModel starts from the embedding of a token, but this decoder starts from zeros, and "
        f"its start id {ids.start_id} is a token of the vocabulary.",
    )


def with_start_token(config: Config, params: Params) -> tuple[ModelConfig, TokenizerConfig, Params]:
    """Adds the token that the decoder of a `MarianMTModel` starts from, if the run has none.

    The token's embedding is zeros. It also fills rows, as `<pad>`. Its logit is so low that its probability is 0.

    Args:
        config: The config of the run.
        params: Its parameters.

    Returns:
        The architecture, the special ids and the parameters of a model that has the token.
    """
    model, ids = config.model, config.tokenizer
    if model.decoder_start == "token":
        return model, ids, params
    size = max(model.vocabulary_size, model.target_size) + 1
    own = params["params"]
    bias = own.get("logits_bias", np.zeros(model.target_size, np.float32))
    longer = {name: _extended(leaf, size, 0.0) for name, leaf in own.items() if name.endswith("embedding")}
    own = {**own, **longer, "logits_bias": _extended(bias, size, _NEVER)}
    sizes: dict[str, Any] = {"vocabulary_size": size}
    if model.target_vocabulary_size is not None:
        sizes["target_vocabulary_size"] = size
    model = dataclasses.replace(model, **sizes, decoder_start="token", final_logits_bias=True)
    return model, dataclasses.replace(ids, pad_id=size - 1, start_id=size - 1), {**params, "params": own}


def _extended(leaf: Any, size: int, value: float) -> np.ndarray:
    rows = np.full((size - len(leaf), *leaf.shape[1:]), value, np.float32)
    return np.concatenate([np.asarray(leaf, np.float32), rows])


def _model_differences(model: ModelConfig) -> Iterator[str]:
    if model.positions in ("halved_t2t", "learned"):
        yield (
            f"The file has a table of positions (model.positions={model.positions}), which from_pretrained reads. "
            "save_pretrained leaves it out, and then transformers computes other positions"
            + (f", up to {_distance(model):.2f} apart." if model.positions == "halved_t2t" else ".")
        )
    if model.norm_epsilon != EPSILON:
        yield (
            f"Its layer norm adds {EPSILON:g} to the variance, where the run adds {model.norm_epsilon:g}, so the "
            "logits differ slightly."
        )


def _distance(model: ModelConfig) -> float:
    own, theirs = (
        np.asarray(sinusoidal_positions(model.max_positions, model.d_model, layout))
        for layout in ("halved_t2t", "halved")
    )
    return float(np.abs(own - theirs).max())


def _search_differences(search: SearchConfig, positions: int) -> Iterator[str]:
    if search.beam_size > 1 and search.length_penalty and search.length_penalty_form != "power":
        yield (
            "Hugging Face divides scores by length ** length_penalty (search.length_penalty_form=power), so its beam "
            "search may rank translations differently."
        )
    limits = search.max_length or positions, positions
    if search.extra_length < min(limits):
        yield f"Hugging Face has no search.extra_length, so a translation may have up to {min(limits)} tokens."
    left_out = [name for name in ("forbidden", "prefix", "sample") if getattr(search, name)]
    yield from (f"The settings of generation leave out search.{name}." for name in left_out)
