"""The training job, as `transformer train`: the quickstart unless `--config` names another; `--help` has all fields."""

import sys

from transformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
