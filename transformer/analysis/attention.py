"""Where a trained model looks in one pair of sentences: the weights of every layer and head, as numbers and as text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Float

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.data.lengths import check_lengths
from transformer.data.tokenizer import Pieces
from transformer.errors import InputError
from transformer.inference.translator import Translator
from transformer.shapes import Batch

Kind = Literal["encoder", "decoder", "cross", "rollout"]
"""The encoder's self-attention, the decoder's, the decoder's attention to the encoder (section 3.2.3), or the encoder's
layers multiplied (see `rollout`)."""
KINDS: tuple[Kind, ...] = get_args(Kind)
HeadKind = Literal["encoder", "decoder", "cross"]
"""The kinds that have heads of their own."""
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
_ROWS = 50  # sentence pairs of a corpus whose weights are held at a time


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of a pair of sentences.

    Attributes:
        source: what the encoder reads, the end token last.
        target: what the decoder reads, the start token first.
        weights: of each kind: how much each piece that looks gives to each that is looked at. A row sums to 1.
    """

    source: Pieces
    target: Pieces
    weights: dict[Kind, Float[np.ndarray, "_ _ _ _"]]

    def queries(self, kind: Kind) -> Pieces:
        """What looks."""
        return self.source if kind in ("encoder", "rollout") else self.target

    def keys(self, kind: Kind) -> Pieces:
        """What is looked at."""
        return self.target if kind == "decoder" else self.source

    def select(
        self, kind: Kind, layer: int | None = None, head: int | None = None
    ) -> Float[np.ndarray, "layers heads Q K"]:
        """The weights of one layer or of all, of one head or of all; both are counted from 0.

        Raises: InputError if there is no such layer or head.
        """
        weights = self.weights[kind]
        for name, number, count in (("layer", layer, len(weights)), ("head", head, weights.shape[1])):
            if number is not None and not 0 <= number < count:
                raise InputError(f"There is no {name} {number}: of this kind the run has {count}, counted from 0.")
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        return weights[layers, slice(None) if head is None else slice(head, head + 1)]

    def joined(self) -> "Attention":
        """The same by words: weights summed over the tokens of a word that is looked at, averaged over those that look.

        A row therefore still sums to 1 (Clark et al. 2019, section 4.1).
        """
        by_word: dict[Kind, np.ndarray] = {
            kind: _membership(self.queries(kind), mean=True) @ weights @ _membership(self.keys(kind), mean=False).T
            for kind, weights in self.weights.items()
        }
        source, target = (
            side._replace(tokens=side.words, word_of=[*range(len(side.words))]) for side in (self.source, self.target)
        )
        return Attention(source, target, by_word)

    def find(self, word: str, kind: Kind) -> int:
        """The place of the first piece that looks and is this word, in capitals or not.

        Raises: InputError if it is not there.
        """
        pieces = [piece.lower() for piece in self.queries(kind).tokens]
        if word.lower() not in pieces:
            raise InputError(f"The word {word} is not among those that look: {' '.join(self.queries(kind).tokens)}")
        return pieces.index(word.lower())


def attention(run: Translator, source: str, target: str | None = None, search: SearchConfig | None = None) -> Attention:
    """The attention weights of a pair of sentences, in every layer and head.

    Args:
        run: a trained model.
        source: the source sentence.
        target: its translation, which the decoder reads one piece after the other; the run's own unless given.
        search: how the run translates, unless as its config says.

    Raises:
        InputError: a sentence is empty, or has more tokens than the model has positions.
    """
    longest = run.model.config.max_positions
    for name, text in (("source", source), ("target", target)):
        if text is None:
            continue
        if not run.tokenizer.normalize(text).strip():
            raise InputError(f"A sentence is needed to look at, but the {name} is empty.")
        length = len(run.tokenizer.cut(text).tokens) + 1
        check_lengths([length], longest, lambda _, name=name: f"The {name}", "Shorten it.")
    if target is None:
        (target,) = run.translate([source], search)
    batch = run.batch([source], [target])
    _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
    read, written = run.tokenizer.cut(source), run.tokenizer.cut(target)
    S, T = len(read.tokens) + 1, len(written.tokens) + 1  # with the end token, and behind the start token
    rows, columns = {"encoder": S, "decoder": T, "cross": T}, {"encoder": S, "decoder": T, "cross": S}
    by_kind: dict[Kind, np.ndarray] = {}
    for kind in HEAD_KINDS:
        by_kind[kind] = np.asarray(weights[kind])[:, 0, :, : rows[kind], : columns[kind]]
    by_kind["rollout"] = rollout(by_kind["encoder"].mean(1))[None, None]
    return Attention(
        source=Pieces(source, [*read.tokens, "</s>"], [*read.words, "</s>"], [*read.word_of, len(read.words)]),
        target=Pieces(
            target, ["<s>", *written.tokens], ["<s>", *written.words], [0, *(1 + word for word in written.word_of)]
        ),
        weights=by_kind,
    )


def corpus_weights(
    run: Translator, pairs: Pairs
) -> Iterator[tuple[Batch, dict[HeadKind, Float[np.ndarray, "_ _ _ _ _"]]]]:
    """The weights [L, B, H, Q, K] of a corpus in batches, all of one shape, in the order of the pairs."""
    whole = run.batch(pairs.sources, pairs.targets)
    for start in range(0, len(pairs.sources), _ROWS):
        batch = jax.tree.map(lambda array, start=start: array[start : start + _ROWS], whole)
        _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
        yield batch, {kind: np.asarray(weights[kind]) for kind in HEAD_KINDS}


def rollout(weights: Float[np.ndarray, "layers Q Q"]) -> Float[np.ndarray, "Q Q"]:
    """How much of each position's input reaches each position through all layers (Abnar & Zuidema 2020, section 3).

    rollout = A_L ... A_2 A_1,  where A_l = (W_l + I) / 2

    The identity stands for the residual connection.

    Args:
        weights: self-attention of each layer from the first on, the mean of its heads.
    """
    flow = np.eye(weights.shape[-1], dtype=weights.dtype)
    for layer in weights:
        flow = (layer + np.eye(len(layer), dtype=weights.dtype)) / 2 @ flow
    return flow


def strongest(weights: Float[np.ndarray, "Q K"], queries: list[str], keys: list[str], number: int = 3) -> str:
    """A line for each query: the keys that it gives the most weight, the strongest first.

    Args:
        weights: attention weights.
        queries: what looks.
        keys: what is looked at.
        number: keys a line.
    """
    width = max(map(len, queries))
    lines = []
    for query, row in zip(queries, weights, strict=True):
        looked_at = [f"{keys[place]} {row[place]:.2f}" for place in np.argsort(-row, kind="stable")[:number]]
        lines.append(f"{query:<{width}}  {'   '.join(looked_at)}")
    return "\n".join(lines)


def _membership(pieces: Pieces, mean: bool) -> Float[np.ndarray, "W T"]:
    """1 where a token is part of a word, or with `mean` its share of the word's tokens."""
    members = np.arange(len(pieces.words))[:, None] == np.array(pieces.word_of)
    return (members / members.sum(1, keepdims=True) if mean else members).astype(np.float32)
