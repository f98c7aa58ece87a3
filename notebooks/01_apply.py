# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One jitted apply
#
# **What you will learn.** Which pure functions "Attention Is All You Need" consists of, how the model calls them, and
# how to run the model, differentiate it, and read a layer's parameters and attention weights.
#
# **Time.** About 25 seconds on two CPU cores.
#
# The axis letters are listed in `transformer/shapes.py`: `B` rows of the batch, `S` source length, `T` target length,
# `Q` and `K` query and key length, `D` d_model, `H` heads, `E` size of one head, `L` layers, `V` vocabulary.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transformer import ModelConfig, Transformer, ops, parameters
from transformer.shapes import Side

keys = iter(jax.random.split(jax.random.key(0), 20))
normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731

# %% [markdown]
# ## Scaled dot-product attention (section 3.2.1)
#
# `Attention(Q, K, V) = softmax(Q Kᵀ / √E) V`. A mask is True where a query may attend to a key. Here the last key is
# padding, so no query attends to it.

# %%
query, key, value = normal(3, 8), normal(5, 8), normal(5, 8)
mask = jnp.array([True, True, True, True, False])
attended, weights = ops.scaled_dot_product_attention(query, key, value, mask, return_weights=True)
print(np.round(weights, 2))
assert weights[:, 4].max() == 0
assert np.allclose(weights.sum(-1), 1, atol=1e-6)

# %% [markdown]
# It is an ordinary function of arrays: `jax.vmap` maps it over heads (section 3.2.2), `jax.grad` differentiates it, and
# `jax.jit` compiles it. Leading axes are batch axes, so four heads need no `vmap`. Both ways give the same result:

# %%
x = normal(5, 32)
heads = ops.split_heads(x, 4)  # [H, T, E]
attend = lambda q: ops.scaled_dot_product_attention(q, q, q)[0]  # noqa: E731
mapped = jax.vmap(attend)(heads)
at_once = attend(heads)
print("heads", heads.shape, "merged", ops.merge_heads(mapped).shape)
assert np.allclose(mapped, at_once, atol=1e-6)

# %% [markdown]
# The decoder must not see later positions (section 3.2.3). Under the causal mask, the gradient of a position's output
# with respect to every later input is exactly zero:

# %%
causal = ops.causal_mask(5)[0, 0]
jacobian = jax.jit(jax.jacobian(lambda x: ops.scaled_dot_product_attention(x, x, x, causal)[0]))(x)
influence = jnp.abs(jacobian).sum((1, 3))  # of the input at position k (columns) on the output at position q (rows)
print(np.round(influence, 1))
assert (jnp.triu(influence, 1) == 0).all()

# %% [markdown]
# ## Add & Norm, feed-forward, positions, dropout (sections 3.1, 3.3, 3.5, 5.4)

# %%
scale, bias = jnp.ones(32), jnp.zeros(32)
normalized = ops.layer_norm(x, scale, bias, 1e-6)
print("mean", np.round(normalized.mean(-1), 6), "standard deviation", np.round(normalized.std(-1), 4))

ffn = partial(ops.feed_forward, activation="relu")
y = ffn(x, normal(32, 64) / 6, jnp.zeros(64), normal(64, 32) / 8, jnp.zeros(32))
added = ops.layer_norm(x + y, scale, bias, 1e-6)  # LayerNorm(x + Sublayer(x))
print("feed-forward", y.shape, "Add & Norm", added.shape)

# %% [markdown]
# Shifting a position by k rotates each (sin, cos) pair by an angle that depends on k alone. The paper chose sinusoids
# for this property.

# %%
positions = ops.sinusoidal_positions(100, 32, "interleaved").reshape(100, 16, 2)
angle = 7 / 10000 ** (np.arange(16) / 16)
rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # by seven positions
assert np.allclose(np.einsum("rcp,tpc->tpr", rotation, positions[:-7]), positions[7:], atol=1e-5)

# %% [markdown]
# The dropout mask is a hash of each element's coordinates. No mask is stored, and the same key gives the same mask.

# %%
dropout_key = ops.dropout_key(seed=0, step=1, row=jnp.arange(4))
dropped = ops.dropout(jnp.ones((4, 100, 32)), 0.1, dropout_key, site=0)
print("share of zeros", float((dropped == 0).mean()), "mean", float(dropped.mean()))
assert (dropped == ops.dropout(jnp.ones((4, 100, 32)), 0.1, dropout_key, site=0)).all()

# %% [markdown]
# ## The model (Figure 1)
#
# `Transformer` is a linen module. It owns the parameters, and every formula in it is one of the functions above. Its
# defaults are the paper's base model. Counting its parameters computes none of them:

