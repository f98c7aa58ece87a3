"""`transformer train` with the plain way in the place of what makes it fast: the same losses, more slowly.

    python benchmarks/plain_training.py --config configs/multi30k.py --run-dir runs/plain ...

takes the options of `transformer train`. Dropout stays as it is, for other masks would be another experiment.
"""

import sys

from peers.without import VARIANTS

from transformer.cli import main

if __name__ == "__main__":
    for name in ("transposes", "products", "norm", "chunks"):
        VARIANTS[name]()
    sys.exit(main(["train", *sys.argv[1:]]))
