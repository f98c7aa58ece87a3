"""The embedded corpus: synthetic English-German sentence pairs from a synchronous grammar; see `splits`."""

from transformer.data.grammar.splits import Sentence, Split, generate

__all__ = ["Sentence", "Split", "generate"]
