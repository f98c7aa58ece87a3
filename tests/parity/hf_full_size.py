"""Compares full-size models with transformers, by hand: `python tests/parity/hf_full_size.py`.

The test suite does the same with small models. docs/interop.md records the result.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hf_comparison import differences, outputs
from hf_models import lines_of_text, write_model, write_tokenizer

from transformer.interop.importing import import_model

LARGE = {
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "activation_function": "swish",
}
VOCABULARY, SENTENCES, TIE = 65_001, 500, 1e-4


def main(beam_sizes: Sequence[int] = (1, 4)) -> None:
    """Prints the largest differences of one model with 6 + 6 layers, and its translations that differ."""
    lines = lines_of_text(10_000)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        tokenizer = write_tokenizer(folder, lines, 4_000, separate=False, fill_to=VOCABULARY - 1)
        model = write_model(folder, tokenizer, **LARGE)
        started = time.perf_counter()
        run, _ = import_model(folder, Path(parent) / "run")
        print(f"imported {run.num_parameters:,} parameters in {time.perf_counter() - started:.0f} s")
        for side, vocabulary, given in (
            ("source", run.tokenizer.source, {"text": lines}),
            ("target", run.tokenizer.target, {"text_target": lines}),
        ):
            same = [[*ids, 0] for ids in vocabulary.encode_batch(lines)] == tokenizer(**given).input_ids
            print(f"{side} token ids of {len(lines):,} lines: {'equal' if same else 'DIFFERENT'}")
        theirs, ours = outputs(run, model, tokenizer, lines[:40])
        for name, expected, computed in zip(theirs._fields, theirs, ours, strict=True):
            apart = np.abs(expected - computed).max()
            print(f"{name}: up to {apart:.1e} apart, values up to {np.abs(expected).max():.1f}")
        for beam_size in beam_sizes:
            found = differences(run, model, tokenizer, lines[:SENTENCES], beam_size)
            print(f"beam {beam_size}: {SENTENCES - len(found)} of {SENTENCES} translations equal", flush=True)
            for one in found:
                tie = "a tie" if abs(one.their_score - one.our_score) < TIE else "NO TIE"
                print(f"  {tie}: {one.their_score:.5f} {one.theirs!r}, ours {one.our_score:.5f} {one.ours!r}")


if __name__ == "__main__":
    main()
