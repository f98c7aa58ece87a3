"""A byte-level BPE tokenizer of ours for Hugging Face's `PreTrainedTokenizerFast`.

That class reads our `tokenizer.json`. What this package does around that file becomes part of it: the normalization of
text, and the end token after each sentence.
"""

import json
import sys
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, processors

from transformer.data.normalization import INVISIBLE
from transformer.data.tokenizer_bpe import BpeTokenizer


def fast_tokenizer(tokenizer: BpeTokenizer) -> tuple[str, dict[str, Any]]:
    """Converts a tokenizer to one that encodes text in the same way without this package.

    It gives the token ids of `tokenizer.encode`, and then the end id. Text that spells a special token stays text.

    Args:
        tokenizer: The tokenizer of a run.

    Returns:
        The text of `tokenizer.json`, and the values of `tokenizer_config.json`.
    """
    converted = Tokenizer.from_str(tokenizer.text)
    converted.no_truncation()
    converted.no_padding()
    pad, start, end = (
        str(converted.id_to_token(index)) for index in (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
    )
    if tokenizer.normalization == "nfc":
        own = [] if converted.normalizer is None else [converted.normalizer]
        converted.normalizer = normalizers.Sequence([*_nfc(), *own])
    converted.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, tokenizer.end_id)]
    )
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "bos_token": start,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return json.dumps(json.loads(converted.to_str()), indent=1, ensure_ascii=False) + "\n", about


def _nfc() -> list[normalizers.Normalizer]:
    """The steps of `data.normalization.normalize`."""
    spaces = filter(str.isspace, map(chr, range(sys.maxunicode + 1)))
    return [
        normalizers.Replace(Regex(_one_of(map(chr, INVISIBLE))), ""),
        normalizers.NFC(),
        normalizers.Replace(Regex(f"{_one_of(spaces)}+"), " "),
        normalizers.Replace(Regex("^ | $"), ""),
    ]


def _one_of(characters: Any) -> str:
    return "[" + "".join(f"\\x{{{ord(character):x}}}" for character in characters) + "]"
