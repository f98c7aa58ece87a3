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
# # Add & Norm
#
# Every sub-layer of the Transformer has a residual connection and a normalization (section 3.1):
# `LayerNorm(x + Sublayer(x))`.
#
# **What you will learn.** What layer, RMS and batch norm average over, why batch norm does not suit sequences, and how
# the position of the norm and the warm-up shape the first gradients. Small models show it, trained here on the
# quickstart's corpus.
#
# **Time.** About 70 seconds on two CPU cores.

# %%
# %matplotlib inline
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import rcParams

from transformer import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, Transformer, ops
from transformer.analysis.figures import STYLE
from transformer.analysis.figures.norms import batch_mates, gradient_norms, seed_curves
from transformer.data.batches import Batches
from transformer.data.corpus import Report, read_pairs
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import tokenize
from transformer.inference.translator import Translator
from transformer.runtime import keep_freed_memory
from transformer.training.optimizer import make_optimizer, warmup_stable_decay_schedule
from transformer.training.step import create_state, train_step

keep_freed_memory()
rcParams.update(STYLE | {"figure.dpi": 150})

# %% [markdown]
# ## What is averaged over what
#
# Layer norm and RMS norm average over the features of one token. Batch norm averages one feature over all tokens of the
# batch. In the next cell, `x` is the residual stream and `y` the output of a sub-layer.

# %%
B, T, D = 4, 5, 64
x, y = 3 * jax.random.normal(jax.random.key(0), (2, B, T, D)) + 1
one, zero, token_mask = jnp.ones(D), jnp.zeros(D), jnp.ones((B, T), bool)
added = {
    "layer": ops.layer_norm(x + y, one, zero, 1e-6),
    "rms": ops.rms_norm(x + y, one, 1e-6),
    "batch": ops.batch_norm(
        x + y, one, zero, token_mask, zero, one, epsilon=1e-6, momentum=0.9, train=True, axis_name=None
    )[0],
}
for name, z in added.items():
    token = f"over a token {abs(z.mean(-1)).max():.4f} and {jnp.sqrt((z**2).mean(-1)).max():.4f}"
    feature = f"over a feature {abs(z.mean((0, 1))).max():.4f} and {jnp.sqrt((z**2).mean((0, 1))).max():.4f}"
    print(f"{name:<6} largest mean and root mean square {token}, {feature}")

# %% [markdown]
# ## Training with each norm
#
# The data are the shorter sentences of the quickstart's corpus, with a vocabulary of 1,000 tokens, packed into batches
# of one shape. The training step is a pure function, so `jax.vmap` trains three seeds at once. They differ in the
# initialization and see the same batches.

# %%
VOCABULARY, LENGTH = 1000, 16
tokenizer_config = TokenizerConfig()
data_config = DataConfig(corpus="package:quickstart.jsonl.xz", max_length=LENGTH)
train, validation = (read_pairs(data_config, split)[0] for split in ("train", "validation"))
tokenizer = BpeTokenizer.train(train.sources[:10_000] + train.targets[:10_000], VOCABULARY, tokenizer_config)
tokens = tokenize(train, tokenizer, data_config, Report(("quickstart",), len(train.sources)), filter=True)
batches = Batches(tokens, tokenizer_config, tokens=16 * LENGTH, row_multiple=1, seed=0)
print(f"{batches.per_epoch} batches an epoch, in the shape (S, T, rows) {batches.shape}")
print(tokenizer.tokens(batches[0].source[0]))

# %%
SEEDS, STEPS = range(3), 100
small = ModelConfig(
    vocabulary_size=VOCABULARY,
    d_model=64,
    num_heads=4,
    d_ff=128,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout=0.0,
    batch_norm_momentum=0.9,  # average over about ten batches, because the model changes fast
    max_positions=LENGTH,
    dtype="float32",
    scan_unroll=1,  # one compiled layer per stack, because compiling takes most of the time here
)
NORMS = {"layer norm": small, **{f"{n} norm": ModelConfig(**vars(small) | {"norm": n}) for n in ("rms", "batch")}}
schedule = OptimizerConfig(schedule="inverse_sqrt", peak=4e-3, warmup_steps=40)
of_seeds = lambda values: f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"  # noqa: E731
stacked = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)  # noqa: E731


def learn(config):
    """Trains all seeds, and returns their states and their training losses [seed, step]."""
    model, optimizer = Transformer(config), make_optimizer(schedule, config.d_model, STEPS)
    step = partial(train_step, model=model, optimizer=optimizer, label_smoothing=0.0, seed=0)
    step = jax.jit(jax.vmap(step, in_axes=(0, None)))
    state = stacked([create_state(model, optimizer, seed) for seed in SEEDS])
    losses = []
    for n in range(STEPS):
        state, metrics = step(state, batches[n])
        losses.append(metrics["loss_sum"] / metrics["target_tokens"])
    return state, np.stack(losses, 1)


