"""The programs of `benchmarks/training.py`, all of which train one model.

The programs of `benchmarks/decoding.py` are in `decoders/`.
"""
