"""Run what `transformer export RUN FILE` wrote, with jax alone (and flatbuffers, with which jax reads it).

    pip install jax flatbuffers && python run_exported.py FILE < source.ids > translation.ids

One sentence a line: its token ids, separated by spaces. The package tokenizers makes them of text and text of them:
`Tokenizer.from_file("FILE.tokenizer.json")`, then `.encode(text, add_special_tokens=False).ids` and `.decode(ids)`.
If FILE.json has `"normalization": "nfc"`, first take U+200B, U+2060, U+FEFF and U+00AD out of a text, and then encode
`" ".join(unicodedata.normalize("NFC", text).split())`, as the run that was exported does.
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
    print(f"A sentence may have {about['max_length'] - 1} ids, but one has {width - 1}: split it.", file=sys.stderr)
    sys.exit(2)
source = np.full((len(lines), width), about["pad_id"], np.int32)
for row, ids in zip(source, lines, strict=True):
    row[: len(ids)] = ids
tokens, scores, lengths = search(source)
for best, length in zip(tokens[:, 0].tolist(), lengths[:, 0].tolist(), strict=True):
    print(*best[: max(length - 1, 0)])
