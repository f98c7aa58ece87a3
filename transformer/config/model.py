"""Settings of the architecture."""

from dataclasses import dataclass
from typing import Literal

from transformer.config.bounds import Count, Positive, Share, Size, check
from transformer.errors import require


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of the model. `ModelConfig()` is the paper's base model (Table 3)."""

    vocabulary_size: Size = 37_000
    """Number of tokens in the joint vocabulary, including special tokens
    (section 5.1)."""
    target_vocabulary_size: Size | None = None
    """Number of tokens in the vocabulary of the target, if it has one of its
    own. `vocabulary_size` is then that of the source. None is one joint
    vocabulary."""
    d_model: Size = 512
    """Width of the residual stream, which is the number of features per
    token (section 3.1)."""
    num_heads: Size = 8
    """Number of attention heads. Each has d_model / num_heads features
    (section 3.2.2)."""
    d_ff: Size = 2048
    """Width of the feed-forward layer (section 3.3)."""
    num_encoder_layers: Size = 6
    """Number of encoder layers (section 3.1)."""
    num_decoder_layers: Size = 6
    """Number of decoder layers (section 3.1)."""
    activation: Literal["relu", "gelu", "gelu_sigmoid", "swish"] = "relu"
    """Nonlinearity of the feed-forward layer. The paper uses `relu` (Eq. 2).
    `gelu` is computed by the error function, `gelu_sigmoid` is x *
    sigmoid(1.702 x), which Marian calls gelu."""
    norm: Literal["layer", "rms", "batch"] = "layer"
    """Normalization in Add & Norm: layer normalization as in the paper, RMS
    normalization, or batch normalization."""
    norm_position: Literal["post", "pre"] = "post"
    """`post` computes LayerNorm(x + Sublayer(x)), as in the paper. `pre`
    computes x + Sublayer(LayerNorm(x)), with a final norm after the last
    layer."""
    norm_epsilon: Positive = 1e-6
    """Constant added to the variance in the normalization."""
    batch_norm_momentum: Share = 0.99
    """Share of the old running statistics that each step keeps, if `norm` is
    `batch`."""
    positions: Literal["interleaved", "halved", "halved_t2t", "learned", "rotary"] = "interleaved"
    """Position encoding. `interleaved` is the paper's sinusoids, with sin
    and cos alternating (section 3.5). `halved` has sin and cos in two
    halves, as in Hugging Face's MarianMT; `halved_t2t` has them as in
    tensor2tensor. `learned` is a table of parameters. All of these are
    added to the embeddings. `rotary` instead rotates the queries and keys
    of self-attention."""
    max_positions: Size = 1024
    """Maximum sequence length in tokens, and size of the table of learned
    positions."""
    attention_bias: bool = False
    """Add biases to the projections of attention (the paper has none)."""
    shared_embeddings: Literal["all", "target", "none"] = "all"
    """`all` uses one matrix for source embedding, target embedding and
    output layer (section 3.4). `target` shares one between target
    embedding and output layer only. `none` uses three matrices."""
    scale_embeddings: bool = True
    """Multiply embeddings by sqrt(d_model) (section 3.4)."""
    final_logits_bias: bool = False
    """Add a bias to the output logits, as Marian does."""
    decoder_start: Literal["token", "zeros"] = "token"
    """First input of the decoder. `token` is the embedding of
    `tokenizer.start_id`, `zeros` is a vector of zeros, as in Marian; both
    plus position 0. With `zeros`, the start id and the pad id may equal
    the vocabulary size, which is no token's id."""
    dropout: Share = 0.1
    """Probability of dropout on the output of each sub-layer and on
    embeddings + positions (section 5.4)."""
    attention_dropout: Share = 0.0
    """Probability of dropout on the attention weights (the paper has none)."""
    activation_dropout: Share = 0.0
    """Probability of dropout after the nonlinearity of the feed-forward
    layer (the paper has none)."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute dtype. `auto` is bfloat16 if the hardware supports it, else
    float32. Parameters are always float32."""
    matmul_precision: Literal["float32", "tensorfloat32"] = "float32"
    """Precision of matrix products of float32 numbers. `float32` is exact
    to float32 on every device. `tensorfloat32` is faster and less exact:
    a GPU rounds the factors to TF32, and a TPU multiplies in three passes
    of bfloat16. A CPU ignores it, and so do products of bfloat16 numbers."""
    implementation: Literal["auto", "plain"] = "auto"
    """`auto` uses the functions that train fastest on the backend. `plain`
    uses the equations as written, computed in float32 between
    activations; they differentiate in every mode (`jax.jvp`,
    `jax.hessian`)."""
    attention: Literal["auto", "plain", "fused"] = "auto"
    """`plain` stores the attention weights, as section 3.2.1 writes them.
    `fused` stores none: a Pallas kernel on a GPU (heads of up to 128
    features), splash attention on a TPU, elsewhere one block of keys at a
    time. `auto` is the kernel on Hopper GPUs, on which it has been
    tested. Elsewhere it is plain up to 2,048 tokens per row, and blocks
    of keys above. It is always plain with attention dropout, or with the
    plain implementation."""
    scan_unroll: Count | None = None
    """Number of layers that the compiled loop over a stack contains. 1
    compiles fastest; larger numbers run faster. None is 1 on a TPU, and
    all layers elsewhere."""
    rematerialization: Literal["none", "layer", "dots"] = "none"
    """What the backward pass computes again instead of keeping it in memory:
    `none`; `dots`, everything except matrix products and fused attention;
    or `layer`, each layer from its input."""

    def __post_init__(self) -> None:
        check(self, "model")
        require(
            self.attention != "fused" or (self.implementation == "auto" and not self.attention_dropout),
            "model.attention=fused has neither a plain implementation nor dropout on the attention weights. Set "
            "model.implementation=auto and model.attention_dropout=0, or another model.attention.",
        )
        require(
            self.target_vocabulary_size is None or self.shared_embeddings != "all",
            "model.shared_embeddings=all needs one joint vocabulary, but model.target_vocabulary_size is "
            f"{self.target_vocabulary_size}. Set model.shared_embeddings to target or none.",
        )
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
            f"model.positions=halved_t2t needs a model.d_model of at least 4, but it is {self.d_model}.",
        )

    @property
    def target_size(self) -> int:
        """Number of tokens in the vocabulary of the target."""
        return self.vocabulary_size if self.target_vocabulary_size is None else self.target_vocabulary_size
