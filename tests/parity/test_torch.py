"""An independent witness: PyTorch's own Transformer, loss and layer norm, in float64 and with our weights."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.config import ModelConfig
from transformer.model import Transformer
from transformer.ops.loss import cross_entropy
from transformer.ops.normalization import layer_norm
from transformer.ops.positions import sinusoidal_positions

torch = pytest.importorskip("torch")

PAPER = ModelConfig(
    vocabulary_size=23,
    d_model=16,
    num_heads=4,
    d_ff=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_positions=8,
    norm_epsilon=1e-5,
    attention_bias=True,  # in PyTorch they come only together with all the others
)
LENGTHS = np.array([6, 4]), np.array([5, 3])


class Sentences(NamedTuple):
    source: np.ndarray
    source_mask: np.ndarray
    target: np.ndarray
    target_mask: np.ndarray


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    rng = np.random.default_rng(0)
    source, target = (rng.integers(PAPER.vocabulary_size, size=(2, lengths.max())) for lengths in LENGTHS)
    source_mask, target_mask = (np.arange(lengths.max()) < lengths[:, None] for lengths in LENGTHS)
    return Sentences(source, source_mask, target, target_mask)


def by_path(tree: Any) -> Any:
    return flatten_dict(tree, sep="/")


def random_parameters(config: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    token, mask = jnp.zeros((1, 1), int), jnp.ones((1, 1), bool)
    variables: Any = jax.eval_shape(Transformer(config).init, jax.random.key(0), token, mask, token)
    return {
        name: (name.endswith("/scale") + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        for name, leaf in by_path(variables["params"]).items()
    }


def ours(config: ModelConfig, params: dict[str, np.ndarray], sentences: Sentences, form: np.ndarray) -> tuple[Any, Any]:
    """Logits, and the gradient of their product with `form` with respect to every parameter."""

    @jax.jit
    def value_and_gradients(params, *sentences):
        def value(params):
            logits, _ = Transformer(config).apply({"params": params}, *sentences)
            return jnp.sum(logits * form), logits

        return jax.grad(value, has_aux=True)(params)

    gradients, logits = value_and_gradients(unflatten_dict(params, sep="/"), *sentences)
    return logits, by_path(gradients)


def torch_transformer(config: ModelConfig) -> Any:
    """`torch.nn.Transformer`; it would put a final norm after post-norm too, where the paper has none."""
    settings = {
        "d_model": config.d_model,
        "nhead": config.num_heads,
        "dim_feedforward": config.d_ff,
        "dropout": 0.0,
        "activation": config.activation,
        "layer_norm_eps": config.norm_epsilon,
        "batch_first": True,
        "norm_first": config.norm_position == "pre",
        "dtype": torch.float64,
    }

    def final_norm() -> Any:
        if config.norm_position == "post":
            return None
        return torch.nn.LayerNorm(config.d_model, eps=config.norm_epsilon, dtype=torch.float64)

    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(**settings),
        config.num_encoder_layers,
        norm=final_norm(),
        enable_nested_tensor=False,
    )
    decoder = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(**settings), config.num_decoder_layers, norm=final_norm()
    )
    return torch.nn.Transformer(**settings, custom_encoder=encoder, custom_decoder=decoder)


NORMS = {
    "encoder": ("self_attention_norm", "feed_forward_norm"),
    "decoder": ("self_attention_norm", "cross_attention_norm", "feed_forward_norm"),
}
ATTENTIONS = {
    "encoder": {"self_attention": "self_attn"},
    "decoder": {"self_attention": "self_attn", "cross_attention": "multihead_attn"},
}


def torch_parameters(config: ModelConfig, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our layers' parameters, or their gradients, as `torch.nn.Transformer` names and shapes them.

    It stores a kernel transposed, [out, in], and those of queries, keys and values as one.
    """
    theirs = {}
    for side, layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        for i in range(layers):
            start, there = f"{side}/layers/", f"{side}.layers.{i}"
            here = {name.removeprefix(start): leaf[i] for name, leaf in ours.items() if name.startswith(start)}
            for name, its in ATTENTIONS[side].items():
                parts = [f"{name}/{part}" for part in ("query", "key", "value")]
                theirs[f"{there}.{its}.in_proj_weight"] = np.concatenate([here[f"{p}/kernel"].T for p in parts])
                theirs[f"{there}.{its}.in_proj_bias"] = np.concatenate([here[f"{p}/bias"] for p in parts])
                theirs[f"{there}.{its}.out_proj.weight"] = here[f"{name}/output/kernel"].T
                theirs[f"{there}.{its}.out_proj.bias"] = here[f"{name}/output/bias"]
            for number, end in ((1, "in"), (2, "out")):
                theirs[f"{there}.linear{number}.weight"] = here[f"feed_forward/kernel_{end}"].T
                theirs[f"{there}.linear{number}.bias"] = here[f"feed_forward/bias_{end}"]
            for number, name in enumerate(NORMS[side], start=1):
                theirs[f"{there}.norm{number}.weight"] = here[f"{name}/norm/scale"]
                theirs[f"{there}.norm{number}.bias"] = here[f"{name}/norm/bias"]
        if config.norm_position == "pre":
            theirs[f"{side}.norm.weight"] = ours[f"{side}/norm/scale"]
            theirs[f"{side}.norm.bias"] = ours[f"{side}/norm/bias"]
    return theirs


