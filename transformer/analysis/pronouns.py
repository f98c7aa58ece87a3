"""A probe for attention heads that resolve pronouns."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from transformer import parameters
from transformer.analysis.attention import corpus_weights
from transformer.data.pairs import Antecedent, Pairs
from transformer.errors import InputError
from transformer.inference.translator import Translator

Accuracy = dict[str, Float[np.ndarray, "layers H"]]
"""The share of correct answers, from 0 to 1, of each encoder head to each question.

The question "its" asks which noun the pronoun refers to, and "its owned" which noun is the possession.
"""


def with_antecedents(pairs: Pairs) -> Pairs:
    """The pairs whose antecedents are known."""
    known = pairs.antecedents or []
    return pairs.select([index for index, antecedents in enumerate(known) if antecedents])


def probe(run: Translator, pairs: Pairs) -> Accuracy:
    """How often each encoder head attends most from a pronoun to the right noun.

    A head's answer is the noun of the sentence with the largest attention weight from the pronoun. Weights are summed
    over the tokens of a noun and averaged over the tokens of the pronoun.

    Args:
        run: a model.
        pairs: sentences with antecedents.

    Raises:
        InputError: there are no pairs, a sentence does not contain its pronoun, or it has more tokens than the model
            has positions.
    """
    found, remaining = defaultdict(list), zip(pairs.sources, pairs.antecedents or [], strict=False)
    for _, weights in corpus_weights(run, pairs):
        for of_sentence, (source, antecedents) in zip(weights["encoder"].swapaxes(0, 1), remaining, strict=False):
            for antecedent in antecedents:
                answer = answers(of_sentence, run, source, antecedent)
                for question, noun in questions(antecedent).items():
                    found[question].append(answer == antecedent.nouns.index(noun))
    return {question: np.mean(found[question], axis=0) for question in sorted(found)}


def questions(antecedent: Antecedent) -> dict[str, str]:
    """The questions about one pronoun, each with the noun that is the right answer."""
    asked = {antecedent.pronoun: antecedent.noun}
    return asked if antecedent.owned is None else asked | {f"{antecedent.pronoun} owned": antecedent.owned}


def answers(
    weights: Float[np.ndarray, "layers H Q K"], run: Translator, source: str, antecedent: Antecedent
) -> Int[np.ndarray, "layers H"]:
    """The noun with the largest attention weight from a pronoun.

    Args:
        weights: the encoder's weights for this sentence.
        run: the model, for its tokenizer.
        source: the sentence.
        antecedent: the pronoun and the nouns it may refer to.

    Returns:
        Its index in `antecedent.nouns`, for each layer and head.

    Raises:
        InputError: the pronoun is not in the sentence.
    """
    tokens = run.tokenizer.source.tokenize(source)
    token_words = [tokens.words[index].lower() for index in tokens.word_of]
    queries = np.flatnonzero([word == antecedent.pronoun for word in token_words])
    if not queries.size:
        raise InputError(f"The pronoun {antecedent.pronoun} is not in its sentence: {source}")
    attended = weights[:, :, queries].mean(2)
    on_nouns = [
        attended[..., np.flatnonzero([word == noun for word in token_words])].sum(-1) for noun in antecedent.nouns
    ]
    return np.argmax(on_nouns, axis=0)


def chance(pairs: Pairs) -> dict[str, float]:
    """The accuracy of guessing among the nouns, from 0 to 1, for each question."""
    shares = defaultdict(list)
    for antecedents in pairs.antecedents or []:
        for antecedent in antecedents:
            for question in questions(antecedent):
                shares[question].append(1 / len(antecedent.nouns))
    return {question: float(np.mean(of_question)) for question, of_question in shares.items()}


def untrained(run: Translator) -> Translator:
    """The same model with the parameters that training with its seed starts from."""
    return replace(run, params=parameters.draw(run.model, run.config.seed))


def to_text(trained: Accuracy, random: Accuracy, guess: dict[str, float]) -> str:
    """A table with one line per encoder head.

    Args:
        trained: the accuracy of the run.
        random: the accuracy of the untrained model.
        guess: the accuracy of guessing, from `chance`.
    """
    width = 11 * len(trained)
    lines = [
        "How often an encoder head attends most to the right noun of the sentence, in % of the pronouns:",
        *(f"  {question:<9}  {_meaning(question)}" for question in trained),
        "",
        f"{'':<15}{'trained':^{width}}{'untrained':^{width}}".rstrip(),
        f"{'layer  head':<15}" + "".join(f"{question:>11}" for question in [*trained] * 2),
    ]
    for layer, head in np.ndindex(next(iter(trained.values())).shape):
        shares = [100 * one[question][layer, head] for one in (trained, random) for question in trained]
        lines.append(f"{layer:>5}  {head:>4}    " + "".join(f"{share:11.1f}" for share in shares))
    lines.append(f"{'guessing':<15}" + "".join(f"{100 * guess[question]:11.1f}" for question in [*trained] * 2))
    return "\n".join(lines)


def _meaning(question: str) -> str:
    """A question in words."""
    pronoun, _, owned = question.partition(" ")
    if owned:
        return f'from "{pronoun}" to the noun after it ("{pronoun} application")'
    return f'from "{pronoun}" to the noun that it refers to'
