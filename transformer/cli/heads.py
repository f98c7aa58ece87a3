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
    token, the decoder's start token), and how much the loss grows without it. For a run on the embedded corpus also
    which heads look from "it" and "its" at the right noun, beside the same model before training."""

    sentences: int = 500
    """Sentences of the test set that are looked at, from its start; every "it" and "its" of the embedded corpus is."""
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
    from transformer.data.corpus import splits
    from transformer.data.grammar.references import references
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
    asked = references("test") if run.config.data.corpus == "grammar" else []
    models = {"trained": run, "untrained": pronouns.untrained(run)} if asked else {}
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
