"""Where a trained model looks."""

from typing import Literal

import numpy as np

from transformer.inference.translator import Translator

Kind = Literal["encoder", "decoder", "cross"]


def attention(run: Translator, source: str, target: str, kind: Kind) -> tuple[np.ndarray, list[str], list[str]]:
    """The attention weights of a sentence pair (section 3.2.3), with the pieces that look and are looked at.

    Args:
        run: A trained model.
        source: The source sentence.
        target: Its translation; what the decoder has read so far, one piece after the other.
        kind: The encoder's self-attention, the decoder's, or the decoder's attention to the encoder.

    Returns: Weights [layers, H, Q, K], the Q pieces that look, and the K pieces that are looked at.

    Raises: InputError if a side has more tokens than the model has positions.
    """
    batch = run.batch([source], [target])
    _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
    config = run.model.config
    layers = config.num_encoder_layers if kind == "encoder" else config.num_decoder_layers
    of_kind = np.stack([np.asarray(weights[f"{kind}/{layer}"][0]) for layer in range(layers)])
    read, written = (run.tokenizer.pieces(ids[0]) for ids in (batch.source, batch.target_input))
    return of_kind, read if kind == "encoder" else written, written if kind == "decoder" else read


def strongest(weights: np.ndarray, queries: list[str], keys: list[str], number: int = 3) -> str:
    """A line for each query: the keys that it gives the most weight, the strongest first.

    Args:
        weights: Attention weights [Q, K].
        queries: What looks.
        keys: What is looked at.
        number: Keys a line.
    """
    width = max(map(len, queries))
    lines = []
    for query, row in zip(queries, weights, strict=True):
        looked_at = [f"{keys[place]} {row[place]:.2f}" for place in np.argsort(-row, kind="stable")[:number]]
        lines.append(f"{query:<{width}}  {'   '.join(looked_at)}")
    return "\n".join(lines)
