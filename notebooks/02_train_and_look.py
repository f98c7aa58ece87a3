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
# The quickstart in a notebook: a model of the package's synthetic corpus, its translations, and where a pronoun looks.
# "it" becomes *er*, *sie* or *es* by the gender of the German noun that it stands for, so a model that translates it
# rightly must have found that noun.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import transformer
from transformer.config_files import load_config
from transformer.data.corpus import read_pairs

config = load_config("quickstart")

# %% [markdown]
# Training is one call, `transformer.train(config)`, or one command, `python train.py`. Interrupt it, and the same call
# goes on. It takes about four minutes on two cores, so this notebook does not do it: it looks for the run in its own
# folder and in those above it, and finds the one that `python train.py` has made in the project's folder.


# %%
def find_run(run_dir):
    """The directory of a trained run, here or in a folder above."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / run_dir / "scores.json").exists():
            return folder / run_dir
    raise FileNotFoundError(
        f"There is no trained run {run_dir} in {Path.cwd()} or above it. Train it first, with `python train.py` in the "
        "project's folder or with transformer.train(config) here: about four minutes on two cores."
    )


run_dir = find_run(config.run_dir)

# %% [markdown]
# ## Translate
#
# A run loads on any machine. What it holds: `config`, `params`, `tokenizer`, `model`.

# %%
run = transformer.load(run_dir)
print(f"{run.num_parameters:,} parameters")
test, _ = read_pairs(config.data, "test")
about_it = test.select([i for i, source in enumerate(test.sources) if " it " in source and "pronoun" in test.tags[i]])
translations = run.translate(about_it.sources)
for source, target, translation in list(zip(about_it.sources, about_it.targets, translations, strict=True))[:5]:
    print(f"{source}\n    {translation}\n    {'right' if translation == target else target}")

# %% [markdown]
# ## Look
#
# Every layer and head at a glance: point at a word, or go there with the keyboard, and see where it looks.

# %%
english, german = about_it.sources[0], about_it.targets[0]
run.attention(english, german)

# %% [markdown]
# The same as arrays. `apply` is the jitted model: parameters and token ids in, logits and attention weights out. The
# cross-attention of the last layer, averaged over its heads, for the same sentence and its reference:

# %%
batch = run.batch([english], [german])
logits, attention = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
source, target = run.tokenizer.pieces(batch.source[0]), run.tokenizer.pieces(batch.target_output[0])
print({name: weights.shape for name, weights in attention.items()})


# %%
def draw(weights, rows, columns, title):
    """A heat map: the row looks at the column."""
    _, axes = plt.subplots(figsize=(0.4 * len(columns) + 2, 0.35 * len(rows) + 1.5), layout="constrained")
    axes.imshow(weights, cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    plt.show()


cross = np.asarray(attention["cross"][-1, 0]).mean(0)
draw(cross, target, source, "cross-attention, last layer, mean of the heads")

# %% [markdown]
# In the encoder, "it" may look at the noun already. Of all heads, the one whose "it" gives another word the most
# weight:

# %%
it = source.index("it")
heads = {
    (layer, head): weights
    for layer, of_layer in enumerate(np.asarray(attention["encoder"][:, 0]))
    for head, weights in enumerate(of_layer)
}
others = [place for place, piece in enumerate(source) if piece not in ("it", "</s>")]
(layer, head), weights = max(heads.items(), key=lambda item: item[1][it, others].max())
looked_at = others[int(weights[it, others].argmax())]
print(f"encoder layer {layer}, head {head}: 'it' looks at {source[looked_at]!r} with {weights[it, looked_at]:.2f}")
draw(weights, source, source, f"encoder self-attention, layer {layer}, head {head}")

# %% [markdown]
# ## Evaluate a checkpoint
#
# Exact match is a fair score here: in this corpus an English sentence has one translation. The test sentences combine
# words and constructions that were held out of training.

# %%
scores, _ = transformer.load(run_dir, "best").evaluate(test.select(range(500)))
print(scores.to_text())
