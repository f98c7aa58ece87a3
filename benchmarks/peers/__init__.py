"""The programs of `benchmarks/training.py`, which train the same model on the same batches.

The programs of `benchmarks/decoding.py` are in `decoders/`.
"""
