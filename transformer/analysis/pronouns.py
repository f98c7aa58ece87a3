"""Which heads know what "it" and "its" stand for: a probe over the embedded corpus, whose grammar knows the answer."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from transformer import parameters
from transformer.analysis.attention import corpus_weights
from transformer.data.corpus import Pairs
from transformer.data.grammar.references import Reference
from transformer.inference.translator import Translator

QUESTIONS = {
    "it": "from it to the noun that it stands for",
    "its": "from its to the noun that it stands for",
    "its owned": "from its to the noun behind it (its application)",
}
Accuracy = dict[str, Float[np.ndarray, "layers H"]]
"""For each of QUESTIONS and each head of the encoder, the share of right answers, from 0 to 1."""


def probe(run: Translator, references: Sequence[Reference]) -> Accuracy:
    """How often each encoder head looks from a pronoun at the right noun.

    The answer of a head is the noun of the sentence that gets the most of its weight. A word's weight is the sum over
    its tokens, and the mean over the tokens of the pronoun.

    Args:
        run: a model.
        references: pronouns and what they stand for.

    Raises:
        InputError: there are none, or a sentence has more tokens than the model has positions.
    """
    sentences = [reference.sentence for reference in references]
    pairs = Pairs([sentence.source for sentence in sentences], [sentence.target for sentence in sentences])
    found, remaining = defaultdict(list), iter(references)
    for _, weights in corpus_weights(run, pairs):
        for of_sentence, reference in zip(weights["encoder"].swapaxes(0, 1), remaining, strict=False):
            answer = answers(of_sentence, run, reference)
            found[reference.pronoun].append(answer == reference.nouns.index(reference.antecedent))
            if reference.owned:
                found["its owned"].append(answer == reference.nouns.index(reference.owned))
    return {question: np.mean(right, axis=0) for question, right in found.items()}


def answers(
    weights: Float[np.ndarray, "layers H Q K"], run: Translator, reference: Reference
) -> Int[np.ndarray, "layers H"]:
    """Which of the reference's nouns gets the most weight from its pronoun, in one sentence."""
    cut = run.tokenizer.cut(reference.sentence.source)
    token_words = [cut.words[place].lower() for place in cut.word_of]
    looks = weights[:, :, np.flatnonzero([word == reference.pronoun for word in token_words])].mean(2)
    on_nouns = [looks[..., np.flatnonzero([word == noun for word in token_words])].sum(-1) for noun in reference.nouns]
    return np.argmax(on_nouns, axis=0)


def chance(references: Sequence[Reference]) -> dict[str, float]:
    """The accuracy of a guess among the nouns, by question."""
    shares = defaultdict(list)
    for reference in references:
        for question in ("it",) if reference.pronoun == "it" else ("its", "its owned"):
            shares[question].append(1 / len(reference.nouns))
    return {question: float(np.mean(of_question)) for question, of_question in shares.items()}


def untrained(run: Translator) -> Translator:
    """The same model with the parameters that a training run of its seed begins with."""
    return replace(run, params=parameters.draw(run.model, run.config.seed))


def to_text(trained: Accuracy, random: Accuracy, guess: dict[str, float]) -> str:
    """A table: a line for each encoder head, the trained run's accuracy and beside it the untrained model's."""
    lines = [
        "Of the nouns in a sentence, an encoder head looks most at the right one, in % of the sentences:",
        *(f"  {question:<9}  {meaning}" for question, meaning in QUESTIONS.items()),
        "",
        f"{'':<15}{'trained':>18}{'':15}{'untrained':>18}",
        f"{'layer  head':<15}" + "".join(f"{question:>11}" for question in [*QUESTIONS] * 2),
    ]
    for layer, head in np.ndindex(trained["it"].shape):
        shares = [100 * one[question][layer, head] for one in (trained, random) for question in QUESTIONS]
        lines.append(f"{layer:>5}  {head:>4}    " + "".join(f"{share:11.1f}" for share in shares))
    lines.append(f"{'a guess':<15}" + "".join(f"{100 * guess[question]:11.1f}" for question in [*QUESTIONS] * 2))
    return "\n".join(lines)
