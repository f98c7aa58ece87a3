"""The lowered step and the analysis of its program for `compiled.py`."""
