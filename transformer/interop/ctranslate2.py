"""Models in the format of CTranslate2, written with NumPy.

CTranslate2 reads positions from a table and the norm's epsilon from a file. So an exported model computes the same
logits as ours, for every position encoding.
"""

from operator import itemgetter
from typing import Any

import jax
import numpy as np
from ctranslate2.specs import TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec
from ctranslate2.specs.common_spec import Activation

from transformer.config import ModelConfig
from transformer.data.tokenizer import Tokenizer
from transformer.data.tokenizer_marian import UNKNOWN
from transformer.errors import require
from transformer.files import new_folder
from transformer.inference.translator import Translator
from transformer.interop.formats import Request, require_one_model
from transformer.ops.positions import sinusoidal_positions
from transformer.shapes import Params

ACTIVATIONS = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_sigmoid": Activation.GELUSigmoid,
    "swish": Activation.SWISH,
}


def write(translator: Translator, request: Request) -> str:
    """Writes a folder for `ctranslate2.Translator`, with the tokenizer of the run.

    Raises:
        InputError: The translator is an ensemble, or as for `make_spec`.
    """
    require_one_model(translator)
    spec = make_spec(translator.config.model, translator.params["params"], translator.tokenizer)
    spec.config.add_attribute("normalization", translator.tokenizer.normalization)
    with new_folder(request.path) as folder:
        spec.save(str(folder))
        translator.tokenizer.save(folder / "tokenizer.json")
    return f"{request.path}: a CTranslate2 model with {translator.num_parameters:,} parameters"


def make_spec(model: ModelConfig, params: Params, tokenizer: Tokenizer) -> Any:  # a spec's attributes have no types
    """Describes a model with CTranslate2's names, in float32. `save` of the result writes it.

    Args:
        model: The architecture.
        params: The parameters, which are the entry `params` of what `Transformer.apply` takes first.
        tokenizer: The tokens and their special ids.

    Raises:
        InputError: CTranslate2 cannot compute the model's norm.
    """
    require(model.norm != "batch", "CTranslate2 has no batch norm, which this model uses (model.norm=batch).")
    shared: Any = {
        "num_heads": model.num_heads,
        "pre_norm": model.norm_position == "pre",
        "activation": ACTIVATIONS[model.activation],
        "rms_norm": model.norm == "rms",
        "rotary_dim": model.d_model // model.num_heads if model.positions == "rotary" else None,
    }
    encoder = TransformerEncoderSpec(model.num_encoder_layers, **shared)
    decoder = TransformerDecoderSpec(model.num_decoder_layers, **shared)
    spec: Any = TransformerSpec(encoder, decoder)
    _fill(spec, model, params)
    _name_tokens(spec, tokenizer)
    spec.config.layer_norm_epsilon = model.norm_epsilon
    spec.validate()
    spec.optimize()  # writes equal arrays once
    return spec


def _name_tokens(spec: Any, tokenizer: Tokenizer) -> None:
    """Sets the vocabularies and the special tokens of a specification."""
    source, target = tokenizer.source.spellings(), tokenizer.target.spellings()
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    config, end = spec.config, target[tokenizer.end_id]
    config.eos_token = end
    # A decoder that starts from zeros reads no start token, and the tokenizer may have none.
    config.decoder_start_token = target[tokenizer.start_id] if tokenizer.start_id < len(target) else end
    # The format requires these, although every token is known.
    config.unk_token = config.bos_token = target[tokenizer.pad_id] if tokenizer.pad_id < len(target) else UNKNOWN


def _fill(spec: Any, model: ModelConfig, params: Params) -> None:
    """Sets the arrays of a specification."""
    embeddings = spec.encoder.embeddings[0], spec.decoder.embeddings, spec.decoder.projection
    names = {
        "all": ("embedding", "embedding", "embedding"),
        "target": ("source_embedding", "target_embedding", "target_embedding"),
        "none": ("source_embedding", "target_embedding", "output_embedding"),
    }
    for target, name in zip(embeddings, names[model.shared_embeddings], strict=True):
        target.weight = _array(params[name])
    if model.final_logits_bias:
        spec.decoder.projection.bias = _array(params["logits_bias"])
    spec.decoder.start_from_zero_embedding = model.decoder_start == "zeros"
    for side, stack in ((spec.encoder, params["encoder"]), (spec.decoder, params["decoder"])):
        side.scale_embeddings = model.scale_embeddings
        if model.positions != "rotary":
            side.position_encodings.encodings = _positions(model, params)
        for number, layer in enumerate(side.layer):
            _layer(layer, jax.tree.map(itemgetter(number), stack["layers"]))
        if model.norm_position == "pre":
            _norm(side.layer_norm, stack["norm"])


def _positions(model: ModelConfig, params: Params) -> np.ndarray:
    """The table of positions that are added to the embeddings."""
    if model.positions == "learned":
        return _array(params["positions"])
    assert model.positions != "rotary"
    return _array(sinusoidal_positions(model.max_positions, model.d_model, model.positions))


def _layer(target: Any, layer: Params) -> None:
    own = layer["self_attention"]
    _linear(target.self_attention.linear[0], own["query"], own["key"], own["value"])
    _linear(target.self_attention.linear[1], own["output"])
    _norm(target.self_attention.layer_norm, layer["self_attention_norm"]["norm"])
    if "cross_attention" in layer:
        cross = layer["cross_attention"]
        _linear(target.attention.linear[0], cross["query"])
        _linear(target.attention.linear[1], cross["key"], cross["value"])
        _linear(target.attention.linear[2], cross["output"])
        _norm(target.attention.layer_norm, layer["cross_attention_norm"]["norm"])
    for linear, end in ((target.ffn.linear_0, "in"), (target.ffn.linear_1, "out")):
        linear.weight = _array(layer["feed_forward"][f"kernel_{end}"].T)
        linear.bias = _array(layer["feed_forward"][f"bias_{end}"])
    _norm(target.ffn.layer_norm, layer["feed_forward_norm"]["norm"])


def _linear(target: Any, *parts: Params) -> None:
    """Sets one projection that computes several of ours side by side."""
    target.weight = _array(np.concatenate([part["kernel"].T for part in parts]))
    if "bias" in parts[0]:
        target.bias = _array(np.concatenate([part["bias"] for part in parts]))


def _norm(target: Any, norm: Params) -> None:
    target.gamma = _array(norm["scale"])
    if "bias" in norm:
        target.beta = _array(norm["bias"])


def _array(leaf: Any) -> np.ndarray:
    return np.ascontiguousarray(leaf, np.float32)