@pytest.mark.parametrize(("norm_position", "activation"), [("post", "relu"), ("pre", "gelu")])
def test_logits_and_gradients_are_those_of_torch(norm_position, activation, sentences):
    config = dataclasses.replace(PAPER, norm_position=norm_position, activation=activation)
    params = random_parameters(config)
    form = np.random.default_rng(2).normal(size=(*sentences.target.shape, config.vocabulary_size))
    logits, gradients = ours(config, params, sentences, form)

    transformer = torch_transformer(config)
    weights = torch_parameters(config, params)
    transformer.load_state_dict({name: torch.from_numpy(weight.copy()) for name, weight in weights.items()})
    embedding = torch.from_numpy(params["embedding"]).double().requires_grad_()
    positions = torch.from_numpy(np.array(sinusoidal_positions(8, config.d_model, "interleaved"))).double()

    def embed(tokens: np.ndarray) -> Any:
        return embedding[torch.from_numpy(tokens)] * math.sqrt(config.d_model) + positions[: tokens.shape[1]]

    padding, length = torch.from_numpy(~sentences.source_mask), sentences.target.shape[1]
    hidden = transformer(
        embed(sentences.source),
        embed(sentences.target),
        tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),  # True: may not attend
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    expected = hidden @ embedding.T
    torch.sum(expected * torch.from_numpy(form)).backward()

    np.testing.assert_allclose(logits, expected.detach(), rtol=0, atol=1e-5)
    actual = torch_parameters(config, gradients)
    assert sum(gradient.size for gradient in actual.values()) + embedding.numel() == sum(map(np.size, params.values()))
    for name, parameter in transformer.named_parameters():
        assert_close(actual[name], parameter.grad, name)
    assert_close(gradients["embedding"], embedding.grad, "embedding")


def assert_close(actual: Any, expected: Any, name: str) -> None:
    """Equality up to float32's rounding, relative to the largest element."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()), err_msg=name)


def test_smoothed_loss_and_its_gradient_are_those_of_torch():
    rng = np.random.default_rng(0)
    hidden, embedding, bias = (rng.normal(size=size).astype(np.float32) for size in ((7, 8), (11, 8), (11,)))
    targets, mask = rng.integers(11, size=7), np.array([True, True, False, True, True, True, False])

    def loss(hidden, embedding, bias, targets, mask):
        return cross_entropy(hidden, embedding, bias, targets, mask, label_smoothing=0.1, chunk=4)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(hidden, embedding, bias, targets, mask)
    theirs = [torch.from_numpy(array).double().requires_grad_() for array in (hidden, embedding, bias)]
    expected = torch.nn.functional.cross_entropy(
        theirs[0] @ theirs[1].T + theirs[2],
        torch.from_numpy(np.where(mask, targets, -100)),
        ignore_index=-100,
        label_smoothing=0.1,
        reduction="sum",
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    for name, gradient, tensor in zip(("hidden", "embedding", "bias"), gradients, theirs, strict=True):
        assert_close(gradient, tensor.grad, name)


def test_layer_norm_and_its_gradient_are_those_of_torch():
    rng = np.random.default_rng(0)
    x, scale, bias, form = (rng.normal(size=size).astype(np.float32) for size in ((3, 5, 8), (8,), (8,), (3, 5, 8)))

    def value(x, scale, bias, form):
        y = layer_norm(x, scale, bias, 1e-5)
        return jnp.sum(y * form), y

    gradients, y = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(x, scale, bias, form)
    theirs = [torch.from_numpy(array).double().requires_grad_() for array in (x, scale, bias)]
    expected = torch.nn.functional.layer_norm(theirs[0], (8,), theirs[1], theirs[2], eps=1e-5)
    torch.sum(expected * torch.from_numpy(form)).backward()
    assert_close(y, expected.detach(), "y")
    for name, gradient, tensor in zip(("x", "scale", "bias"), gradients, theirs, strict=True):
        assert_close(gradient, tensor.grad, name)
