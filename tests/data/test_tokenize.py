"""Tokenizing pairs, of which some are kept, some dropped and counted, and some refused."""

import pytest

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.corpus import Pairs, Report
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.data.tokens import tokenize
from transformer.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    # One token per byte, including the space before the text.
    return BpeTokenizer.train(["abc"], 259, TokenizerConfig())


def test_it_keeps_all_and_in_order(tokenizer):
    pairs = Pairs(["abc", "a b"], ["d", " é"])
    report = Report(files=("x",), read=2)
    tokens = tokenize(pairs, tokenizer, DataConfig(), report, filter=True)
    assert tokens.num_pairs == 2
    assert tokens.source_lengths.tolist() == [5, 5]
    assert tokens.target_lengths.tolist() == [3, 5]
    rows = [tokens.target_ids[:2], tokens.target_ids[2:]]
    assert tokenizer.decode_batch(rows) == pairs.targets
    assert report.dropped == {}


def test_it_drops_and_counts_training_pairs(tokenizer):
    pairs = Pairs(["a" * 8, "b" * 9, "c" * 8, "d" * 2, "e"], ["A" * 8, "B", "C" * 9, "D" * 8, "E"])
    report = Report(files=("x",), read=5)
    config = DataConfig(max_length=10, max_length_ratio=2.4)
    tokens = tokenize(pairs, tokenizer, config, report, filter=True)
    assert report.dropped == {"too long": 2, "length ratio": 1}
    assert report.kept == tokens.num_pairs == 2
    ids = tokens.source_ids, tokens.target_ids
    assert [tokenizer.decode_batch([side])[0] for side in ids] == ["a" * 8 + " e", "A" * 8 + " E"]
    assert tokens.source_lengths.tolist() == tokens.target_lengths.tolist() == [10, 3]
    assert str(tokens.numbers) == "[1 5]"


@pytest.mark.parametrize(("max_length", "pack_length", "longest"), [(10, 7, 7), (10, 40, 10), (10, None, 10)])
def test_training_pairs_that_fit_no_row_are_dropped_and_counted(tokenizer, max_length, pack_length, longest):
    sides = [(source, target) for source in range(3, 15) for target in range(3, 15)]  # tokens, with space and end
    pairs = Pairs(["a" * (source - 2) for source, _ in sides], ["b" * (target - 2) for _, target in sides])
    report = Report(files=("x",), read=len(sides))
    config = DataConfig(max_length=max_length)
    tokens = tokenize(pairs, tokenizer, config, report, filter=True, max_length=pack_length)
    kept = [(source, target) for source, target in sides if max(source, target) <= longest]
    assert list(zip(tokens.source_lengths.tolist(), tokens.target_lengths.tolist(), strict=True)) == kept
    assert report.dropped == {"too long": len(sides) - len(kept)}
    ids = TokenizerConfig()
    batches = Batches(tokens, ids, tokens=2048, row_multiple=1, seed=None, pack_length=pack_length)
    ends = sum((batches[n].source == ids.end_id).sum() for n in range(batches.per_epoch))
    assert ends == len(kept)


def test_it_without_any_pair_left(tokenizer):
    report = Report(files=("x",), read=1)
    with pytest.raises(InputError, match=r"No pair is left .* 1 too long"):
        tokenize(Pairs(["abc"], ["abc"]), tokenizer, DataConfig(max_length=3), report, filter=True)


def test_it_refuses_what_the_model_has_no_positions_for(tokenizer):
    pairs = Pairs(["a", "b"], ["A", "B" * 20])
    report = Report(files=("x.en", "x.de"), read=2)
    config = DataConfig(max_length=3)
    assert tokenize(pairs, tokenizer, config, report, filter=False, max_length=22).num_pairs == 2
    assert tokenize(pairs, tokenizer, config, report, filter=False).num_pairs == 2
    message = r"The target of pair 2 of x\.en, x\.de has 22 tokens, but the model has positions for 21\. Split"
    with pytest.raises(InputError, match=message):
        tokenize(pairs, tokenizer, config, report, filter=False, max_length=21)
    assert report.dropped == {}
