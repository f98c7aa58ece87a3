"""Parts of `benchmarks/compiled.py`: the step for accelerators that are not there, and what its program consists of."""
