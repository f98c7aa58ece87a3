"""Keyed permutations of range(n), computed for single indices without listing the others.

The numbers come from SplitMix64 (Steele, Lea and Flood 2014). A permutation is a generalized Feistel network with cycle
walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6  # with 4, permutations of 5 elements are visibly not uniform


def make_key(*parts: object) -> np.ndarray:
    """Makes a key [1] of 64 bits from any values, by their text."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def derive(key: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Makes a key from another one and a number from 0, elementwise."""
    return _mix(key + _GOLDEN * (number.astype(np.uint64) + np.uint64(1)))


def permute(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Computes where keyed permutations send indices.

    The key and the size choose a permutation of range(size). In expectation the network is applied less than
    1 + 2 / sqrt(size) times.

    Args:
        index: Indices [N], each below its size.
        size: Numbers of elements, [N] or [1].
        key: Keys of 64 bits, [N] or [1].

    Returns: The images [N] (int64), each below its size.
    """
    image = index.astype(np.uint64)
    size, key = (np.broadcast_to(x.astype(np.uint64), image.shape) for x in (size, key))
    width = np.ceil(np.sqrt(size)).astype(np.uint64)
    height = (size + width - np.uint64(1)) // width
    left = np.arange(len(image))
    while len(left):  # an image outside of range(size) is sent on until it is inside
        image[left] = _feistel(image[left], width[left], height[left], key[left])
        left = left[image[left] >= size[left]]
    return image.astype(np.int64)


def _feistel(index: np.ndarray, width: np.ndarray, height: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A permutation of range(width x height), which shifts rows and columns in turn."""
    row, column = np.divmod(index, height)
    for number in range(0, 2 * _ROUNDS, 2):
        row = (row + _random(key, column, number)) % width
        column = (column + _random(key, row, number + 1)) % height
    return row * height + column


def _random(key: np.ndarray, index: np.ndarray, number: int) -> np.ndarray:
    """Numbers of 56 bits, so that adding an index does not overflow."""
    return derive(key, index * np.uint64(2 * _ROUNDS) + np.uint64(number)) >> np.uint64(8)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
