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
# # Multi-head attention
#
# **What you will learn.** Section 3.2 of the paper from the inside: Equation 1 by hand, why it divides by √d_k, what a
# mask does, why many heads cost no more than one, and what a head can do.
#
# **Time.** About 10 seconds on two CPU cores.
#
# The axis letters are listed in `transformer/shapes.py`: `Q` and `K` query and key length, `D` d_model, `H` heads, `E`
# size of one head (the paper's d_k).

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rcParams

from transformer import Config, DataConfig, ModelConfig, Run, TokenizerConfig, Transformer, ops, parameters
from transformer.analysis.attention import Attention
from transformer.analysis.figures import STYLE
from transformer.analysis.figures.attention import heat_maps
from transformer.analysis.heads import describe
from transformer.analysis.page import Start
from transformer.attention import MultiHeadAttention
from transformer.data.corpus import read_pairs
from transformer.data.tokenizer import TokenizedText
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.layers import Build

rcParams.update(STYLE | {"figure.dpi": 150})
generator = np.random.default_rng(0)
normal = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731

# %% [markdown]
# ## Equation 1 by hand
#
# `Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V`. The dot products of a query with all keys become weights that sum to 1,
# and the result is the weighted mean of the values. Step by step in NumPy and float64:

# %%
query, key, value = normal(3, 8), normal(5, 8), normal(5, 6)

scores = query.astype(np.float64) @ key.T / 8**0.5  # [Q, K]
exponentials = np.exp(scores - scores.max(-1, keepdims=True))
by_hand = exponentials / exponentials.sum(-1, keepdims=True)

attended, weights = ops.scaled_dot_product_attention(query, key, value, return_weights=True)
print(np.asarray(weights).round(3), "\nrows sum to", weights.sum(-1))
print("largest difference from the weights by hand:", abs(weights - by_hand).max())
assert np.allclose(weights, by_hand, atol=1e-6)
assert np.allclose(attended, by_hand @ value, atol=1e-5)

# %% [markdown]
# ## Why divide by √d_k
#
# If the features of a query and a key are independent and have variance 1, their dot product has variance d_k (footnote
# 4 of the paper). Without the division, the scores therefore grow with the size of a head. The softmax then puts almost
# all of its weight on one key, and its gradient vanishes. Measured on random queries with 20 keys each:


# %%
@jax.jit
def saturation(scores):
    """The largest weight, the entropy in nats and the norm of the softmax's Jacobian, averaged over rows of scores."""
    weights = jax.nn.softmax(scores)
    jacobian = jax.vmap(jax.jacobian(jax.nn.softmax))(scores)
    entropy = -(weights * jnp.log(jnp.maximum(weights, 1e-30))).sum(-1)
    return weights.max(-1).mean(), entropy.mean(), jnp.linalg.norm(jacobian, axis=(1, 2)).mean()


print("           Q Kᵀ                                   Q Kᵀ / √d_k")
print("  d_k   variance  largest  entropy  gradient   variance  largest  entropy  gradient")
for size in (4, 16, 64, 256, 1024):
    plain = (normal(1000, 1, size) * normal(1000, 20, size)).sum(-1)
    cells = []
    for scores in (plain, plain / size**0.5):
        cells += [scores.var(), *saturation(scores)]
    print(f"{size:>5}" + "".join("{:>11.2f}{:>9.3f}{:>9.3f}{:>10.4f}".format(*cells[n : n + 4]) for n in (0, 4)))
assert 900 < plain.var() < 1150
assert 0.9 < (plain / size**0.5).var() < 1.1

# %% [markdown]
# With the division, on the right, none of the four quantities depends much on d_k.
#
# ## Masks
#
# A mask is True where a query may attend to a key (section 3.2.3). The causal mask of the decoder hides later
# positions, the padding mask hides padding from all queries, and `&` combines them. Masked weights are exactly 0, and
# the others sum to 1.

