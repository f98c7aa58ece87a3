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
# Why attention, and not recurrence or convolution? Section 4 of the paper compares three things: the operations of a
# layer, the steps that must wait for one another, and the longest path of a signal between two positions. Its Table 1
# has them as formulas: `n` positions with `d` features each, a kernel of width `k`, a neighbourhood of `r` positions.
# Here is what they come to for a sentence and for a long document in the base model.

# %%
from functools import partial

from IPython.display import Image

from transformer.analysis.complexity.formulas import TABLE, Size
from transformer.analysis.complexity.layers import ATTENTION, CONVOLUTION, GRU, LAYERS, RESTRICTED, ROW_OF, make_layers
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
# Attention is the cheaper layer as long as `n < d`. It needs no more steps in a row for a longer sequence, and from any
# position to any other it is one layer.
#
# ## The path, from the layers themselves
#
# Output `t` depends on input `s` where that element of the Jacobian is not zero. Attention: everywhere. A (causal)
# convolution: on its kernel's width. The step of a recurrent layer: on the state just before; whatever lies further
# back has to come through all the states in between.

# %%
layers = make_layers(Size(n=11, d=4, k=3, r=5))
graphs = {name: dependencies(layers[name]) for name in (ATTENTION, RESTRICTED, CONVOLUTION)}
graphs["GRU's step"] = step_dependencies(layers[GRU])[1]
print("   ".join(f"{name.split()[0]:<11}" for name in graphs))
for rows in zip(*graphs.values(), strict=True):
    print("   ".join("".join("#" if edge else "." for edge in row) for row in rows))

# %% [markdown]
# Stacking layers multiplies these matrices. How many of them until everything has reached everything (for convolution
# and recurrence: everything up to its own place)? Nothing here is quoted from the paper:

# %%
n, kernel, neighbourhood = 24, 3, 5
for layer, length in path_lengths(n, kernel, neighbourhood).items():
    (row,) = (row for row in TABLE if row.layer == layer)
    print(f"{layer:<27} O({row.path.formula}): {length} at n = {n}, k = {kernel}, r = {neighbourhood}")

# %% [markdown]
# ## The operations, counted by XLA
#
# Now the real layers: our attention, with and without its projections and in blocks for a neighbourhood, and flax's
# GRU, LSTM and convolution. Each is compiled at several `n` and `d`, and XLA says how many operations the program has.
# (It counts the body of a loop once, so a recurrent layer's step is counted alone and multiplied by `n`.)
# Divided by the formula of Table 1, the counts leave about the same factor at every size: that is what the O hides.

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
# Where do `n^2 d` and `n d^2` meet? At `n = d`, by the formulas. But attention multiplies twice (Q with K, weights with
# V), 4 operations for each `n^2 d`; a GRU has six products, 12 operations for each `n d^2`, and an LSTM eight. So
# attention has fewer operations than a GRU up to `n = 3 d`, and than an LSTM up to `n = 4 d`.
#
# ## The time
#
# Operations are not time. A GRU cannot begin a position before the one in front of it is done, so each of its products
# is of a matrix with one vector, however long the sequence: the device gets through fewer operations in a second than
# in attention or convolution, whose products take all positions at once. (Times are the median of several runs, and
# differ with the machine and with what else it is doing: hence the range.)

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
# The same over a larger grid, with gradients, as tables, JSON and a plot: `transformer complexity`.
