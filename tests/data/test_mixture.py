"""Several corpora of training pairs, mixed by weight or temperature."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from transformer.config import DataConfig, TokenizerConfig
from transformer.data.batches import Batches
from transformer.data.corpus import corpora_of, read_pairs, stream_pairs
from transformer.data.mixture import drawn, weights_of
from transformer.data.pairs import Pairs, Report
from transformer.data.tokens import TokenPairs
from transformer.errors import InputError

SIZES = 400, 90, 30


def corpora(sizes: tuple[int, ...] = SIZES) -> TokenPairs:
    """Pairs of random lengths; each begins with a number of its own."""
    generator, flat = np.random.default_rng(0), []
    for _ in range(2):
        offsets = np.concatenate([[0], np.cumsum(generator.integers(2, 9, sum(sizes)))])
        ids = np.full(offsets[-1], 5, np.int32)
        ids[offsets[:-1]] = 100 + np.arange(sum(sizes))
        flat += [ids, offsets]
    return TokenPairs(*flat, sizes=sizes)


def make(pairs: TokenPairs, weights: Sequence[float] | None = None, seed: int | None = 3) -> Batches:
    shape = {"tokens": 256, "row_multiple": 1, "pack_length": 24}
    return Batches(pairs, TokenizerConfig(), **shape, seed=seed, weights=weights)


def epoch_of(batches: Batches, epoch: int) -> list[list[int]]:
    """The pairs of each batch of an epoch, by the number that each begins with."""
    found = []
    for n in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
        batch = batches[n]
        assert batch.source[batch.source >= 100].tolist() == batch.target_output[batch.target_output >= 100].tolist()
        found.append((batch.source[batch.source >= 100] - 100).tolist())
    return found


def of_corpora(pairs: list[int]) -> list[int]:
    """How many pairs are of each corpus."""
    return np.histogram(pairs, np.cumsum([0, *SIZES]))[0].tolist()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0.3, 1.0, 2.5), (0.07, 0.5, 0.9)])
def test_an_epoch_has_as_many_pairs_of_each_corpus_as_its_weight_says(weights):
    batches = make(corpora(), weights=weights)
    total = Counter[int]()
    for epoch in range(10):
        pairs = [*itertools.chain.from_iterable(epoch_of(batches, epoch))]
        assert of_corpora(pairs) == [int(weight * size + 0.5) for weight, size in zip(weights, SIZES, strict=True)]
        times = Counter(pairs)
        for start, size, weight in zip((0, 400, 490), SIZES, weights, strict=True):
            own = [times[pair] for pair in range(start, start + size)]
            assert max(own) <= np.ceil(weight) + 1
            assert float(weight).is_integer() <= ({*own} == {weight})  # a whole weight is the same for all
        total += times
    lengths = 10 * np.array([(0.5 if weight < 0.5 else weight) for weight in weights])
    for start, size, bound in zip((0, 400, 490), SIZES, lengths, strict=True):
        assert max(total[pair] for pair in range(start, start + size)) <= 2 * bound + 2


def test_with_a_fraction_the_pairs_take_turns():
    """Of many pairs of one length, a third is drawn per epoch: after three epochs, each has been drawn once."""
    ids, offsets = np.arange(300, dtype=np.int32) + 100, np.arange(301)
    batches = make(TokenPairs(ids, offsets, ids, offsets, sizes=(300,)), weights=[1 / 3])
    epochs = [{*itertools.chain.from_iterable(epoch_of(batches, epoch))} for epoch in range(9)]
    assert {len(epoch) for epoch in epochs} == {100}
    for start in (0, 3, 6):
        assert set.union(*epochs[start : start + 3]) == {*range(300)}
    assert epochs[0] != epochs[3] != epochs[6]  # in other groups of a hundred


def test_corpora_meet_in_batches():
    batches = make(corpora(), weights=(1.0, 4.0, 12.0))  # about as many of each
    shares = np.array([of_corpora(batch) for batch in epoch_of(batches, 1)]) / [400, 360, 360]
    assert (shares > 0).mean() > 0.95


def test_weights_of_one_are_no_weights_in_number_and_packing():
    plain, weighted = make(corpora((520,))), make(corpora(), weights=(1.0, 1.0, 1.0))
    assert (plain.shape, plain.per_epoch, plain.padding) == (weighted.shape, weighted.per_epoch, weighted.padding)
    one, again = make(corpora((520,)), weights=[1.0]), make(corpora((520,)))
    for n in range(2 * one.per_epoch):
        np.testing.assert_array_equal(one[n].source, again[n].source)


def test_batches_are_pure_functions_also_of_weighted_corpora():
    batches, again = (make(corpora(), weights=(0.4, 1.7, 5.0)) for _ in range(2))
    numbers = range(3 * batches.per_epoch)
    expected = [batches[n].source for n in numbers]
    for n in reversed(numbers):
        np.testing.assert_array_equal(again[n].source, expected[n])
    fixed = make(corpora(), weights=(0.4, 1.7, 5.0), seed=None)
    assert epoch_of(fixed, 0) == epoch_of(fixed, 1)


def test_rounding_prefers_no_length():
    counts = np.ones((1, 1000), int)
    (numbers,) = drawn([0.3], counts)
    assert numbers.sum() == 300
    assert {*np.add.reduceat(numbers, np.arange(0, 1000, 10)).tolist()} == {3}
    counts = np.random.default_rng(0).integers(0, 9, (2, 50))
    np.testing.assert_array_equal(drawn([1.0, 2.0], counts), counts * [[1], [2]])
    numbers = drawn([0.37, 1.62], counts)
    assert (abs(numbers - counts * [[0.37], [1.62]]) < 1).all()
    with pytest.raises(InputError, match=r"Corpus 2 of --data\.train has 40 pairs and the weight 0\.01, so no pair"):
        drawn([1.0, 0.01], np.full((2, 4), 10))


def test_temperature():
    def shares(temperature: float) -> list[float]:
        return weights_of(DataConfig(train=("a.tsv", "b.tsv"), temperature=temperature), [10_000, 100])

    assert shares(1.0) == pytest.approx([1, 1])
    assert shares(2.0) == pytest.approx([1, 10])  # 100 and 10 of 110
    assert shares(5.0) == pytest.approx([1, 100**0.8])
    assert weights_of(DataConfig(train=("a.tsv", "b.tsv")), [5, 6]) == [1, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("a.en", "a.de"), [("a.en", "a.de")]),
        (("a.en", "a.de", "b.en.gz", "b.de"), [("a.en", "a.de"), ("b.en.gz", "b.de")]),
        (("a.tsv",), [("a.tsv",)]),
        (("a.tsv", "b.jsonl.gz", "c.parquet"), [("a.tsv",), ("b.jsonl.gz",), ("c.parquet",)]),
        (("a.tsv", "b.de"), [("a.tsv", "b.de")]),
        (("a.tsv", "a.tsv"), [("a.tsv", "a.tsv")]),
    ],
)
def test_which_files_make_a_corpus(given, expected):
    assert [*corpora_of(DataConfig(train=given), "train")] == expected


def test_several_splits_are_several_corpora():
    config = DataConfig(corpus="some/set", train=("train", "extra[:10%]"), weights=(1.0, 0.5))
    assert [*corpora_of(config, "train")] == [("train",), ("extra[:10%]",)]


def test_a_corpus_without_pairs_has_a_weight_that_is_refused():
    weights = weights_of(DataConfig(train=("a.tsv", "b.tsv"), temperature=3.0), [10, 0])
    with pytest.raises(InputError, match=r"Corpus 2 of --data\.train has 0 pairs and the weight 0"):
        drawn(weights, np.array([[10], [0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ("a.en", "a.de", "b.tsv", "c.tsv")}, r"data\.train takes two files"),
        ({"train": ("a.tsv",), "weights": (1.0, 2.0)}, r"data\.weights has 2 numbers, but data\.train has 1 corpora"),
        (
            {"train": ("a.tsv", "b.tsv"), "weights": (1.0, 0.0)},
            r"weights must be positive numbers up to 1,000,000, but",
        ),
        (
            {"train": ("a.tsv", "b.tsv"), "weights": (1.0, 1e30)},
            "weights must be positive numbers up to 1,000,000, but",
        ),
        ({"train": ("a.tsv",), "weights": (1.0,), "temperature": 2.0}, r"data\.weights and data\.temperature are both"),
        ({"temperature": 0.5}, r"data\.temperature must be at least 1"),
    ],
)
def test_what_is_wrong_with_a_mixture(options, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**options)


def test_corpora_are_read_one_after_the_other_and_counted_together(tmp_path):
    for name, text in (("a.tsv", "a\tA\nb\tB\n"), ("b.tsv", "a\tA\n\tC\nd\tD\n")):
        (tmp_path / name).write_text(text)
    files = str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")
    config, report = DataConfig(train=files, drop_empty=True, drop_duplicates=True), Report(())
    chunks = [*stream_pairs(config, "train", report)]
    assert [(chunk.corpus, [*chunk.numbers]) for chunk in chunks] == [(0, [1, 2]), (1, [3])]
    expected = {"files": [*files], "read": 5, "dropped": {"empty": 1, "duplicates": 1}, "empty": 0, "kept": 3}
    assert report.to_dict() == expected
    assert read_pairs(config, "train")[0] == Pairs(["a", "b", "d"], ["A", "B", "D"])
