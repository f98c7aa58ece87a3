"""The parts of `benchmarks/compiled.py` that lower the step and analyse the compiled program."""