learned = {name: learn(config) for name, config in NORMS.items()}

# %%
for name, (_, losses) in learned.items():
    print(f"{name:<10}  loss in the last 20 batches {of_seeds(losses[:, -20:].mean(1))}")
curves = {name: losses for name, (_, losses) in learned.items()}
seed_curves(np.arange(STEPS) + 1, curves, "training loss, nats per token")

# %% [markdown]
# Layer norm and RMS norm have almost the same curve: the mean, which RMS norm does not subtract, does not matter here.
# Batch norm reaches a lower loss here, in a small model and in batches of one shape. It does not suit sequences for
# another reason.
#
# ## The leak
#
# Under batch norm, the output for a sentence depends on the whole batch. The next cell puts one sentence into 32
# batches with different other sentences, and computes the log-probability of its translation as training does, with the
# first seed's model. Under layer norm and RMS norm it is the same number to the last bit.

# %%
first = {name: jax.tree.map(lambda leaf: np.asarray(leaf)[0], state) for name, (state, _) in learned.items()}
NUM_BATCHES, ROWS = 32, 32
sources, targets = (getattr(validation, side) + getattr(train, side)[:10_000] for side in ("sources", "targets"))
run = Translator(Config(data=data_config, model=small), Transformer(small), {}, tokenizer)
short = np.flatnonzero(run.fit(sources, targets))[: 1 + NUM_BATCHES * (ROWS - 1)]
pairs = run.batch([sources[n] for n in short], [targets[n] for n in short])  # one pair in each row
here = jax.tree.map(lambda leaf: leaf[0], pairs)  # the sentence
with_others = [
    jax.tree.map(lambda leaf, others=others: np.concatenate([leaf[:1], leaf[others]]), pairs)
    for others in np.arange(1, len(short)).reshape(NUM_BATCHES, ROWS - 1)
]


@partial(jax.jit, static_argnames=("config", "training"))
def log_probabilities(config, state, batch, training):
    """The log-probabilities [B, T] of the target tokens. A dropout key means training (the dropout rate is 0)."""
    key = ops.dropout_key(seed=0, step=0, row=batch.row) if training else None
    inputs = batch.source, batch.source_mask, batch.target_input, batch.target_mask, key
    statistics = [name for name in state.params if name != "params"]  # of batch norm
    (logits, _), _ = Transformer(config).apply(state.params, *inputs, mutable=statistics)
    of_tokens = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.target_output[..., None], -1)[..., 0]
    return jnp.where(batch.target_mask, of_tokens, 0)


def of_sentence(name, training):
    """The log-probability of the sentence's translation in each batch."""
    return np.array([log_probabilities(NORMS[name], first[name], batch, training)[0].sum() for batch in with_others])


trained = {name: of_sentence(name, training=True) for name in NORMS}
for name, values in trained.items():
    evaluated = of_sentence(name, training=False)
    ranges = [f"{which.min():8.3f} to {which.max():8.3f}" for which in (values, evaluated)]
    print(f"{name:<10}  training {ranges[0]}, evaluating {ranges[1]}")
    assert (np.ptp(values) == 0) == (name != "batch norm")
    assert np.ptp(evaluated) == 0
batch_mates(trained, "log-probability of one translation, in 32 batches")

# %% [markdown]
# The parameters and the attention weights of a layer are one line each:

# %%
params = first["layer norm"].params
first_layer = jax.tree.map(lambda leaf: leaf[0], params["params"]["encoder"]["layers"])
print("Add & Norm around the first self-attention", jax.tree.map(np.shape, first_layer["self_attention_norm"]))
_, attention = run.apply(params, here.source[None], here.target_input[None], return_weights=True)
print("self-attention of the first encoder layer [B, H, Q, K]", attention["encoder"][0].shape)

# %% [markdown]
# Batch norm also breaks the causal mask of the decoder (section 3.2.3). Its statistics include all positions, so in
# training the prediction of a token depends on later tokens of the same sentence, which the model is supposed to
# predict.

# %%
changed = with_others[0]._replace(target_input=with_others[0].target_input.copy())
end = int(here.target_mask.sum())
changed.target_input[0, end - 2 : end] = tokenizer.end_id  # other inputs at the last two positions
for name, config in NORMS.items():
    before, after = (log_probabilities(config, first[name], batch, True)[0] for batch in (with_others[0], changed))
    difference = abs(before - after)[: end - 2].max()
    print(f"{name:<10}  largest change of an earlier token's log-probability: {difference:.1e}")
    assert (difference == 0) == (name != "batch norm")

