"""What `accelerator.py` measures. Each part runs in processes of its own, started by `accelerators/child.py`."""
