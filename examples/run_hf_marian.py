"""Translates standard input with a model that `transformer export --to hf-marian` wrote, without transformer-jax.

    transformer export runs/quickstart exported --to hf-marian
    echo "The old dog sleeps." | python examples/run_hf_marian.py exported

It needs the packages transformers and torch. If the tokenizer was imported, it also needs sentencepiece.
"""

import sys
from typing import Any

import torch
from transformers import AutoTokenizer, MarianMTModel


def main() -> None:
    """Translates line by line with the settings of generation in the folder."""
    folder = sys.argv[1]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = MarianMTModel.from_pretrained(folder)
    for line in sys.stdin:
        with torch.no_grad():
            ids = model.generate(**tokenizer([line.rstrip("\n")], return_tensors="pt"))
        print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])


if __name__ == "__main__":
    main()