# %%
shapes = parameters.shapes(Transformer(ModelConfig()))
print(f"base: {parameters.count(shapes):,} parameters")

# %% [markdown]
# Now a small model to compute with. `apply` is a pure function: it takes parameters and token ids and returns logits,
# and on request the attention weights of every layer and head as a plain dict.
#
# Its first argument has the same structure everywhere, in a run (`run.params`) and in training (`TrainState.params`).
# The parameters are under `params`; the running statistics of batch norm are beside them.

# %%
config = ModelConfig(
    vocabulary_size=100, d_model=32, num_heads=4, d_ff=64, num_encoder_layers=2, num_decoder_layers=2, dtype="float32"
)
model = Transformer(config)
source = jnp.array([[5, 6, 7, 8, 2], [9, 10, 2, 0, 0]])  # 2 is the end token, 0 is padding
target = jnp.array([[1, 11, 12, 13], [1, 14, 15, 0]])  # 1 is the start token
params = parameters.draw(model, seed=1)

apply = jax.jit(model.apply, static_argnames="return_weights")
logits, attention = apply(params, source, source != 0, target, return_weights=True)
print("logits [B, T, V]", logits.shape)

# %% [markdown]
# The layers of a stack are stacked in their arrays too: the first axis is the layer. So one line gives a layer's
# parameters, and one its attention weights:

# %%
last_layer = jax.tree.map(lambda leaf: leaf[-1], params["params"]["decoder"]["layers"])
print("query kernel of the last decoder layer", last_layer["self_attention"]["query"]["kernel"].shape)
print("cross-attention of the last decoder layer [B, H, Q, K]", attention["cross"][-1].shape)
for name, weights in sorted(attention.items()):
    print(f"{name:<10} [L, B, H, Q, K] {weights.shape}")

# %% [markdown]
# `encode`, `decode` and `logits` (the output layer) can each be called alone, and together they are `apply`. A `Side`
# is what an encoder or a decoder reads: the tokens, and a mask that is True where they are not padding.

# %%
source_side, target_side = Side(source, source != 0), Side(target)
memory, _ = jax.jit(partial(model.apply, method="encode"))(params, source_side)
decoded, _ = jax.jit(partial(model.apply, method="decode"))(params, target_side, memory, source_side)
separately = jax.jit(partial(model.apply, method="logits"))(params, decoded)
assert np.allclose(separately, logits, atol=1e-5)

# %% [markdown]
# Gradients are `jax.grad` of a function of the parameters. The next cell computes how strongly the embedding of each
# source token influences the first logits. Every source token gets an embedding row of its own, so that its gradient is
# separate from the gradient of a target token. Padding has no influence.


# %%
@jax.jit
@jax.grad
def sensitivity(noise):
    table = params["params"]["embedding"]
    own = jnp.arange(100, 100 + source.size).reshape(source.shape)  # one new id for each source token
    rows = jnp.concatenate([table, table[source].reshape(-1, 32) + noise.reshape(-1, 32)])
    moved = {"params": {**params["params"], "embedding": rows}}
    larger = Transformer(ModelConfig(**{**vars(config), "vocabulary_size": len(rows)}))
    return larger.apply(moved, own, source != 0, target)[0][:, 0, :100].var()


gradient = jnp.linalg.norm(sensitivity(jnp.zeros((*source.shape, 32))), axis=-1)
print(np.round(gradient, 4))
assert (gradient[source == 0] == 0).all()
assert (gradient[source != 0] > 0).all()

# %% [markdown]
# ## The loss (section 5.4)
#
# `cross_entropy` includes the output layer, so that the logits of a whole batch never exist at once. It returns the
# label-smoothed loss as a sum and the number of tokens. The plain formula gives the same sum:

# %%
hidden, table, labels = normal(6, 32), normal(100, 32), jnp.array([3, 4, 5, 6, 7, 0])
loss, count = ops.cross_entropy(hidden, table, jnp.zeros(100), labels, labels != 0, label_smoothing=0.1)
log_probs = jax.nn.log_softmax(hidden @ table.T)
plain = -(0.9 * log_probs[jnp.arange(6), labels] + 0.1 * log_probs.mean(-1))[:5].sum()
print(f"{loss / count:.4f} nats per token over {count:.0f} tokens; by the plain formula {plain / 5:.4f}")
assert np.allclose(loss, plain, rtol=1e-5)

# %% [markdown]
# ## Something to try
#
# - Build the model with `norm_position="pre"` or `positions="rotary"`. Which shapes in `parameters.shapes(model)`
#   change?
# - `model.apply` also differentiates forwards with `implementation="plain"` in the config. Compute a directional
#   derivative of the logits with `jax.jvp`.
# - Change the last source token of the first row. Which target positions' logits change, and why all of them?
