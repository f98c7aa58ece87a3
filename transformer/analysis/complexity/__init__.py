"""What a layer costs (section 4, Table 1): as formulas, as XLA counts it, and as this device takes its time."""