# %% [markdown]
# ## Post-norm or pre-norm, with and without warm-up
#
# Now the encoder and the decoder have four layers each, with layer norm after each sub-layer (`post`, as in the paper)
# or before it (`pre`). One program trains three seeds with the full learning rate from the first step, and three with a
# warm-up. It records the gradient norm of every layer, √(Σ g²) over the elements of the layer.

# %%
EARLY, WARMUPS = 20, jnp.array([1, 20])
deep = ModelConfig(**vars(small) | {"num_encoder_layers": 4, "num_decoder_layers": 4})
LAYERS = [f"{side} {layer}" for side in ("encoder", "decoder") for layer in range(4)]


def layer_norms(gradient):
    """The gradient norms [2 L] of the encoder's layers, bottom to top, then of the decoder's."""
    stacks = (gradient[side]["layers"] for side in ("encoder", "decoder"))
    return jnp.concatenate([jax.vmap(optax.tree.norm)(layers) for layers in stacks])


# As the first transformation of the chain it sees the gradient that Adam receives. It keeps the norms as its state.
watch_norms = optax.GradientTransformation(
    lambda params: jnp.zeros(len(LAYERS)), lambda gradient, state, params=None: (gradient, layer_norms(gradient))
)


def begin(norm_position):
    """Losses [seed, warm-up, step] and gradient norms [seed, warm-up, step, layer] of the first steps."""
    model = Transformer(ModelConfig(**vars(deep) | {"norm_position": norm_position}))

    def optimizer(warmup):
        rate = warmup_stable_decay_schedule(2e-3, warmup, steps=10**6, final_fraction=0.0)
        return optax.chain(watch_norms, optax.adam(rate, 0.9, 0.98, 1e-9))

    def step(state, warmup, batch):
        return train_step(state, batch, model=model, optimizer=optimizer(warmup), label_smoothing=0.0, seed=0)

    step = jax.jit(jax.vmap(jax.vmap(step, in_axes=(0, 0, None)), in_axes=(0, None, None)))
    state = stacked([stacked([create_state(model, optimizer(1), seed)] * len(WARMUPS)) for seed in SEEDS])
    losses, norms = [], []
    for n in range(EARLY):
        state, metrics = step(state, WARMUPS, batches[n])
        losses.append(metrics["loss_sum"] / metrics["target_tokens"])
        norms.append(state.optimizer_state[0])
    return np.stack(losses, -1), np.stack(norms, -2)


begun = {f"{position}-norm": begin(position) for position in ("post", "pre")}

# %%
runs = {
    f"{position}, {kind}": (losses[:, index], norms[:, index])
    for position, (losses, norms) in begun.items()
    for index, kind in enumerate(("no warm-up", f"warm-up of {WARMUPS[1]}"))
}
BOTTOM, TOP = LAYERS.index("encoder 0"), LAYERS.index("encoder 3")
for name, (losses, norms) in runs.items():
    top_to_bottom = norms[..., TOP] / norms[..., BOTTOM]  # [seeds, steps]
    ratios = ", ".join(f"{top_to_bottom[:, n - 1].mean():.1f} at step {n}" for n in (1, 10, EARLY))
    print(f"{name:<24} loss {of_seeds(losses[:, -1])}; gradient of the encoder's top / bottom layer {ratios}")
# The picture shows the geometric mean over the seeds.
gradient_norms({name: np.exp(np.log(norms).mean(0)) for name, (_, norms) in runs.items()}, LAYERS)

# %% [markdown]
# With post-norm, the gradient of the decoder grows from layer to layer towards the output, already at the first step.
# The encoder follows within a few steps. With pre-norm, the layers of a stack have similar gradients, because no norm
# interrupts the residual stream between a layer and the output.
#
# After the first step, the learning rate matters. At its full value from the start, the lower layers of post-norm soon
# receive a small fraction of the gradient of the upper ones. Warm-up preserves more of it, and pre-norm hardly needs
# warm-up. The loss does not show this within so few steps; it is lower with the higher rate.

# %%
for n in (10, EARLY):
    ratio = {name: (norms[:, n - 1, TOP] / norms[:, n - 1, BOTTOM]) for name, (_, norms) in runs.items()}
    post, warmed, pre, _ = ratio.values()  # of each seed
    assert (post > warmed).all()
    assert (warmed > pre).all()

# %%
seed_curves(np.arange(EARLY) + 1, {name: losses for name, (losses, _) in runs.items()}, "training loss, nats per token")

# %% [markdown]
# ## Something to try
#
# - Put the sentence into smaller batches: set `ROWS` to 4. How much wider does the range of batch norm get?
# - Raise `peak` or the rate of the deep models until post-norm without warm-up stops learning. How far does pre-norm
#   go?
# - Add a norm of your own, in ten lines (`CONTRIBUTING.md`), and put its name into `NORMS`.
