"""Attention weights of one sentence pair, of every layer and head."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Float

from transformer.config import SearchConfig
from transformer.data.corpus import Pairs
from transformer.data.lengths import check_lengths
from transformer.data.tokenizer import TokenizedText
from transformer.errors import InputError
from transformer.inference.translator import Translator
from transformer.shapes import Batch

Kind = Literal["encoder", "decoder", "cross", "rollout"]
"""The encoder's self-attention, the decoder's self-attention, the decoder's attention to the encoder (section 3.2.3),
or the product of the encoder's layers (see `rollout`)."""
KINDS: tuple[Kind, ...] = get_args(Kind)
HeadKind = Literal["encoder", "decoder", "cross"]
"""The kinds that have heads."""
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
_ROWS = 50  # sentence pairs per batch of a corpus, to bound the memory that their weights take


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention weights of one sentence pair.

    Attributes:
        source: tokens and words that the encoder reads, the end token last.
        target: tokens and words that the decoder reads, the start token first.
        weights: attention weights [layers, H, Q, K] by kind. Rows are queries and sum to 1; columns are keys. The
            rollout has one layer and one head.
    """

    source: TokenizedText
    target: TokenizedText
    weights: dict[Kind, Float[np.ndarray, "_ _ _ _"]]

    def queries(self, kind: Kind) -> TokenizedText:
        """The side whose tokens are the queries."""
        return self.source if kind in ("encoder", "rollout") else self.target

    def keys(self, kind: Kind) -> TokenizedText:
        """The side whose tokens are the keys."""
        return self.target if kind == "decoder" else self.source

    def select(
        self, kind: Kind, layer: int | None = None, head: int | None = None
    ) -> Float[np.ndarray, "layers heads Q K"]:
        """The weights of one layer or all layers, and of one head or all heads.

        Args:
            kind: the kind of attention.
            layer: counted from 0; None selects all.
            head: counted from 0; None selects all.

        Raises:
            InputError: there is no such layer or head.
        """
        weights = self.weights[kind]
        for name, number, count in (("layer", layer, len(weights)), ("head", head, weights.shape[1])):
            if number is not None and not 0 <= number < count:
                only = name if count == 1 else f"{name}s 0 to"
                raise InputError(f"Kind {kind} has no {name} {number}, only {only} {count - 1}.")
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        return weights[layers, slice(None) if head is None else slice(head, head + 1)]

    def joined(self) -> "Attention":
        """The same attention between words instead of tokens.

        Weights are summed over the tokens of a key and averaged over the tokens of a query (Clark et al. 2019, section
        4.1). A row still sums to 1.
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
        """The index of the first query token that is this word, ignoring case.

        Raises: InputError if it is not one of the query tokens.
        """
        tokens = [token.lower() for token in self.queries(kind).tokens]
        if word.lower() not in tokens:
            raise InputError(f"{word} is not one of the query tokens. They are: {' '.join(self.queries(kind).tokens)}")
        return tokens.index(word.lower())


def attention(run: Translator, source: str, target: str | None = None, search: SearchConfig | None = None) -> Attention:
    """Computes the attention weights of a sentence pair in every layer and head.

    Args:
        run: a trained model.
        source: the source sentence.
        target: its translation, which the decoder reads token by token. By default the run translates the source.
        search: settings for that translation. By default the settings in the run's config.

    Raises:
        InputError: a sentence is empty, or has more tokens than the model has positions.
    """
    longest = run.model.config.max_positions
    tokenizer = run.tokenizer
    for name, vocabulary, text in (("source", tokenizer.source, source), ("target", tokenizer.target, target)):
        if text is None:
            continue
        if not vocabulary.normalize(text).strip():
            raise InputError(f"The {name} sentence is empty. It must have at least one token.")
        length = len(vocabulary.encode(text)) + 1
        check_lengths([length], longest, lambda _, name=name: f"The {name}", "Shorten it.")
    if target is None:
        (target,) = run.translate([source], search)
    batch = run.batch([source], [target])
    _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
    read, written = tokenizer.source.tokenize(source), tokenizer.target.tokenize(target)
    S, T = len(read.tokens) + 1, len(written.tokens) + 1  # plus the end token, and plus the start token
    rows, columns = {"encoder": S, "decoder": T, "cross": T}, {"encoder": S, "decoder": T, "cross": S}
    by_kind: dict[Kind, np.ndarray] = {}
    for kind in HEAD_KINDS:
        by_kind[kind] = np.asarray(weights[kind])[:, 0, :, : rows[kind], : columns[kind]]
    by_kind["rollout"] = rollout(by_kind["encoder"].mean(1))[None, None]
    return Attention(
        source=TokenizedText(source, [*read.tokens, "</s>"], [*read.words, "</s>"], [*read.word_of, len(read.words)]),
        target=TokenizedText(
            target, ["<s>", *written.tokens], ["<s>", *written.words], [0, *(1 + word for word in written.word_of)]
        ),
        weights=by_kind,
    )


def corpus_weights(
    run: Translator, pairs: Pairs
) -> Iterator[tuple[Batch, dict[HeadKind, Float[np.ndarray, "_ _ _ _ _"]]]]:
    """The attention weights of a corpus, batch by batch in the order of the pairs.

    All batches have one shape. Weights are [L, B, H, Q, K].

    Args:
        run: a trained model.
        pairs: sentences and their translations.
    """
    whole = run.batch(pairs.sources, pairs.targets)
    for start in range(0, len(pairs.sources), _ROWS):
        batch = jax.tree.map(lambda array, start=start: array[start : start + _ROWS], whole)
        _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
        yield batch, {kind: np.asarray(weights[kind]) for kind in HEAD_KINDS}


def rollout(weights: Float[np.ndarray, "layers Q Q"]) -> Float[np.ndarray, "Q Q"]:
    """Attention rollout, the product of all layers (Abnar & Zuidema 2020).

    rollout = A_L ... A_2 A_1,  where A_l = (W_l + I) / 2   (their section 3)

    The identity accounts for the residual connection.

    Args:
        weights: self-attention of each layer, averaged over its heads, the first layer first.

    Returns:
        How much of each position's input (columns) reaches each position of the last layer (rows). Rows sum to 1.
    """
    flow = np.eye(weights.shape[-1], dtype=weights.dtype)
    for layer in weights:
        flow = (layer + np.eye(len(layer), dtype=weights.dtype)) / 2 @ flow
    return flow


def strongest(weights: Float[np.ndarray, "Q K"], queries: list[str], keys: list[str], number: int = 3) -> str:
    """One line per query with the keys of the largest weights, in descending order.

    Args:
        weights: attention weights.
        queries: the query tokens, or names for the rows.
        keys: the key tokens.
        number: keys per line.
    """
    width = max(map(len, queries))
    lines = []
    for query, row in zip(queries, weights, strict=True):
        attended = [f"{keys[index]} {row[index]:.2f}" for index in np.argsort(-row, kind="stable")[:number]]
        lines.append(f"{query:<{width}}  {'   '.join(attended)}")
    return "\n".join(lines)


def _membership(side: TokenizedText, mean: bool) -> Float[np.ndarray, "W T"]:
    """A matrix of 1 where a token is part of a word, or of means over its tokens."""
    members = np.arange(len(side.words))[:, None] == np.array(side.word_of)
    return (members / members.sum(1, keepdims=True) if mean else members).astype(np.float32)