# %%
x = normal(2, 5, 8)  # two rows of five positions; the second is two positions shorter
tokens = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
mask = ops.causal_mask(5) & ops.padding_mask(tokens)  # [B, 1, Q, K]; the 1 is for the heads
attended, weights = ops.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], mask, return_weights=True)
print(np.asarray(weights[1, 0]).round(2))
assert (np.asarray(weights)[~np.asarray(mask)] == 0).all()
assert np.allclose(weights.sum(-1), 1, atol=1e-6)

# %% [markdown]
# Masked positions have no influence at all: changing their values does not change a single bit of the output.

# %%
changed = x.copy()
changed[1, 3:] = 1e6
again, _ = ops.scaled_dot_product_attention(changed[:, None], changed[:, None], changed[:, None], mask)
assert (again[1, 0, :3] == attended[1, 0, :3]).all()

# %% [markdown]
# ## Many heads for the price of one
#
# `MultiHead(Q, K, V) = Concat(head_1, ..., head_H) Wᴼ`, `head_i = Attention(Q W_iᑫ, K W_iᴷ, V W_iⱽ)` (section 3.2.2).
# The paper has a matrix [D, E] for each head. Side by side, these form one matrix [D, D], so one product projects for
# all heads. `split_heads` separates the heads, and `merge_heads` concatenates them. Both ways give the same result:

# %%
D, H = 32, 4
E = D // H
memory = normal(1, 6, D)
projections = {name: normal(D, D) / D**0.5 for name in ("query", "key", "value", "output")}

heads = [
    ops.scaled_dot_product_attention(
        *(memory @ projections[name][:, head * E : (head + 1) * E] for name in ("query", "key", "value"))
    )[0]
    for head in range(H)
]
separately = np.concatenate(heads, -1) @ projections["output"]

split = [ops.split_heads(memory @ projections[name], H) for name in ("query", "key", "value")]  # each [B, H, T, E]
at_once = ops.merge_heads(ops.scaled_dot_product_attention(*split)[0]) @ projections["output"]
print("split", split[0].shape, "largest difference:", abs(at_once - separately).max())
assert np.allclose(at_once, separately, atol=1e-5)

# %% [markdown]
# The model's layer, `MultiHeadAttention`, owns these four matrices and calls the functions above. Each head has D / H
# features, so neither the number of parameters nor the number of multiplications depends on the number of heads.

# %%
layer = MultiHeadAttention(Build.choose(ModelConfig(d_model=D, num_heads=H)))
params = {"params": {name: {"kernel": kernel} for name, kernel in projections.items()}}
by_layer, _ = layer.apply(params, memory, memory, jnp.ones((1, 1, 6, 6), bool))
assert np.allclose(by_layer, separately, atol=1e-5)


def cost(num_heads):
    """The number of a layer's parameters, and of its operations on 64 tokens of width 128 as counted by XLA."""
    layer = MultiHeadAttention(Build.choose(ModelConfig(d_model=128, num_heads=num_heads)))
    tokens, mask = jnp.zeros((1, 64, 128)), jnp.ones((1, 1, 64, 64), bool)
    params = jax.eval_shape(layer.init, jax.random.key(0), tokens, tokens, mask)
    compiled = jax.jit(layer.apply).lower(params, tokens, tokens, mask).compile()
    return sum(leaf.size for leaf in jax.tree.leaves(params)), compiled.cost_analysis()["flops"]


for num_heads in (1, 4, 16):
    size, operations = cost(num_heads)
    print(f"h = {num_heads:>2}: {size:,} parameters, {operations / 1e6:.1f} million operations")

# %% [markdown]
# Only the cost of the softmax grows a little, because each head has its own.
#
# ## A head, drawn
#
# The weights of a head are a matrix whose rows are queries and whose columns are keys. The next cell builds three heads
# by hand from nothing but the positional encodings. As notebook 04 derives, one matrix turns the encoding of every
# position p into the encoding of p - 1. A query multiplied by it matches the key of the previous position.

