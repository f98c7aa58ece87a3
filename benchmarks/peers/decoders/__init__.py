"""The programs of `benchmarks/decoding.py`, which translate the same sentences with the same weights."""
