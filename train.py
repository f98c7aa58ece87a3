"""The training job: `configs/quickstart.py`, unless `--config` names another; `--help` shows every field."""

import sys
from pathlib import Path

from transformer.cli import main

QUICKSTART = Path(__file__).parent / "configs" / "quickstart.py"

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not any(argument.split("=")[0] == "--config" for argument in arguments):
        arguments = ["--config", str(QUICKSTART), *arguments]
    sys.exit(main(["train", *arguments]))
