"""What a training run will cost, from its compiled step and without running it."""
