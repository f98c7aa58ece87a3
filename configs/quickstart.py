"""A first run that takes minutes on two CPU cores.

Source: a synthetic English-German corpus, which comes with the package. tools/grammar/ generates it.
Command: python train.py
Score: 96.95 % exact match on the held-out combinations of the test set, 97.1 % of the sentences with a personal
    pronoun and 94.3 % of those with a possessive one (2026-11-28).
Time: 3 minutes 37 seconds on two AMD Zen 4 cores shared with another job, including compilation.
"""

from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig

config = Config(
    run_dir="runs/quickstart",
    data=DataConfig(corpus="package:quickstart.jsonl.xz", max_length=64),
    model=ModelConfig(
        vocabulary_size=2000,
        d_model=128,
        num_heads=4,
        d_ff=256,
        num_encoder_layers=2,
        num_decoder_layers=2,
        norm_position="pre",
        dropout=0.0,
        max_positions=128,
    ),
    optimizer=OptimizerConfig(schedule="inverse_sqrt", peak=4e-3, warmup_steps=200, final_fraction=0.5),
    training=TrainingConfig(steps=1500, batch_tokens=2048, pack_length=64, validate_every=750, log_every=100),
    search=SearchConfig(beam_size=1),
)
