"""Permutations that are computed for one index at a time."""

import itertools
import math
from hashlib import blake2b

import numpy as np
import pytest

from transformer.data.permutation import derive, make_key, permute


def whole(size: int, key: np.ndarray) -> np.ndarray:
    return permute(np.arange(size), np.array([size]), key)


def many(size: int, number: int) -> np.ndarray:
    """The images [number, size] under as many keys."""
    keys = derive(make_key("uniform"), np.arange(number))
    return permute(np.tile(np.arange(size), number), np.array([size]), np.repeat(keys, size)).reshape(number, size)


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 1000, 4099, 65_537])
def test_it_is_a_bijection(size):
    for seed in range(3):
        image = whole(size, make_key(seed))
        assert image.dtype == np.int64
        np.testing.assert_array_equal(np.sort(image), np.arange(size))


def test_large_sizes_stay_in_range_and_apart():
    for size in (2**31 - 1, 2**32 + 15, 10**12):
        index = np.concatenate([np.arange(5000), np.arange(size - 5000, size)])
        image = permute(index, np.array([size]), make_key("large"))
        assert image.min() >= 0
        assert image.max() < size
        assert len(np.unique(image)) == len(index)
        assert abs(np.mean(image / size) - 0.5) < 0.015  # of uniform numbers, the deviation is 0.003


def test_each_index_is_computed_alone():
    sizes = np.array([1, 2, 3, 10, 10, 1000, 7])
    index = np.array([0, 1, 2, 9, 4, 777, 0])
    keys = derive(make_key("x"), np.arange(7))
    together = permute(index, sizes, keys)
    for n in range(7):
        alone = permute(index[n : n + 1], sizes[n : n + 1], keys[n : n + 1])
        assert alone[0] == together[n]


def mixed(x: int) -> int:
    """SplitMix64's output function in Python's integers, as published by Vigna."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def reference(index: int, size: int, key: int) -> int:
    """`permute` of one index."""

    def random(number: int) -> int:
        return mixed((key + 0x9E3779B97F4A7C15 * (number + 1)) % 2**64) >> 8

    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    while True:
        row, column = divmod(index, height)
        for step in range(0, 12, 2):
            row = (row + random(12 * column + step)) % width
            column = (column + random(12 * row + step + 1)) % height
        index = row * height + column
        if index < size:
            return index


def test_it_is_what_is_described():
    """A run that is resumed with a later version has the same batches only if no bit of this changes."""
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first output for the seed 0
    for size in (1, 2, 3, 5, 36, 37, 1000, 10**9 + 7):
        key = make_key("pairs", 7)
        index = np.unique(np.linspace(0, size - 1, 20).astype(np.int64))
        expected = [reference(int(one), size, int(key[0])) for one in index]
        assert permute(index, np.array([size]), key).tolist() == expected
    assert make_key("pairs", 7).tolist() == [int.from_bytes(blake2b(b"pairs 7", digest_size=8).digest(), "little")]
    assert whole(10, make_key("pairs", 7)).tolist() == [6, 7, 8, 5, 3, 9, 0, 2, 1, 4]


def chi_square(counts: np.ndarray) -> float:
    """Pearson's statistic against equal counts, in standard deviations from its mean."""
    expected, freedom = counts.mean(), counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 10, 16, 29])
def test_positions_and_pairs_are_uniform_over_keys(size):
    """Compared with NumPy's permutations, which give -2 to 2 as well."""
    images = many(size, 20_000)
    positions = np.stack([np.bincount(images[:, index], minlength=size) for index in range(size)])
    # Rows and columns have fixed sums, which leaves (size - 1) squared degrees of freedom.
    statistic = ((positions - 20_000 / size) ** 2 / (20_000 / size)).sum()
    assert abs(statistic - (size - 1) ** 2) < 4 * np.sqrt(2) * (size - 1)
    for first, second in ((0, 1), (0, size - 1), (size // 2, size - 1)):
        if first == second:
            continue
        codes = np.bincount(images[:, first] * size + images[:, second], minlength=size**2)
        possible = [a * size + b for a, b in itertools.permutations(range(size), 2)]
        assert codes.sum() == codes[possible].sum()
        if size > 2:
            assert abs(chi_square(codes[possible])) < 4


def test_all_orders_of_four_are_equally_likely():
    images = many(4, 24_000)
    counts = np.unique(images @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert abs(chi_square(counts)) < 4


def test_one_permutation_has_no_trend():
    """Neighbours are sent far apart, in either direction: like a random order, up to four standard deviations."""
    for size in (10_000, 9973):
        image = whole(size, make_key("trend", size))
        ascending = np.count_nonzero(np.diff(image) > 0)
        assert abs(ascending - (size - 1) / 2) < 4 * np.sqrt(size / 12)
        assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 4 / np.sqrt(size)
        assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 4 / np.sqrt(size)
        grid = np.bincount(np.arange(size) * 20 // size * 20 + image * 20 // size, minlength=400)
        assert abs(chi_square(grid)) < 4


def test_keys_differ_by_each_part_and_permutations_by_key():
    keys = [make_key("rows", 0, 1), make_key("rows", 1, 0), make_key("pairs", 0, 1), make_key("rows", 0, 2**70)]
    keys += [derive(keys[0], np.array([n])) for n in range(100)]
    assert len({int(key[0]) for key in keys}) == len(keys)
    images = [whole(1000, key) for key in keys]
    for one, other in itertools.combinations(images, 2):
        assert (one == other).sum() < 12  # equal at one position in the mean
