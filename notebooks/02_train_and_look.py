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
# # Train and look
#
# **What you will learn.** How to load a trained run, translate with it, see what its heads attend to, and score it. The
# example is a pronoun. German has *er*, *sie* and *es* for "it", depending on the gender of the noun that it stands
# for. So a model that translates "it" correctly must have found that noun.
#
# **Time.** About 25 seconds on two CPU cores, once the quickstart is trained. Training it takes about four minutes.

# %%
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import transformer
from transformer.config_files import load_config
from transformer.data.corpus import read_pairs

config = load_config("quickstart")

# %% [markdown]
# This notebook does not train. One command does, `python train.py` in the project's folder, and so does one call,
# `transformer.train(config)`. Either can be interrupted; the same command or call resumes the run.
#
# The next cell searches for the run in this notebook's folder and in the folders above it. So it finds the run of
# `python train.py` when Jupyter opens the notebook from `notebooks/`.


# %%
def find_run(run_dir):
    """The directory of a trained run, in this folder or in one above it."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / run_dir / "scores.json").exists():
            return folder / run_dir
    raise FileNotFoundError(
        f"Found no trained run {run_dir} in {Path.cwd()} or in a folder above it. Train it with `python train.py` in "
        "the project's folder, or with transformer.train(config) here. Either takes about four minutes on two cores."
    )


run_dir = find_run(config.run_dir)

# %% [markdown]
# ## Translate
#
# A run loads on any machine. It has the `config`, the parameters (`params`), the `tokenizer` and the linen `model`.

# %%
run = transformer.load(run_dir)
print(f"{run.num_parameters:,} parameters")
test, _ = read_pairs(config.data, "test")
about_it = test.select([i for i, source in enumerate(test.sources) if " it " in source and "pronoun" in test.tags[i]])
translations = run.translate(about_it.sources)
for source, target, translation in list(zip(about_it.sources, about_it.targets, translations, strict=True))[:5]:
    print(f"{source}\n    {translation}\n    {'correct' if translation == target else f'expected: {target}'}")

# %% [markdown]
# ## Look
#
# One line shows every layer and head of a sentence pair. Point at a word, or select it with the keyboard, to see which
# words it attends to.

# %%
english, german = about_it.sources[0], about_it.targets[0]
run.attention(english, german)

# %% [markdown]
# The same weights as arrays: `apply` is the jitted model, which takes parameters and token ids and returns logits and
# attention weights. Layers are stacked, so a layer's parameters and a layer's attention weights are one line each.

# %%
batch = run.batch([english], [german])
logits, attention = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
first_layer = jax.tree.map(lambda leaf: leaf[0], run.params["params"]["encoder"]["layers"])
print("query kernel of the first encoder layer", first_layer["self_attention"]["query"]["kernel"].shape)
print("self-attention of the first encoder layer [B, H, Q, K]", attention["encoder"][0].shape)

# %% [markdown]
# The cross-attention of the last decoder layer, averaged over its heads. A row is a token of the translation, a column
# is a source token, and each row sums to 1.

# %%
source, target = run.tokenizer.tokens(batch.source[0]), run.tokenizer.tokens(batch.target_output[0])


def draw(weights, rows, columns, title):
    """Draws a heat map whose rows are queries and whose columns are keys."""
    _, axes = plt.subplots(figsize=(0.4 * len(columns) + 2, 0.35 * len(rows) + 1.5), layout="constrained")
    axes.imshow(weights, cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    plt.show()


cross = np.asarray(attention["cross"][-1, 0]).mean(0)
draw(cross, target, source, "cross-attention, last layer, mean of the heads")

# %% [markdown]
# The encoder may resolve "it" already. The next cell picks the encoder head in which "it" gives the most weight to
# another word.

# %%
it = source.index("it")
heads = {
    (layer, head): weights
    for layer, of_layer in enumerate(np.asarray(attention["encoder"][:, 0]))
    for head, weights in enumerate(of_layer)
}
others = [position for position, token in enumerate(source) if token not in ("it", "</s>")]
(layer, head), weights = max(heads.items(), key=lambda item: item[1][it, others].max())
attended = others[int(weights[it, others].argmax())]
print(f"encoder layer {layer}, head {head}: weight {weights[it, attended]:.2f} from 'it' to {source[attended]!r}")
draw(weights, source, source, f"encoder self-attention, layer {layer}, head {head}")

# %% [markdown]
# ## Evaluate a checkpoint
#
# Exact match is a fair score here, because in this corpus an English sentence has exactly one translation. The test
# sentences combine words and constructions in ways that were held out of training.

# %%
scores, _ = transformer.load(run_dir, "best").evaluate(test.select(range(500)))
print(scores.to_text())

# %% [markdown]
# ## Something to try
#
# - Replace the noun that "it" stands for by one of another gender, and call `run.translate` and `run.attention` again.
#   Does the pronoun follow?
# - `transformer heads runs/quickstart` measures every head: what it attends to, how often it resolves "it", and how
#   much the loss grows without it. Is the head that you found among the important ones?
# - Set the weights of that head to zero in `run.params`, and `dataclasses.replace(run,
#   params=changed).save("runs/changed")` writes a run on which every command works.
