"""Which heads know what a pronoun stands for: a probe over sentences whose antecedents are known."""

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
"""For each question and each head of the encoder, the share of right answers, from 0 to 1.

The question "its" is which noun the pronoun stands for, and "its owned" which noun is the possession.
"""


def with_antecedents(pairs: Pairs) -> Pairs:
    """Those pairs whose antecedents are known."""
    known = pairs.antecedents or []
    return pairs.select([index for index, antecedents in enumerate(known) if antecedents])


def probe(run: Translator, pairs: Pairs) -> Accuracy:
    """How often each encoder head attends from a pronoun to the right noun.

    The answer of a head is the noun of the sentence that gets the most of its weight. A word's weight is the sum over
    its tokens, and the mean over the tokens of the pronoun.

    Args:
        run: a model.
        pairs: sentences with antecedents.

    Raises:
        InputError: there are none, a sentence lacks its pronoun, or it has more tokens than the model has positions.
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
    """What is asked about a pronoun, and the noun that is the right answer."""
    asked = {antecedent.pronoun: antecedent.noun}
    return asked if antecedent.owned is None else asked | {f"{antecedent.pronoun} owned": antecedent.owned}


def answers(
    weights: Float[np.ndarray, "layers H Q K"], run: Translator, source: str, antecedent: Antecedent
) -> Int[np.ndarray, "layers H"]:
    """The index of the noun in `antecedent.nouns` that gets the most weight from the pronoun of a sentence."""
    cut = run.tokenizer.cut(source)
    token_words = [cut.words[index].lower() for index in cut.word_of]
    queries = np.flatnonzero([word == antecedent.pronoun for word in token_words])
    if not queries.size:
        raise InputError(f"The pronoun {antecedent.pronoun} is not in its sentence, {source}")
    attended = weights[:, :, queries].mean(2)
    on_nouns = [
        attended[..., np.flatnonzero([word == noun for word in token_words])].sum(-1) for noun in antecedent.nouns
    ]
    return np.argmax(on_nouns, axis=0)


def chance(pairs: Pairs) -> dict[str, float]:
    """The accuracy of a guess among the nouns, by question."""
    shares = defaultdict(list)
    for antecedents in pairs.antecedents or []:
        for antecedent in antecedents:
            for question in questions(antecedent):
                shares[question].append(1 / len(antecedent.nouns))
    return {question: float(np.mean(of_question)) for question, of_question in shares.items()}


def untrained(run: Translator) -> Translator:
    """The same model with the parameters that a training run of its seed begins with."""
    return replace(run, params=parameters.draw(run.model, run.config.seed))


def to_text(trained: Accuracy, random: Accuracy, guess: dict[str, float]) -> str:
    """A table: a line for each encoder head, the trained run's accuracy and beside it the untrained model's."""
    width = 11 * len(trained)
    lines = [
        "Of the nouns in a sentence, an encoder head attends most to the right one, in % of the sentences:",
        *(f"  {question:<9}  {_meaning(question)}" for question in trained),
        "",
        f"{'':<15}{'trained':^{width}}{'untrained':^{width}}".rstrip(),
        f"{'layer  head':<15}" + "".join(f"{question:>11}" for question in [*trained] * 2),
    ]
    for layer, head in np.ndindex(next(iter(trained.values())).shape):
        shares = [100 * one[question][layer, head] for one in (trained, random) for question in trained]
        lines.append(f"{layer:>5}  {head:>4}    " + "".join(f"{share:11.1f}" for share in shares))
    lines.append(f"{'a guess':<15}" + "".join(f"{100 * guess[question]:11.1f}" for question in [*trained] * 2))
    return "\n".join(lines)


def _meaning(question: str) -> str:
    """A question in words."""
    pronoun, _, owned = question.partition(" ")
    if owned:
        return f"from {pronoun} to the noun after it ({pronoun} application)"
    return f"from {pronoun} to the noun that it stands for"
