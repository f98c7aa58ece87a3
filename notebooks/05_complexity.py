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
# # What a layer costs
#
# **What you will learn.** Why the paper uses attention instead of recurrence or convolution: how many operations each
# layer needs, how many of them must run one after another, and how long the path between two positions is.
#
# **Time.** About 20 seconds on two CPU cores.
#
# Section 4 of the paper compares these three quantities. Table 1 has their formulas, for `n` positions with `d`
# features each, a kernel of width `k`, and a neighbourhood of `r` positions. The next cell evaluates them for the base
# model, on a sentence and on a long document.

# %%
from functools import partial

from IPython.display import Image

from transformer import ops
from transformer.analysis.complexity.formulas import TABLE, Size
from transformer.analysis.complexity.layers import (
    ATTENTION,
    CONVOLUTION,
    GRU,
    LAYERS,
    PROJECTED,
    RESTRICTED,
    ROW_OF,
    make_layers,
)
from transformer.analysis.complexity.measure import device, measure
from transformer.analysis.complexity.paths import dependencies, path_lengths, step_dependencies
from transformer.analysis.complexity.report import Report
from transformer.analysis.complexity.settings import Settings
from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.complexity import draw

for n in (50, 5000):
    print(f"{f'n = {n}, d = 512':<34}{'operations':>27}{'sequential':>18}{'longest path':>18}")
    for row in TABLE:
        orders = (row.operations, row.sequential, row.path)
        cells = [f"O({order.formula}) {order.count(Size(n, 512, 3, 33)):,}" for order in orders]
        print(f"    {row.layer:<30}{cells[0]:>27}{cells[1]:>18}{cells[2]:>18}")

# %% [markdown]
# Attention needs fewer operations than recurrence as long as `n < d`. Its number of sequential operations does not grow
# with the sequence, and one layer connects every position to every other.
#
# ## The layers
#
# Each layer is a pure function with its parameters. One line gives a layer's parameters, and one its attention weights:

# %%
layers = make_layers(Size(n=11, d=4, k=3, r=5))
print({name: part["kernel"].shape for name, part in layers[PROJECTED].params["params"].items()})
x = layers[ATTENTION].x  # [B, n, d]
print("attention weights [B, n, n]", ops.scaled_dot_product_attention(x, x, x, return_weights=True)[1].shape)

# %% [markdown]
# ## The longest path, from the Jacobians
#
# Output `t` depends on input `s` where element (t, s) of the Jacobian is not zero. In attention, every output depends
# on every input. In a causal convolution, it depends on as many inputs as the kernel is wide. One step of a recurrent
# layer depends on the previous state only, so earlier inputs reach it through all the states between.

# %%
graphs = {name: dependencies(layers[name]) for name in (ATTENTION, RESTRICTED, CONVOLUTION)}
graphs["GRU's step"] = step_dependencies(layers[GRU])[1]
print("   ".join(f"{name.split()[0]:<11}" for name in graphs))
for rows in zip(*graphs.values(), strict=True):
    print("   ".join("".join("#" if edge else "." for edge in row) for row in rows))

# %% [markdown]
# Stacking layers multiplies these matrices. How many layers does it take until every output depends on every input, or,
# in causal layers, on every input up to its own position? The next cell counts them instead of quoting the paper:

# %%
n, kernel, neighbourhood = 24, 3, 5
for layer, length in path_lengths(n, kernel, neighbourhood).items():
    (row,) = (row for row in TABLE if row.layer == layer)
    print(f"{layer:<27} O({row.path.formula}): {length} at n = {n}, k = {kernel}, r = {neighbourhood}")

# %% [markdown]
# ## The operations, counted by XLA
#
# Now the real layers: this project's attention (with and without projections, and restricted to a neighbourhood), and
# the GRU, LSTM and convolution of Flax. Each is compiled at several `n` and `d`, and XLA reports the operations of the
# program. XLA counts the body of a loop once, so a recurrent step is counted alone and multiplied by `n`.
#
# The table shows each count divided by the formula of Table 1. For each layer the quotient is about the same at every
# size: it is the constant that the O hides.

# %%
settings = Settings(lengths=(16, 64, 256), widths=(32, 64), neighbourhood=17)
report = Report(settings, device(), [*measure(settings, ["forward"])], {})
formulas = {row.layer: row.operations for row in TABLE}
sizes = [(one.n, one.d) for one in report.select(GRU, "forward")]
print(f"{'layer':<22}{'formula':<10}" + "".join(f"{f'n={n} d={d}':>12}" for n, d in sizes))
for layer, row in ROW_OF.items():
    order = formulas[row]
    counts = [report.at(layer, "forward", n, d).flops / order.count(Size(n, d, 3, 17)) for n, d in sizes]
    print(f"{layer:<22}{order.formula:<10}" + "".join(f"{count:>12.1f}" for count in counts))

# %% [markdown]
# By the formulas, `n^2 d` and `n d^2` are equal at `n = d`. With their constants, they are equal later. Attention has
# two products (Q with K, weights with V), so 4 operations for each `n^2 d`. A GRU has six products, so 12 operations
# for each `n d^2`, and an LSTM has eight. Attention therefore needs fewer operations than a GRU up to `n = 3 d`, and
# fewer than an LSTM up to `n = 4 d`.
#
# ## The time
#
# Fewer operations need not take less time. A GRU must finish one position before it starts the next, so each of its
# products is a matrix times one vector, however long the sequence is. Attention and convolution multiply all positions
# at once, and reach more operations per second. The times are medians of several runs with their range, because they
# vary with the machine and its load.

# %%
n, d = report.largest.n, report.largest.d
print(f"{device()}, n = {n}, d = {d}")
for layer in LAYERS:
    one = report.at(layer, "forward", n, d)
    times = f"{one.seconds * 1e3:7.2f} ms ({one.fastest * 1e3:.2f} to {one.slowest * 1e3:.2f})"
    print(f"{layer:<26} {one.flops / 1e6:6.1f} MFLOP {times:<30} {one.flops / one.seconds / 1e9:5.1f} GFLOP/s")

# %%
Image(to_bytes(partial(draw, report), "png"))

# %% [markdown]
# `transformer complexity` measures a larger grid, with gradients, and writes tables, JSON and a plot.
#
# ## Something to try
#
# - Set `lengths=(16, 64, 1024)` in the settings. From which length on is attention slower than a GRU here, and how does
#   that compare with `n = 3 d`?
# - Measure both directions, `["forward", "forward and backward"]`. Does the gradient change the order of the layers?
# - With a neighbourhood of 3, how many layers of restricted attention does the longest path need?
