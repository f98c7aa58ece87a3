"""Parameters as a safetensors file."""

import json
from dataclasses import asdict

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save

from transformer.files import new_folder
from transformer.inference.translator import Translator
from transformer.interop.formats import Request, require_one_model
from transformer.parameters import STACKED
from transformer.shapes import Params


def write(translator: Translator, request: Request) -> str:
    """Writes a folder with `model.safetensors` and the tokenizer of the run.

    The parameters are in float32, under the names of `tensors_of`. The file's metadata `config` is the architecture.

    Raises:
        InputError: The translator is an ensemble.
    """
    require_one_model(translator)
    tensors = tensors_of(translator.params)
    with new_folder(request.path) as folder:
        content = save(tensors, {"config": json.dumps(asdict(translator.config.model))})
        (folder / "model.safetensors").write_bytes(content)
        translator.tokenizer.save(folder / "tokenizer.json")
    return f"{request.path}: {len(tensors)} tensors, {len(content) / 1e6:,.1f} MB"


def tensors_of(variables: Params) -> dict[str, np.ndarray]:
    """Names each parameter by its path, such as `encoder.layers.0.self_attention.query.kernel`.

    Each layer has parameters of its own. The names of other variables begin with the name of their collection.
    """
    found = {}
    for (collection, *path), leaf in flatten_dict(variables).items():
        names = path if collection == "params" else [collection, *path]
        array = np.asarray(leaf, np.float32)
        if STACKED not in names:
            found[".".join(names)] = array
            continue
        start = names.index(STACKED) + 1
        for number, layer in enumerate(array):
            found[".".join([*names[:start], str(number), *names[start:]])] = np.ascontiguousarray(layer)
    return found
