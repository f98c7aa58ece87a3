"""Translate with an exported model, using ctranslate2 and tokenizers alone.

    transformer export RUN FOLDER --to ctranslate2
    pip install ctranslate2 tokenizers
    python run_ctranslate2.py FOLDER < source.txt > translation.txt

If FOLDER/config.json contains `"normalization": "nfc"`, normalize the text first, as the exported run does. Remove
U+200B, U+2060, U+FEFF and U+00AD, and then take `" ".join(unicodedata.normalize("NFC", text).split())`.

Add `compute_type="int8"` to the arguments of `Translator` for a smaller and, on many machines, faster model.
"""

import json
import sys
from pathlib import Path

import ctranslate2
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
end = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token"]
translator = ctranslate2.Translator(str(folder), compute_type="float32")
lines = [line.rstrip("\n") for line in sys.stdin]
found = translator.translate_batch(
    [[*tokenizer.encode(line, add_special_tokens=False).tokens, end] for line in lines],
    beam_size=4,
    length_penalty=0.6,  # divides log-probabilities by length ** 0.6
    max_input_length=0,  # no source is cut
    min_decoding_length=0,
    max_batch_size=2048,
    batch_type="tokens",
)
ids = tokenizer.get_vocab()
for best in found:
    print(tokenizer.decode([ids[token] for token in best.hypotheses[0]]))
