"""The parameters of a run as a safetensors file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from transformer import parameters
from transformer.config import Config, ModelConfig, SearchConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError
from transformer.inference.translator import Translator
from transformer.interop.formats import Request, module
from transformer.model import Transformer

safetensors = pytest.importorskip("safetensors", reason="needs safetensors (the extra interop)")


@pytest.fixture
def translator() -> Translator:
    model = ModelConfig(
        vocabulary_size=270,
        d_model=8,
        num_heads=2,
        d_ff=16,
        num_encoder_layers=2,
        num_decoder_layers=3,
        norm="batch",
        norm_position="pre",
        final_logits_bias=True,
    )
    tokenizer = BpeTokenizer.train(["seven men see seventeen seas"] * 20, 270, Config().tokenizer)
    return Translator(Config(model=model), Transformer(model), parameters.draw(Transformer(model), 0), tokenizer)


def test_each_layer_has_tensors_of_its_own(translator: Translator, tmp_path: Path) -> None:
    said = module("safetensors").write(translator, Request(tmp_path, tmp_path / "model", SearchConfig()))
    with safetensors.safe_open(tmp_path / "model" / "model.safetensors", "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        assert ModelConfig(**json.loads(file.metadata()["config"])) == translator.config.model
    assert said.startswith(f"{tmp_path}/model: {len(tensors)} tensors, ")
    params = translator.params["params"]
    assert {array.dtype for array in tensors.values()} == {np.dtype("float32")}
    for name, expected in (
        ("embedding", params["embedding"]),
        ("logits_bias", params["logits_bias"]),
        ("encoder.norm.scale", params["encoder"]["norm"]["scale"]),
        ("encoder.layers.1.feed_forward.kernel_in", params["encoder"]["layers"]["feed_forward"]["kernel_in"][1]),
        *(
            (f"decoder.layers.{number}.cross_attention.query.kernel", kernel)
            for number, kernel in enumerate(params["decoder"]["layers"]["cross_attention"]["query"]["kernel"])
        ),
    ):
        np.testing.assert_array_equal(tensors.pop(name), expected)
    statistics = [name for name in tensors if name.endswith("layers.0.self_attention_norm.norm.variance")]
    assert len(statistics) == 2
    assert not any(name.startswith(("encoder.", "decoder.")) for name in statistics)
    saved = (tmp_path / "model" / "tokenizer.json").read_bytes()
    translator.tokenizer.save(tmp_path / "tokenizer.json")
    assert saved == (tmp_path / "tokenizer.json").read_bytes()


def test_an_ensemble_is_not_one_model(translator: Translator, tmp_path: Path) -> None:
    both = dataclasses.replace(translator, others=translator.members)
    with pytest.raises(InputError, match=r"^Cannot export an ensemble as one model\. Leave out --ensemble\.$"):
        module("safetensors").write(both, Request(tmp_path, tmp_path / "model", SearchConfig()))
    assert not [*tmp_path.iterdir()]
