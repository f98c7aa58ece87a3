"""`transformer heads`: what each attention head of a run does, in numbers."""

import dataclasses
import json
from dataclasses import dataclass

import tyro

from transformer.cli.decoding import RunOptions, load_translator
from transformer.errors import InputError


@dataclass(frozen=True)
class HeadsOptions(RunOptions):
    """What each attention head of a run does on its test set: the entropy of its weights in nats, how far it looks in
    tokens, how much weight it gives to the token before, the same, the one behind and the boundary (the source's end
    token, the decoder's start token), and how much the loss grows without it. If the test set has antecedents, as the
    quickstart's does, also which heads attend from a pronoun to the noun that it stands for, beside the same model
    before training."""

    sentences: int = 500
    """Number of test sentences to measure, from the start. All pronouns with an antecedent are measured."""
    json: bool = False
    """Print JSON instead of tables."""


def main(arguments: list[str]) -> None:
    """What each attention head of a run does, in numbers."""
    options = tyro.cli(HeadsOptions, args=arguments, prog="transformer heads")
    if options.sentences < 1:
        raise InputError(f"--sentences must be at least 1, but is {options.sentences}.")
    run = load_translator(options)
    from rich.console import Console
    from rich.progress import track

    from transformer.analysis import heads, pronouns
    from transformer.data.corpus import read_pairs, splits
    from transformer.data.text import PACKAGE
    from transformer.experiment import read_test_set

    if "test" not in splits(run.config.data):
        raise InputError(
            f"Heads are measured on the run's test set, but {options.run} was trained without --data.test."
        )
    pairs = read_test_set(options.run, run.config.data)
    chosen = pairs.select([*range(min(options.sentences, len(pairs.sources)))])
    model, console = run.model.config, Console(stderr=True)
    number = (model.num_encoder_layers + 2 * model.num_decoder_layers) * model.num_heads
    one_by_one = heads.measure(run, chosen)
    measured = [*track(one_by_one, "heads", number, console=console, transient=True, disable=not console.is_terminal)]
    if pairs.antecedents is None and run.config.data.corpus.startswith(PACKAGE):
        pairs = read_pairs(run.config.data, "test")[0]  # the run was made before test.jsonl had antecedents
    asked = pronouns.with_antecedents(pairs)
    models = {"trained": run, "untrained": pronouns.untrained(run)} if asked.sources else {}
    found = {name: pronouns.probe(model, asked) for name, model in models.items()}
    if options.json:
        accuracy = {
            name: {question: values.tolist() for question, values in one.items()} for name, one in found.items()
        }
        table = {"heads": [dataclasses.asdict(head) for head in measured], "pronouns": accuracy}
        print(json.dumps(table, indent=2))
        return
    print(heads.to_text(measured))
    if found:
        print(f"\n{pronouns.to_text(found['trained'], found['untrained'], pronouns.chance(asked))}")
    else:
        print("\nPronouns: the test set names no antecedents, so no head was asked what a pronoun stands for.")
