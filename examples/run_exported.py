"""Translate with an exported search, using jax alone.

    pip install jax flatbuffers
    python run_exported.py FILE < source.ids > translation.ids

FILE is what `transformer export RUN FILE` wrote; jax needs flatbuffers to read it. Each line is one sentence, as token
ids separated by spaces. The package tokenizers converts between text and ids. With
`tokenizer = Tokenizer.from_file("FILE.tokenizer.json")`, call `tokenizer.encode(text, add_special_tokens=False).ids`
and `tokenizer.decode(ids)`.

If FILE.json contains `"normalization": "nfc"`, normalize the text first, as the exported run does. Remove U+200B,
U+2060, U+FEFF and U+00AD, and then take `" ".join(unicodedata.normalize("NFC", text).split())`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

search = jax.jit(jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes())).call)
about = json.loads(Path(sys.argv[1] + ".json").read_text())
lines = [[*map(int, line.split()), about["end_id"]] if line.strip() else [] for line in sys.stdin]
if not lines:
    sys.exit()
width = max(1, *map(len, lines))
if width > about["max_length"]:
    limit = about["max_length"] - 1
    print(f"A sentence has {width - 1} ids, but the exported search takes at most {limit}. Split it.", file=sys.stderr)
    sys.exit(2)
source = np.full((len(lines), width), about["pad_id"], np.int32)
for row, ids in zip(source, lines, strict=True):
    row[: len(ids)] = ids
tokens, scores, lengths = search(source)
for best, length in zip(tokens[:, 0].tolist(), lengths[:, 0].tolist(), strict=True):
    print(*best[: max(length - 1, 0)])
