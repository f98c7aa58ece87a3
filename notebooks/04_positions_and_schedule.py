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
# # Positions and schedule
#
# **What you will learn.** How sinusoids give a Transformer the order of its tokens (section 3.5), why the learning rate
# rises before it falls (section 5.3), and how to plot what a run has logged. `transformer figures` draws the same
# pictures without a notebook.
#
# **Time.** About 20 seconds on two CPU cores.

# %%
# %matplotlib inline
import itertools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rcParams

import transformer
from transformer import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig, ops
from transformer.analysis.figures import STYLE
from transformer.analysis.figures.learning import learning_curves, learning_rates, warmup
from transformer.analysis.figures.positions import curves, dot_products, heat_map
from transformer.analysis.history import read_histories
from transformer.layers import Build
from transformer.stack import Context, Layer
from transformer.training.optimizer import inverse_sqrt_schedule, learning_rate, paper_schedule, rates

rcParams.update(STYLE | {"figure.dpi": 150})

# %% [markdown]
# ## What is lost without positions
#
# Attention is a sum over keys, and a sum does not depend on the order of its terms. An encoder layer without positions
# is therefore permutation-equivariant: permuting its input permutes its output in the same way. It sees a bag of words.
# With positional encodings added, the order matters:

# %%
D, T = 128, 10
layer = Layer(Build.choose(ModelConfig(d_model=D, num_heads=4, d_ff=256)), is_decoder=False)
words = jax.random.normal(jax.random.key(0), (1, T, D))
is_token = jnp.ones((1, T), bool)
rest = None, Context(is_token, ops.padding_mask(is_token)), None, False  # no memory, dropout or attention weights
params = jax.jit(lambda key: layer.init(key, words, *rest))(jax.random.key(1))
encode = jax.jit(lambda x: layer.apply(params, x, *rest)[0])

order = np.random.default_rng(0).permutation(T)
positions = ops.sinusoidal_positions(T, D, "interleaved")
without = abs(encode(words[:, order]) - encode(words)[:, order]).max()
with_them = abs(encode(words[:, order] + positions) - encode(words + positions)[:, order]).max()
print(f"largest difference after the permutation {order}: {without:.1e} without positions, {with_them:.1f} with them")
assert without < 1e-4 < 0.1 < with_them

# %% [markdown]
# ## The table
#
# `PE[pos, 2i] = sin(pos / 10000^(2i/d))`, `PE[pos, 2i + 1] = cos(pos / 10000^(2i/d))`. Think of a clock with d/2 hands:
# the first turns once in 2π positions, the last once in 10000^(1 - 2/d) · 2π.

