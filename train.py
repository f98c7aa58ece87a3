"""The training job: `python train.py --config configs/multi30k.py --data.train ...`; `--help` shows every field."""

import sys

from transformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
