"""The programs of `benchmarks/decoding.py`, which translate with one model."""
