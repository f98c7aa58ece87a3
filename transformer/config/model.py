"""The architecture."""

from dataclasses import dataclass
from typing import Literal

from transformer.config.bounds import Count, Positive, Share, check
from transformer.errors import require


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. The defaults are the paper's base model (Table 3)."""

    vocabulary_size: Count = 37_000
    """Number of tokens in the joint vocabulary (section 5.1), special ids included."""
    d_model: Count = 512
    """Width of the residual stream."""
    num_heads: Count = 8
    """Attention heads; each has d_model / num_heads features."""
    d_ff: Count = 2048
    """Width of the feed-forward layer (section 3.3)."""
    num_encoder_layers: Count = 6
    """Layers of the encoder (section 3.1)."""
    num_decoder_layers: Count = 6
    """Layers of the decoder (section 3.1)."""
    activation: Literal["relu", "gelu", "swish"] = "relu"
    """Nonlinearity of the feed-forward layer (Eq. 2: relu)."""
    norm: Literal["layer", "rms", "batch"] = "layer"
    """Normalization in Add & Norm."""
    norm_position: Literal["post", "pre"] = "post"
    """`post`: LayerNorm(x + Sublayer(x)), the paper; `pre`: x + Sublayer(LayerNorm(x)), and a final norm."""
    norm_epsilon: Positive = 1e-6
    """Added to the variance inside the normalization."""
    batch_norm_momentum: Share = 0.99
    """Share of the old running statistics kept at each step, where `norm` is `batch`."""
    positions: Literal["interleaved", "halved", "halved_t2t", "learned", "rotary"] = "interleaved"
    """Sinusoids as in section 3.5 (sin and cos interleaved), in two halves as Hugging Face's MarianMT or as
    tensor2tensor has them, or learned, each added to the embeddings; `rotary` rotates the queries and keys of
    self-attention instead."""
    max_positions: Count = 1024
    """Longest sequence the model is made for, in tokens; the size of the learned position table."""
    attention_bias: bool = False
    """Biases in the attention's projections (the paper has none)."""
    shared_embeddings: Literal["all", "target", "none"] = "all"
    """One matrix for source, target and output (section 3.4); only target with output; or three matrices."""
    scale_embeddings: bool = True
    """Multiply embeddings by sqrt(d_model) (section 3.4)."""
    final_logits_bias: bool = False
    """A bias on the output logits (Marian has one)."""
    dropout: Share = 0.1
    """Residual dropout: on every sub-layer's output and on embeddings + positions (section 5.4)."""
    attention_dropout: Share = 0.0
    """Dropout on the attention weights."""
    activation_dropout: Share = 0.0
    """Dropout after the feed-forward layer's nonlinearity."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute type; `auto` is bfloat16 where the hardware has it. Parameters are always float32."""
    implementation: Literal["auto", "plain"] = "auto"
    """`auto`: the functions that train fastest on the backend; `plain`: the equations as written, in float32 between
    activations, which differentiate in every mode (`jax.jvp`, `jax.hessian`)."""
    scan_unroll: Count | None = None
    """Layers that the compiled loop over a stack contains. 1 compiles fastest; more run faster. None: all layers on a
    CPU, else 1."""

    def __post_init__(self) -> None:
        check(self, "model")
        require(
            self.d_model % self.num_heads == 0,
            f"model.d_model must be divisible by model.num_heads, but {self.d_model} is not divisible by "
            f"{self.num_heads}.",
        )
        require(
            self.positions != "rotary" or self.d_model // self.num_heads % 2 == 0,
            "model.positions=rotary needs an even head size, but model.d_model / model.num_heads is "
            f"{self.d_model // self.num_heads}. Change model.num_heads or model.d_model.",
        )
        require(
            self.positions == "learned" or self.d_model % 2 == 0,
            f"Sinusoidal positions need an even model.d_model, but it is {self.d_model}.",
        )
        require(
            self.positions != "halved_t2t" or self.d_model >= 4,
            f"model.positions=halved_t2t needs model.d_model of at least 4, but it is {self.d_model}.",
        )
