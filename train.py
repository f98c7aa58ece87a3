"""Train a model, like `transformer train`.

Without options this trains the quickstart. `--config` names another experiment, and `--help` lists every option.
"""

import sys

from transformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
