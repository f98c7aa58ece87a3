"""The first run: a synthetic corpus that comes with the package, a small model, minutes on two CPU cores.

Source: tools/grammar/, a synchronous grammar of English and German, has generated the pairs.
Command: python train.py
Score: 97.60 % exact match on the test set's held-out combinations, pronouns 98.7 %, possessives 96.2 % (2026-11-27);
    96.05 and 96.45 % for the seeds 1 and 2.
Time: 3 minutes 37 seconds on two AMD Zen 4 cores shared with another job, compilation included.
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
