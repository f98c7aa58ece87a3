"""The process that measures one variant of a part of `accelerator.py`.

python -m accelerators.child PART VARIANT MEASURED.json FOLDER [--tiny]
"""

import importlib
import sys
from pathlib import Path

from accelerators.record import Record

MODULES = {
    "limit": "limit",
    "tests": "tests",
    "step": "step",
    "variants": "step",
    "kernels": "kernels",
    "start": "start",
    "decode": "decode",
    "torch": "peers",
}


def main() -> int:
    part, variant, file, folder, *tiny = sys.argv[1:]
    record = Record(Path(file), Path(folder), tiny=bool(tiny))
    module = importlib.import_module(f"accelerators.parts.{MODULES[part]}")
    module.run(variant, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
