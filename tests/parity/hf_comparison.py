"""What a run and a `MarianMTModel` of transformers compute of the same sentences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from transformer.inference.translator import Translator
from transformer.shapes import Side


class Outputs(NamedTuple):
    """Last hidden states of encoder and decoder, and logits, of the tokens only."""

    encoder: np.ndarray
    decoder: np.ndarray
    logits: np.ndarray


def outputs(run: Translator, model: Any, tokenizer: Any, sentences: Sequence[str]) -> tuple[Outputs, Outputs]:
    """Reads the first half of the sentences as sources and the second half as targets: theirs and ours."""
    half = len(sentences) // 2
    source = tokenizer(sentences[:half], return_tensors="pt", padding=True)
    target = tokenizer(text_target=sentences[half : 2 * half], return_tensors="pt", padding=True)
    inputs = torch.roll(target.input_ids, 1, 1)
    inputs[:, 0] = model.config.decoder_start_token_id
    with torch.no_grad():
        found = model.model(**source, decoder_input_ids=inputs)
        logits = model(**source, decoder_input_ids=inputs).logits

    @jax.jit
    def ours(params: Any, source: Side, target: Side) -> Outputs:
        memory, _ = run.model.apply(params, source, method="encode")
        hidden, _ = run.model.apply(params, target, memory, source, method="decode")
        logits: Any = run.model.apply(params, hidden, method="logits")
        return Outputs(memory, hidden, logits)

    source_mask, target_mask = (side.attention_mask.numpy().astype(bool) for side in (source, target))
    sides: list[Any] = [source.input_ids.numpy(), source_mask, inputs.numpy()]
    computed = ours(run.params, Side(*sides[:2]), Side(sides[2]))
    theirs = Outputs(found.encoder_last_hidden_state, found.last_hidden_state, logits)
    masks = source_mask, target_mask, target_mask

    def of_tokens(outputs: Outputs) -> Outputs:
        return Outputs(*(np.asarray(array)[mask] for array, mask in zip(outputs, masks, strict=True)))

    return of_tokens(theirs), of_tokens(computed)


class Difference(NamedTuple):
    """A sentence that is translated otherwise, and the scores of both translations."""

    source: str
    theirs: str
    ours: str
    their_score: float
    our_score: float


def differences(
    run: Translator, model: Any, tokenizer: Any, sentences: Sequence[str], beam_size: int
) -> list[Difference]:
    """Translates sentences with both, and returns those whose translations differ."""
    theirs = list[tuple[str, float]]()
    for first in range(0, len(sentences), 50):
        rows = sentences[first : first + 50]
        with torch.no_grad():
            found = model.generate(
                **tokenizer(rows, return_tensors="pt", padding=True),
                num_beams=beam_size,
                return_dict_in_generate=True,
                output_scores=True,
            )
        texts = tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
        scores = [float("nan")] * len(rows) if beam_size == 1 else found.sequences_scores.tolist()
        theirs += zip(texts, scores, strict=True)
    search = replace(run.config.search, beam_size=beam_size, batch_tokens=2**14)  # few batches, so few compilations
    ours = [best[0] for best in run.n_best(sentences, search)]
    return [
        Difference(source, text, mine.text, score, mine.score)
        for source, (text, score), mine in zip(sentences, theirs, ours, strict=True)
        if text != mine.text
    ]