# %%
words = ["The", "law", "will", "never", "be", "perfect", ",", "but", "its", "application", "should", "be", "just"]
table = np.asarray(ops.sinusoidal_positions(len(words), 64, "interleaved"))


def shift(distance):
    """The matrix that turns the encoding of every position p into the encoding of p + distance."""
    turned = np.zeros((64, 64), np.float32)
    for pair, angle in enumerate(distance / 10000 ** (np.arange(32) / 32)):
        block = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turned[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = block
    return turned


projected = np.stack([table @ (24 * shift(distance)) for distance in (-1, 0, 1)])  # 24 makes the softmax sharp
keys = np.stack([table] * 3)
_, weights = ops.scaled_dot_product_attention(projected, keys, keys, return_weights=True)
side = TokenizedText(" ".join(words), words, words, [*range(len(words))])
by_hand = Attention(side, side, {"encoder": np.asarray(weights)[None]})
heat_maps(by_hand, Start("encoder"))

# %% [markdown]
# ## What heads do
#
# `analysis.heads` measures each head. `entropy` is in nats: 0 if a query attends to one token, log K if it attends to K
# tokens evenly. `boundary` is the weight on the last token, and `distance` the mean distance in tokens. `previous`,
# `same` and `next` are the weights on the previous token, the token itself, and the next one. For the three heads
# above:


# %%
def show(weights):
    """Prints and returns the statistics of each head, given weights [H, Q, K]."""
    found = describe(np.asarray(weights)[None, None], np.array([weights.shape[-1] - 1]), self_attention=True)
    print("head  " + "".join(f"{name:>10}" for name in found))
    for head in range(len(weights)):
        print(f"{head:>4}  " + "".join(f"{values[0, 0, head].mean():>10.2f}" for values in found.values()))
    return found


found = show(weights)
for head, name in enumerate(("previous", "same", "next")):
    assert found[name][0, 0, head].mean() > 0.7
print(f"log K = {np.log(len(words)):.2f}")

# %% [markdown]
# The heads of an untrained model attend to all tokens almost evenly. Notebook 02 shows trained heads. For every head of
# a run, `transformer heads RUN` prints these statistics and the increase in loss when the head is removed.

# %%
config = ModelConfig(
    vocabulary_size=400, d_model=32, num_heads=4, d_ff=64, num_encoder_layers=1, num_decoder_layers=1, dtype="float32"
)
pairs, _ = read_pairs(DataConfig(corpus="package:quickstart.jsonl.xz"), "test")
source, target = pairs.sources[0], pairs.targets[0]
tokenizer = BpeTokenizer.train([*pairs.sources[:200], *pairs.targets[:200]], 400, TokenizerConfig())
model = Transformer(config)
run = Run(Config(model=config), model, parameters.draw(model, seed=0), tokenizer)
look = run.attention(source, target)
show(look.weights["encoder"][0])  # [H, Q, K] of the first encoder layer
print(f"log K = {np.log(len(look.source.tokens)):.2f}")

# %% [markdown]
# A layer's parameters are one line, too, because the arrays of all layers are stacked:

# %%
first_layer = jax.tree.map(lambda leaf: leaf[0], run.params["params"]["encoder"]["layers"])
print({name: part["kernel"].shape for name, part in first_layer["self_attention"].items()})

# %% [markdown]
# In a notebook, `run.attention` shows every layer, head and kind of attention. Point at a word, or select it with the
# keyboard, to see which words it attends to.

# %%
run.attention(source, target)

# %% [markdown]
# ## Something to try
#
# - Lower the factor 24 of the heads made by hand. How does their entropy change, and which weight suffers first?
# - Make a head that attends to the position before the previous one. What do the first two queries attend to?
# - Sharpen the untrained heads: multiply the query kernels in `run.params` by 10 and call `run.attention` on
#   `dataclasses.replace(run, params=changed)`.
