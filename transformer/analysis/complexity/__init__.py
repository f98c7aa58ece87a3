"""What a layer costs by formula, in counted operations and in time (Table 1)."""
