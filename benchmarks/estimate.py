"""Estimate how long a program would run on an H100, from its optimized HLO.

    python benchmarks/compiled.py --target h100 --config base --save PROGRAM.hlo
    python benchmarks/estimate.py PROGRAM.hlo --top 20

`transformer/planning/kernels.py` says what is estimated, and how well.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

from transformer.planning.hlo import parse
from transformer.planning.kernels import PEAK, Kernel, kernels, total
from transformer.planning.products import never_run

# What kernels compute, by patterns of their kind and origin. The first pattern that is found counts.
PURPOSES = {
    "products of the logits": r"^product .*loss\)+/while",
    "products of the feed-forward network": r"^product .*feed_forward",
    "products around attention": r"^product .*attention",
    "softmax of the loss": r"loss\)+/(while|[^/]+$)",
    "attention": r"^attention_|fmha|_attention/",
    "activation and biases of the feed-forward network": r"/feed_forward/",
    "norms, dropout and residuals": r"_norm/|dropout",
    "embedding": r"/Transformer\._embed|/Transformer\._positions",
    "optimizer": r"train_step\)/\w+$",
}


def purpose(kernel: Kernel) -> str:
    """What a kernel of the training step is for, or `other`."""
    described = f"{kernel.opcode} {kernel.origin}"
    return next((name for name, pattern in PURPOSES.items() if re.search(pattern, described)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("program", type=Path, metavar="PROGRAM.hlo")
    parser.add_argument("--top", type=int, default=20, help="number of kernels to show, the most expensive first")
    options = parser.parse_args()
    try:
        program = parse(options.program.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    launched = sorted(kernels(program), reverse=True)
    overall = total(launched)
    at_peak = overall.flops / PEAK
    print(f"{1e3 * overall.seconds:.2f} ms estimated; {overall.launches:,} kernels", end="; ")
    print(f"{overall.bytes / 1e9:.1f} GB moved; {overall.flops / 1e12:.2f} TFLOP in products", end=", ")
    print(f"{1e3 * at_peak:.2f} ms at the peak ({at_peak / overall.seconds:.0%})")
    if names := never_run(program):
        print(f"The estimate depends on kernels that have not run on a card: {', '.join(names)}")
    groups: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in launched:
        groups[purpose(kernel)].append(kernel)
    for name, group in sorted(groups.items(), key=lambda item: total(item[1]), reverse=True):
        costs = total(group)
        print(
            f"  {name:50} {1e3 * costs.seconds:6.2f} ms {costs.bytes / 1e9:6.1f} GB {costs.launches:5} kernels", end=" "
        )
        print(f"{costs.flops / 1e12:5.2f} TFLOP")
    for kernel in launched[: options.top]:
        costs = f"{1e6 * kernel.seconds:7.0f} us {kernel.bytes / 1e6:7.0f} MB x{kernel.launches:<3}"
        print(f"  {costs} {kernel.opcode} {kernel.name}  {kernel.origin[-72:]}")


if __name__ == "__main__":
    main()
