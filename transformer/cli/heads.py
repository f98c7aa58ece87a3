"""The `transformer heads` command, which measures what each attention head does."""

import dataclasses
import json
from dataclasses import dataclass

from transformer.cli.decoding import RunOptions, load_translator
from transformer.cli.options import parse
from transformer.errors import InputError


@dataclass(frozen=True)
class HeadsOptions(RunOptions):
    """Measure what each attention head of a run does on its test set.

    For each head it reports the entropy of the attention weights (nats) and the mean distance between query and key
    (tokens). It reports the attention weight on the token before the query, on the query itself, on the token after it
    and on the boundary token. The boundary token is the source's end token, or the decoder's start token. The ablation
    is the increase of the loss without the head (nats per target token).

    The quickstart's test set names the antecedents of pronouns. For such a test set it also reports how often each
    encoder head attends from a pronoun to its antecedent. The untrained model is measured for comparison.

        transformer heads runs/quickstart --sentences 200"""

    sentences: int = 500
    """Number of test sentences to measure, from the start. Pronouns are measured in the whole test set."""
    json: bool = False
    """Print JSON instead of tables."""


def main(arguments: list[str]) -> None:
    """Measures what each attention head of a run does."""
    options = parse(HeadsOptions, arguments, "heads")
    if options.sentences < 1:
        raise InputError(f"--sentences must be at least 1, but is {options.sentences}.")
    run = load_translator(options)
    from rich.console import Console
    from rich.progress import track

    from transformer.analysis import heads, pronouns
    from transformer.data.corpus import read_pairs, splits
    from transformer.data.raw_files import PACKAGE
    from transformer.kept_pairs import read_test_set

    if "test" not in splits(run.config.data):
        raise InputError(
            f"Cannot measure heads: the run in {options.run} has no test set. Train a run with --data.test."
        )
    pairs = read_test_set(options.run, run.config.data)
    chosen = pairs.select([*range(min(options.sentences, len(pairs.sources)))])
    model, console = run.model.config, Console(stderr=True)
    number = (model.num_encoder_layers + 2 * model.num_decoder_layers) * model.num_heads
    one_by_one = heads.measure(run, chosen)
    measured = [*track(one_by_one, "heads", number, console=console, transient=True, disable=not console.is_terminal)]
    if pairs.antecedents is None and run.config.data.corpus.startswith(PACKAGE):
        pairs = read_pairs(run.config.data, "test")[0]  # older runs kept a test.jsonl without antecedents
    with_antecedents = pronouns.with_antecedents(pairs)
    models = {"trained": run, "untrained": pronouns.untrained(run)} if with_antecedents.sources else {}
    found = {name: pronouns.probe(model, with_antecedents) for name, model in models.items()}
    if options.json:
        accuracy = {
            name: {question: values.tolist() for question, values in one.items()} for name, one in found.items()
        }
        table = {"heads": [dataclasses.asdict(head) for head in measured], "pronouns": accuracy}
        print(json.dumps(table, indent=2))
        return
    print(f"{heads.to_text(measured)}\n\n{heads.LEGEND}\n")
    if found:
        print(pronouns.to_text(found["trained"], found["untrained"], pronouns.chance(with_antecedents)))
    else:
        print("Pronouns: not measured, because the test set names no antecedents.")
