"""The programs of `benchmarks/training.py`: each trains the same model on the same batches, in a process of its own.

Those of `benchmarks/decoding.py` are in `decoders/`.
"""