# %%
table = np.asarray(ops.sinusoidal_positions(100, D, "interleaved"))
angle = np.arange(100)[:, None] / 10000 ** (2 * np.arange(D // 2) / D)
assert np.allclose(table[:, 0::2], np.sin(angle), atol=1e-6)
assert np.allclose(table[:, 1::2], np.cos(angle), atol=1e-6)
curves(table, "interleaved")

# %%
heat_map(table)

# %% [markdown]
# All encodings differ, and all have the same length, √(d/2):

# %%
distances = np.linalg.norm(table[:, None] - table, axis=-1)
nearest = distances[~np.eye(100, dtype=bool)].min()
print(f"lengths {np.linalg.norm(table, axis=1).min():.4f} to {np.linalg.norm(table, axis=1).max():.4f}")
print(f"√(d/2) = {(D / 2) ** 0.5:.4f}; the two nearest encodings are {nearest:.2f} apart")

# %% [markdown]
# ## Distance
#
# The dot product of the encodings of p and q is `Σ cos((p - q) / 10000^(2i/d))`. It depends on the distance alone, not
# on the positions, and decreases as the distance grows. It does not distinguish left from right, because
# cos(-x) = cos(x). The matrices that project queries and keys can.

# %%
dot_products(table)

# %% [markdown]
# They can because a shift by k positions is the same matrix at every position: a rotation of each (sin, cos) pair by
# its own angle. This is why the paper chose sinusoids: "for any fixed offset k", the encoding of pos + k "can be
# represented as a linear function" of the encoding of pos.


# %%
def shift(distance):
    """The matrix M with PE[pos + distance] = M PE[pos] at every position."""
    turned = np.zeros((D, D))
    for pair, angle in enumerate(distance / 10000 ** (2 * np.arange(D // 2) / D)):
        block = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        turned[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = block
    return turned


for distance in (1, 7, 50):
    error = abs(table[:-distance] @ shift(distance).T - table[distance:]).max()
    print(f"shift by {distance:>2}: largest error {error:.1e}")
    assert error < 1e-5
matched = (table @ shift(1).T) @ table.T  # queries that match the next position
print("best keys of queries 0 to 4:", matched[:5].argmax(1))
assert (matched[:-1].argmax(1) == np.arange(1, 100)).all()

# %% [markdown]
# ## Interleaved or in two halves
#
# The paper interleaves sines and cosines. Many implementations put all sines first, among them Hugging Face's MarianMT.
# These are the same numbers in another order, so dot products and distances are equal up to rounding, and a model
# learns equally well with either. A trained model needs the layout that it was trained with, so the layout is part of
# its config. The halves of tensor2tensor differ in the numbers, too: their wavelengths end at exactly 10000 · 2π.

# %%
halved = np.asarray(ops.sinusoidal_positions(100, D, "halved"))
t2t = np.asarray(ops.sinusoidal_positions(100, D, "halved_t2t"))
assert (halved == np.concatenate([table[:, 0::2], table[:, 1::2]], -1)).all()
for name, other in (("halved", halved), ("halved_t2t", t2t)):
    print(
        f"{name:<10}  dot products differ from the paper's by up to {abs(other @ other.T - table @ table.T).max():.1e}"
    )
heat_map(halved)

# %% [markdown]
# ## The learning rate
#
# `lrate = d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)` (Eq. 3). The curves below are labelled with
# d_model and the warm-up steps. A wider model has a lower rate at every step. A longer warm-up has a lower and later
# peak, and makes no difference after both peaks.

# %%
pairs = [(512, 4000), (512, 8000), (256, 4000)]
warmup({pair: rates(paper_schedule(*pair), 20_000) for pair in pairs})

# %% [markdown]
# Most other code takes a peak and a number of warm-up steps. The two branches of the minimum meet at step
# `warmup_steps`, where the rate is `(d_model · warmup_steps)^-0.5`. With this peak, `inverse_sqrt_schedule` is the same
# schedule:

# %%
print("d_model  warm-up  peak by the formula  highest rate  at step  largest difference")
for d_model, warmup_steps in pairs:
    peak = d_model**-0.5 * warmup_steps**-0.5
    paper = rates(paper_schedule(d_model, warmup_steps), 20_000)
    by_peak = rates(inverse_sqrt_schedule(peak, warmup_steps, 20_000), 20_000)
    difference = abs(by_peak - paper).max()
    highest = f"{paper.max():>12.6f}  {1 + paper.argmax():>7,}"
    print(f"{d_model:>7}  {warmup_steps:>7,}  {peak:>19.6f}  {highest}  {difference:>18.0e}")
    assert 1 + paper.argmax() == warmup_steps
    assert difference < 1e-9
a, b = (rates(paper_schedule(512, warmup_steps), 20_000) for warmup_steps in (4000, 8000))
assert (a[8000:] == b[8000:]).all()

# %% [markdown]
# ## What a run has logged
#
# A run writes its learning rate and losses to `metrics.jsonl`. The next cell trains a very small model for a few
# seconds, on word-for-word translations:

# %%
folder = Path(tempfile.mkdtemp())
dictionary = {
    "red": "rot",
    "old": "alt",
    "small": "klein",
    "dog": "hund",
    "house": "haus",
    "runs": "eilt",
    "and": "und",
}
sentences = list(itertools.permutations(dictionary, 3))
for name, translate in (("train.en", str), ("train.de", dictionary.get)):
    lines = [" ".join(map(translate, sentence)) for sentence in sentences]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
train = (str(folder / "train.en"), str(folder / "train.de"))
small = ModelConfig(
    vocabulary_size=280, d_model=32, num_heads=2, d_ff=64, num_encoder_layers=1, num_decoder_layers=1, max_positions=32
)
config = Config(
    run_dir=str(folder / "run"),
    data=DataConfig(train=train, validation=train, max_length=32),
    model=small,
    optimizer=OptimizerConfig(warmup_steps=30, scale=0.3),
    training=TrainingConfig(steps=120, validate_every=40, log_every=5, batch_tokens=1024),
)
transformer.train(config)

# %% [markdown]
# The logged learning rates follow the schedule of the run's config:

# %%
histories = read_histories([config.run_dir])
planned = rates(learning_rate(config.optimizer, config.model.d_model, config.training.steps), config.training.steps)
logged = histories[0].curves["learning_rate"]
print(
    f"{len(logged.steps)} logged rates, largest difference {abs(logged.values - planned[logged.steps - 1]).max():.0e}"
)
assert np.allclose(logged.values, planned[logged.steps - 1], rtol=1e-6)
learning_rates(histories, [planned])

# %% [markdown]
# The training loss is above the validation loss because it includes label smoothing and dropout.

# %%
learning_curves(histories)

# %% [markdown]
# ## Look inside the trained run
#
# `transformer.load` returns the run. Layers are stacked, so a layer's parameters are one line, and so is its attention:

# %%
run = transformer.load(config.run_dir)
decoder_layer = jax.tree.map(lambda leaf: leaf[0], run.params["params"]["decoder"]["layers"])
print("value kernel of the cross-attention", decoder_layer["cross_attention"]["value"]["kernel"].shape)
view = run.attention("old dog runs", "alt hund eilt")
print("cross-attention of the first layer [H, Q, K]", view.weights["cross"][0].shape)

# %% [markdown]
# ## Something to try
#
# - Plot `rates` of the schedules "cosine" and "warmup_stable_decay" beside the paper's, through `learning_rate` and
#   `OptimizerConfig`.
# - Train the small run with `positions="rotary"` or "learned". Word-for-word translation needs positions in the
#   cross-attention: which of them learns it faster?
# - Draw `dot_products` of `ops.sinusoidal_positions(1000, D, "interleaved")[900:]`. What has changed, and why?
