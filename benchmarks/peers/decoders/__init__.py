"""The programs of `benchmarks/decoding.py`: each translates the same sentences with the same weights."""
